"""Classification: which of some labels a model finds most probable as the target of a text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from plait.data.pairs import found_in, target_in
from plait.errors import ConfigError, InputError, about
from plait.infer.engine import Engine
from plait.infer.likelihood import BATCH, check, likelihoods
from plait.infer.params import BeamParams
from plait.tasks.conversation import converses
from plait.tasks.shorten import shortened
from plait.tasks.task import Task, source_of, spoken_ids
from plait.text.document import Document

SHOWN = 20  # labels that a message names
Question = tuple[list[int], list[list[int]]]  # the tokens of a text, and those of each label after it


@dataclass(frozen=True)
class Classification:
    """What a text is: the most probable label, and the probability of each, most probable first."""

    label: str
    probabilities: dict[str, float]


def label_of(document: Document) -> list[str]:
    """The right label: a pair's target, or the field `label`.

    Raises:
        InputError: a record without one.
    """
    label = target_in(document)
    label = document.record.get("label") if label is None else label
    if label is None or not str(label).strip():
        raise InputError(
            f"{document.id} holds {found_in(document)}; a text and its label are needed, neither empty: "
            "--field source=TEXT --field target=LABEL"
        )
    return [label if isinstance(label, str) else json.dumps(label)]  # as the target of a pair is written


def labels_of(engine: Engine, given: Sequence[str] = (), questions: Iterable[Document] = ()) -> list[str]:
    """The labels to choose from: those given, else those the model learned, else those of the questions.

    Raises:
        ConfigError: fewer than two, or one that is empty or named twice.
        InputError: questions whose labels are others.
    """
    due = {label_of(question)[0]: question.id for question in reversed(list(questions))}
    if isinstance(given, str):
        raise ConfigError(f"labels={given!r} is one text; give a list of labels")
    labels = list(given) or engine.labels or sorted(due)
    if not labels:
        raise ConfigError(
            f"{engine.name} does not say which labels it has learned; name them: --labels good bad"
        )
    if len(labels) < 2 or len(set(labels)) < len(labels) or not all(label.strip() for label in labels):
        raise ConfigError(f"labels must be two or more different words, not {_some(map(repr, labels))}")
    if others := sorted(due.keys() - set(labels)):
        raise InputError(
            f"the data has labels that are not among {_some(labels)}: {_some(others)} (first: "
            f"{due[others[0]]}); name all of them with --labels, or correct the data"
        )
    return labels


def _some(labels: Iterable[str]) -> str:
    """The first labels of perhaps very many."""
    named = list(labels)
    more = f" and {len(named) - SHOWN:,} more" if len(named) > SHOWN else ""
    return ", ".join(named[:SHOWN]) + more


def questions_of(
    engine: Engine, documents: Sequence[Document], labels: Sequence[str], *, truncate: bool = False
) -> list[Question]:
    """The tokens of all texts and labels, before any is classified.

    A text is a source, what a user says, or, for a model of running text, what the labels continue.

    Args:
        truncate: cut texts that do not fit, in place of refusing them.

    Raises:
        PromptError: a text that does not fit the model's context, by its id.
    """
    answers = label_ids(engine, labels)
    if truncate:
        documents = shortened(documents, source_of, *fit(engine, answers))
    return [question_of(engine, document, answers) for document in documents]


def label_ids(engine: Engine, labels: Sequence[str]) -> list[list[int]]:
    """The tokens of each label, and the end where a model has learned to write one."""
    tokenizer = engine.tokenizer
    end = next(iter(tokenizer.stop_ids), None) if tokenizer.eos_id is None else tokenizer.eos_id
    ends = [] if _continues(engine) or end is None else [end]
    return [[*tokenizer.encode_plain(label), *ends] for label in labels]


def question_of(engine: Engine, document: Document, answers: list[list[int]]) -> Question:
    """The tokens of a text with those of `label_ids`.

    Raises:
        PromptError: a text that does not fit the model's context, by its id.
    """
    with about(document.id):
        prompt = _prompt_of(engine, document)
        check(engine, prompt, answers)
    return prompt, answers


def fit(engine: Engine, answers: list[list[int]]) -> tuple[Callable[[Document], int], int]:
    """How many tokens a text takes, and how many it may take beside those of `label_ids`."""
    longest = 0 if engine.encodes else max(map(len, answers)) - 1
    return lambda document: len(_prompt_of(engine, document)), engine.context - longest


def _prompt_of(engine: Engine, document: Document) -> list[int]:
    if engine.encodes:
        return engine.encode(source_of(document))
    if _continues(engine):
        return [*engine.tokenizer.around[0], *engine.tokenizer.encode_plain(source_of(document))]
    return spoken_ids(engine, document, source_of)


def _continues(engine: Engine) -> bool:
    """Whether labels continue a text, which is then neither read by an encoder nor said by a user."""
    return not engine.encodes and not converses(engine)


def classify(
    engine: Engine,
    questions: Sequence[Question],
    labels: Sequence[str],
    *,
    per_token: bool = False,
    batch: int = BATCH,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Classification]:
    """The label of each of `questions_of`: the one whose tokens, its end with them, are most probable.

    Args:
        per_token: compare means over a label's tokens, not sums, which favour short labels.
        batch: labels computed together; changes the speed, not the result.
    """
    prompts, answers = [prompt for prompt, _ in questions], [some for _, some in questions]
    found = likelihoods(engine, prompts, answers, batch=batch, advance=advance)
    sizes = [[len(answer) if per_token else 1 for answer in some] for some in answers]
    return [
        _classified(labels, [one.logprob / size for one, size in zip(some, lengths)])
        for some, lengths in zip(found, sizes)
    ]


def _classified(labels: Sequence[str], scores: Sequence[float]) -> Classification:
    best = max(scores)
    shares = [math.exp(score - best) for score in scores]
    order = sorted(range(len(labels)), key=lambda at: -shares[at])  # the first among equals
    return Classification(labels[order[0]], {labels[at]: shares[at] / sum(shares) for at in order})


TASK = Task("classify", BeamParams(beams=1), ("accuracy", "macro_f1"), source_of, label_of)
