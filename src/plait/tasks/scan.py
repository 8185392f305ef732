"""SCAN (Lake & Baroni 2018): commands to actions, right where every action is."""

from plait.infer.params import BeamParams
from plait.tasks.task import Task, source_of, target_of

TASK = Task("scan", BeamParams(beams=1), ("accuracy",), source_of, target_of, format="scan")
