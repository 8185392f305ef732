"""What every metric of written outputs takes: `hypotheses=[text, ...]`, `references=[[text, ...], ...]`."""

from __future__ import annotations

from collections.abc import Sequence

from plait.errors import InputError

Texts = Sequence[str]
References = Sequence[Sequence[str | None]]  # one list a reference set; None where a sample has fewer


def check(hypotheses: Texts, references: References, *, none: bool = False) -> list[list[str]]:
    """Refuse what is not one text a sample against lists of as many; return the references of each sample.

    Args:
        hypotheses: the outputs to score.
        references: one list for each set of references, each as long as the hypotheses.
        none: whether a sample may have no reference.

    Raises:
        InputError: empty lists, other types, different lengths; the two handed over in the wrong order.
    """
    _check_kinds(hypotheses, references)
    for number, texts in enumerate(references, 1):
        if len(texts) != len(hypotheses):
            raise InputError(
                f"there are {len(hypotheses)} hypotheses and {len(texts)} references in set {number}; "
                "give one of each for every sample, in the same order"
            )
    samples = [[text for text in sample if text is not None] for sample in zip(*references)]
    if not none and (empty := [number for number, sample in enumerate(samples, 1) if not sample]):
        raise InputError(f"sample {empty[0]} has no reference; give at least one for every hypothesis")
    return samples


def _check_kinds(hypotheses: Texts, references: References) -> None:
    form = "give hypotheses=[text, ...] and references=[[text, ...], ...], one list a reference set"
    for name, values in (("hypotheses", hypotheses), ("references", references)):
        if isinstance(values, str):
            raise InputError(f"{name} is one text, not a list; {form}")
        if not len(values):
            raise InputError(f"{name} is empty; {form}")
    if nested := [number for number, text in enumerate(hypotheses, 1) if isinstance(text, (list, tuple))]:
        raise InputError(
            f"hypotheses holds a list (sample {nested[0]}), as only references may; they look swapped: {form}"
        )
    if any(isinstance(texts, str) for texts in references):
        raise InputError(
            "references holds texts, as hypotheses does, and must hold lists of texts; they look swapped, or "
            f"references lacks a pair of brackets: {form}"
        )
    for name, values in (("hypotheses", hypotheses), *(("references", texts) for texts in references)):
        wrong = [value for value in values if not isinstance(value, str)]
        if wrong and (name == "hypotheses" or any(value is not None for value in wrong)):
            raise InputError(f"{name} holds {type(wrong[0]).__name__} {wrong[0]!r:.40}, not text; {form}")
