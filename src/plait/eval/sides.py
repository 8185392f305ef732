"""Whether hypotheses and references stand in each other's place, as far as names and contents tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from plait import log
from plait.errors import InputError
from plait.eval.samples import first_record

# words in the names of outputs of a system, those that say so and those that may, and of what is given
OUTPUTS = (
    re.compile("hyp(o|s|os)?|hypothes[ie]s|pred(iction)?s?"),
    re.compile("out(put)?s?|candidates?|completions?|translations?|generat(ed|ions?)"),
)
GIVEN = re.compile("ref(erence)?s?|gold"), re.compile("targets?|expected")
SURE, FOLDER = 2, 1


def check_sides(
    hypotheses: str, hypotheses_in: Sequence[str], references: Sequence[str], references_in: Sequence[str]
) -> None:
    """Refuse two sides that are swapped by what they hold or are called, and warn where they may be.

    Args:
        hypotheses_in, references_in: the fields that are read, where a side is records.

    Raises:
        InputError: references that plait wrote as answers; names such as `ref` and `hyp` on the wrong sides.
    """
    swapped = "are --hypotheses and --references swapped?"
    for path in references:
        if path == hypotheses and references_in == hypotheses_in:
            continue  # compared with itself
        row = first_record(path) if {"completion", "prediction"} & set(references_in) else {}
        if model := row.get("made_with"):
            raise InputError(f"{path}, the references, holds answers made with {model!s:.60}; {swapped}")
        ours, theirs = _leaning(hypotheses, hypotheses_in, path), _leaning(path, references_in, hypotheses)
        if ours < 0 < theirs or (ours == 0 and theirs == SURE) or (theirs == 0 and ours == -SURE):
            raise InputError(
                f"{hypotheses} and {path} look like references and hypotheses by their names; {swapped} "
                "If not, rename one"
            )
        if theirs > 0:
            log.warn(f"{path}, the references, looks like outputs by its name; {swapped}")
        if ours < 0 and theirs == 0:
            log.warn(f"{hypotheses}, the hypotheses, looks like references by its name; {swapped}")


def _leaning(path: str, fields: Sequence[str], other: str) -> int:
    """Above zero where a side is called what outputs are called, below where it is called what is given.

    Its fields tell first, then the name of its file, then its folder, which cannot be sure.
    """
    folder, other_folder = Path(path).parent.name, Path(other).parent.name
    if told := _told(" ".join(fields)) or (path != other and _told(Path(path).name)):
        return told
    return 0 if folder == other_folder else max(-FOLDER, min(_told(folder), FOLDER))


def _told(name: str) -> int:
    words = re.findall("[a-z]+", name.lower())
    made, given = (
        max((weight for weight, so in zip((SURE, 1), kind) if any(map(so.fullmatch, words))), default=0)
        for kind in (OUTPUTS, GIVEN)
    )
    return 0 if made and given else made - given
