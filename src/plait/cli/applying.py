"""Verbs that put a model to use: translate, summarize, answer, classify, complete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Group, Parameter

from plait.cli.app import Answers, Sampling, Where, Words, fields_of, flowing

Prefix = Annotated[str | None, Parameter(allow_leading_hyphen=True)]


@Parameter(name="*", group=Group("Files"))
@flowing
@dataclass(frozen=True, kw_only=True)
class Files:
    """A file of texts, and where the answers go.

    Args:
        input: A file: plain lines, or records (.jsonl, .csv, ...).
        field: Which column of the records holds what, where it has another name: source=body.
        output: Answers to --input: records, where the name ends in .jsonl, else line n to line n.
        batch: Texts, or labels of texts, computed together; changes speed and memory, no answer.
    """

    input: str | None = None
    field: Words = None
    output: str | None = None
    batch: int = 32

    def given(self) -> dict[str, Any]:
        """As the recipes take them."""
        return {
            "input": self.input, "fields": fields_of(self.field), "output": self.output, "batch": self.batch,
        }  # fmt: skip


def translate(
    model: str,
    text: str | None = None,
    /,
    *,
    files: Files = Files(),
    truncate: bool = False,
    beams: Answers = Answers(),
    where: Where = Where(),
) -> None:
    """Translate a text, a file (resumable), or what is typed line by line.

    For example:

        plait translate runs/en-de "a man rides a bike ."
        plait translate runs/en-de --input test.en --output test.de

    Args:
        model: A model, step or run directory (RUN:best, RUN:average).
        text: The text; without it and --input, lines are read from the terminal or a pipe.
        truncate: Read only the beginning of a text that leaves no room for its answer in the context.
    """
    _apply("translate", model, text, truncate, files, beams, where)


def summarize(
    model: str,
    text: str | None = None,
    /,
    *,
    files: Files = Files(),
    truncate: bool = False,
    beams: Answers = Answers(),
    where: Where = Where(),
) -> None:
    """Summarize a text, a file of texts (resumable), or what is typed line by line.

    For example:

        plait summarize runs/mail "Hi Phillip, this is to confirm our meeting on Tuesday ..."
        plait summarize runs/mail --input mails.csv --field source=body --output subjects.txt

    Args:
        model: A model, step or run directory (RUN:best, RUN:average).
        text: The text; without it and --input, lines are read from the terminal or a pipe.
        truncate: Read only the beginning of a text that leaves no room for its answer in the context.
    """
    _apply("summarize", model, text, truncate, files, beams, where)


def classify(
    model: str,
    text: str | None = None,
    /,
    *,
    labels: Words = None,
    per_token: bool = False,
    files: Files = Files(),
    truncate: bool = False,
    where: Where = Where(),
) -> None:
    """Say which of some labels a text has, and how probable each is; of a file too (resumable).

    For example:

        plait classify runs/mood "what a lovely day"
        plait classify runs/mood --labels good bad --input in.txt --output out.txt

    Args:
        model: A model, step or run directory (RUN:best, RUN:average).
        text: The text; without it and --input, lines are read from the terminal or a pipe.
        labels: The labels to choose from; default: those that the model was trained on.
        per_token: Compare labels by their probability a token, which is fair to long ones.
        truncate: Read only the beginning of a text that leaves no room for its answer in the context.
    """
    from plait.recipes.classify import classify as run

    run(
        model, text, labels=labels or (), per_token=per_token, truncate=truncate, **files.given(),
        **vars(where),
    )  # fmt: skip


def answer(
    model: str,
    question: str | None = None,
    /,
    *,
    context: str | None = None,
    documents: Words = None,
    passages: int | None = None,
    files: Files = Files(),
    truncate: bool = False,
    beams: Answers = Answers(),
    where: Where = Where(),
) -> None:
    """Answer a question: alone, from a context, or from documents, naming the passages that were read.

    For example:

        plait answer runs/qa "Where is Anna?" --context "Anna is in the garden. Ben is at home."
        plait answer runs/qa "谁写了这封信？" --documents notes/

    Args:
        model: A model, step or run directory (RUN:best, RUN:average).
        question: The question; without it and --input, lines are read from the terminal or a pipe.
        context: A text to read the answer in, or the file that holds it.
        documents: Files and folders to search for what a question is about, in place of --context.
        passages: With --documents, passages the model reads for a question, if they fit; default: 3.
        truncate: Read only the beginning of a context that leaves no room for the question and its answer.
    """
    from plait.recipes.answer import answer as run

    run(
        model, question, context=context, documents=documents or (), passages=passages,
        truncate=truncate, decoding=beams.given(), **files.given(), **vars(where),
    )  # fmt: skip


def complete(
    model: str,
    prefix: Prefix = None,
    /,
    *,
    suffix: Prefix = None,
    files: Files = Files(),
    beams: Answers = Answers(),
    where: Where = Where(),
) -> None:
    """Continue a text or program in the most probable way, or fill in what stands before a suffix.

    For example:

        plait complete runs/code "def area(r):"
        plait complete runs/code "def area(r):" --suffix "    return result"

    Args:
        model: A decoder: a model, step or run directory (RUN:best, RUN:average).
        prefix: The beginning; without it and --input, lines are read from the terminal or a pipe.
        suffix: What comes after the completion; the model must have learned with data.fim.
    """
    from plait.recipes.complete import complete as run

    run(model, prefix, suffix=suffix, decoding=beams.given(), **files.given(), **vars(where))


def _apply(
    name: str, model: str, text: str | None, truncate: bool, files: Files, beams: Answers, where: Where
) -> None:
    from plait.recipes.apply import apply_task

    apply_task(name, model, text, truncate=truncate, decoding=beams.given(), **files.given(), **vars(where))


def chat(
    model: str,
    text: str | None = None,
    /,
    *,
    system: str | None = None,
    files: Files = Files(),
    sampling: Sampling = Sampling(),
    where: Where = Where(),
) -> None:
    """Talk with a model in the terminal, or answer a file of conversations (resumable).

    It remembers as much as its context holds.

    For example:

        plait chat runs/quickstart
        plait chat runs/quickstart "What does os.path.join do?"
        plait chat runs/quickstart --input talks.jsonl --output answers.jsonl --system "Be brief."

    Records hold messages, of which the last one is answered; a plain line is what a user says.

    Args:
        model: A model, step or run directory.
        text: One message to answer; without it and --input, you talk.
        system: An instruction that stands before the conversation.
    """
    from plait.recipes.chat import chat as run

    run(model, text, system=system, sampling=sampling.given(), **files.given(), **vars(where))
