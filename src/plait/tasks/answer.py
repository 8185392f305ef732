"""Question answering: a question, with a context to read it in or without one."""

from plait.infer.params import BeamParams
from plait.tasks.task import Task, source_of
from plait.text.document import Document


def answers_of(document: Document) -> list[str]:
    """Every right answer; none where the context holds none (SQuAD 2.0)."""
    return document.record.get("answers") or [""]


TASK = Task("answer", BeamParams(beams=1, max_tokens=64), ("squad_em", "squad_f1"), source_of, answers_of)
