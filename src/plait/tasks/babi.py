"""bAbI (Weston et al. 2015): a story, a question, one answer; twenty tasks, scored one by one."""

from plait.infer.params import BeamParams
from plait.tasks.task import Task, source_of, target_of
from plait.text.document import Document


def task_number(document: Document) -> str | None:
    """`task 08`, where the file's name says so."""
    number = document.record.get("task")
    if number is None:
        return None
    return f"task {number:02d}" if isinstance(number, int) else f"task {number}"


TASK = Task(
    "babi",
    BeamParams(beams=1, max_tokens=32),
    ("accuracy",),
    source_of,
    target_of,
    format="babi",
    group=task_number,
)
