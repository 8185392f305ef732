"""`plait classify`: which of some labels a text has, for one text, a file of them, or what is typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from plait.recipes.answers_file import Made
from plait.recipes.apply import Application, made_with, read_request, respond, with_remedy
from plait.text.document import Document


def classify(
    model: str | Path,
    text: str | None = None,
    *,
    labels: Sequence[str] = (),
    per_token: bool = False,
    truncate: bool = False,
    input: str | Path | None = None,
    output: str | Path | None = None,
    fields: Mapping[str, str | int] | None = None,
    batch: int = 32,
    device: str = "cpu",
    dtype: str | None = None,
) -> None:
    """Print the labels of a text with their probabilities, or classify every record of a file.

    Args:
        model: a model, step or run directory.
        labels: the labels to choose from; those the model learned unless given.
        per_token: see `plait.tasks.classify.classify`.
        truncate: see `plait.recipes.apply.apply_task`.
        input, output, fields, batch: see `plait.recipes.apply.read_request`; plain lines hold labels.

    Raises:
        ConfigError: no labels, or fewer than two.
        InputError: no text, one that does not fit, an output that is there already.
        ModelError: the model cannot be loaded.
    """
    request = read_request(text, input, output, batch, fields)
    from plait.infer.engine import Engine
    from plait.tasks import classify as task

    engine = Engine(model, device=device, dtype=dtype)
    names = task.labels_of(engine, labels)

    def answer(questions: list[task.Question]) -> list[Made]:
        found = task.classify(engine, questions, names, per_token=per_token, batch=batch)
        return [[_row(one)] for one in found]

    def _row(found: task.Classification) -> dict:
        shares = {label: round(share, 6) for label, share in found.probabilities.items()}
        return {"prediction": found.label, "probabilities": shares}

    compared = "per_token" if per_token else "whole"
    application = Application(
        "classify",
        ask=lambda text: Document("text", text),
        check=with_remedy(
            lambda documents: task.questions_of(engine, documents, names, truncate=truncate), truncate
        ),
        answer=answer,
        show=lambda rows: "\n".join(f"{k}\t{share:.4f}" for k, share in rows[0]["probabilities"].items()),
        line=lambda row: row["prediction"],
        made_with=made_with(engine, f"labels:{','.join(names)}|compared:{compared}"),
    )
    respond(request, application)
