"""Summarization: a long text, a short one that says the same."""

from plait.infer.params import BeamParams
from plait.tasks.task import Task, source_of, target_of

TASK = Task(
    "summarize", BeamParams(beams=4, no_repeat_ngram=3), ("rouge1", "rouge2", "rougeL"), source_of, target_of
)
