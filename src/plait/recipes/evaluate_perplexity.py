"""`plait evaluate MODEL`: the perplexity of running text that the model has not seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plait import __version__, log
from plait.errors import InputError, ModelError
from plait.eval.scores import Score, describe_data, signature
from plait.text.document import Document
from plait.text.readers import read

if TYPE_CHECKING:
    from plait.infer.engine import Engine


def running_texts(
    data: str | Path | Sequence[str | Path], format: str, fields: Mapping[str, str | int] | None
) -> Iterator[Document]:
    """The documents of some data, see `plait.text.readers.read`.

    Raises:
        InputError: one without running text.
    """
    for document in read(data, format=format, fields=fields):
        if not document.text:
            found = ", ".join(document.record) or "nothing"
            raise InputError(f"{document.id} holds {found}; perplexity needs running text (a field `text`)")
        yield document


def evaluate_perplexity(
    *,
    engine: Engine,
    documents: Sequence[Document],
    limit: int | None = None,
    context: int | None = None,
    stride: int | None = None,
    batch: int = 8,
) -> list[Score]:
    """Perplexity, bits per byte and nats per token; see `plait.eval.perplexity.perplexity`.

    Args:
        limit: how many documents were asked for, for the signature.

    Raises:
        ConfigError: sizes that cannot be.
        ModelError: an encoder-decoder.
    """
    import torch

    from plait.eval.perplexity import encode_document, perplexity

    if engine.encodes:
        raise ModelError(
            f"{engine.name} is an encoder-decoder, which gives no probability to a text without its source; "
            "measure a task, such as --task translate"
        )

    encoded = [encode_document(engine.tokenizer, document.text) for document in documents]
    with log.progress("perplexity: tokens", sum(len(tokens) - 1 for tokens, _ in encoded)) as bar:
        result = perplexity(
            engine.model, encoded, context=context, stride=stride, batch=batch, advance=bar.advance
        )
    context = engine.context if context is None else context
    settings = signature(
        context=context,
        stride=max(context // 2, 1) if stride is None else stride,
        limit=limit or "none",
        ends="scored" if engine.tokenizer.eos_id is not None else "none",
        interval=f"95% over {result.units}",
        dtype=engine.dtype,
        tokenizer=engine.tokenizer.fingerprint[:12],
        plait=__version__,
        torch=torch.__version__,
    )
    files = describe_data(document.id.rpartition("#")[0] for document in documents)
    counts = {"documents": result.documents, "tokens": result.tokens, "bytes": result.bytes}
    samples = result.documents if result.units == "documents" else result.windows
    metrics = ("perplexity", "bits_per_byte", "nats_per_token")
    return [
        Score(
            task="perplexity",
            metric=metric,
            value=getattr(result, metric),
            interval=result.interval(metric),
            n=samples,
            signature=settings,
            data=files,
            counts=counts,
        )
        for metric in metrics
    ]


def show_perplexity(name: str, scores: Sequence[Score]) -> None:
    """A table of the scores and, below it, how they were made."""
    counts = scores[0].counts
    title = (
        f"{name}: {counts['documents']:,} documents, {counts['tokens']:,} tokens, {counts['bytes']:,} bytes"
    )
    rows = []
    for score in scores:
        spread = "unknown" if score.interval is None else "{:.4f} to {:.4f}".format(*score.interval)
        rows.append((score.metric, f"{score.value:.4f}", spread))
    log.table(title, ("metric", "value", "95 % interval"), rows, stdout=True)
    log.say(scores[0].signature)
