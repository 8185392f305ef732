"""Counters and gauges for Prometheus, in a registry of the application's own."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from plait.serve.worker import Worker

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """What `/metrics` shows."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, worker: Worker) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "plait_requests", "Answered requests.", ["route", "status"], registry=registry
        )  # fmt: skip
        self.prompt_tokens = Counter("plait_prompt_tokens", "Tokens read in prompts.", registry=registry)
        self.completion_tokens = Counter("plait_completion_tokens", "Tokens generated.", registry=registry)
        self.first_token = Histogram(
            "plait_time_to_first_token_seconds",
            "From the arrival of a request to its first token.",
            buckets=SECONDS,
            registry=registry,
        )
        self.cancelled = Counter(
            "plait_cancelled", "Requests whose client left before the answer was complete.", registry=registry
        )
        running = Gauge("plait_running", "Requests the engine works on.", registry=registry)
        running.set_function(lambda: worker.running)
        waiting = Gauge("plait_queue_length", "Requests waiting for the engine.", registry=registry)
        waiting.set_function(lambda: worker.waiting)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
