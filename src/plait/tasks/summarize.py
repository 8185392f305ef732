"""Summarization: a long text, a short one that says the same."""

from plait.infer.params import BeamParams
from plait.tasks.task import Task, source_of, target_of

TASK = Task(
    "summarize",
    # a decoder reads a text in what its answer leaves of the context: no more than a paragraph is set aside
    BeamParams(beams=4, no_repeat_ngram=3, max_tokens=128),
    ("rouge1", "rouge2", "rougeL"),
    source_of,
    target_of,
)
