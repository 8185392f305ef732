"""Translation: a source in one language, a target in another."""

from plait.infer.params import BeamParams
from plait.tasks.task import Task, source_of, target_of

TASK = Task("translate", BeamParams(beams=5), ("bleu", "chrf"), source_of, target_of)
