"""`plait evaluate MODEL`: the perplexity of running text that the model has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from plait import __version__, log
from plait.data.pairs import found_in
from plait.errors import InputError, ModelError
from plait.eval.scores import Score, describe_data, signature
from plait.recipes.evaluate_outputs import Paths
from plait.recipes.questions import files_read
from plait.text.document import Document
from plait.text.readers import read

if TYPE_CHECKING:
    from plait.eval.perplexity import Perplexity
    from plait.infer.engine import Engine

METRICS = ("perplexity", "bits_per_byte", "nats_per_token")


def perplexity_of(
    data: Paths,
    *,
    format: str = "auto",
    fields: Mapping[str, str | int] | None = None,
    limit: int | None = None,
    context: int | None = None,
    stride: int | None = None,
    batch: int = 8,
) -> Callable[[Engine], list[Score]]:
    """What measures an engine on some data, which are read at once: `METRICS`.

    Args:
        data, format, fields: see `plait.text.readers.read`.
        limit: only the first documents.
        context, stride, batch: see `plait.eval.perplexity.perplexity`.

    Raises:
        InputError: data that cannot be read, or hold other than running text.
    """
    documents = list(islice(_running_texts(read(data, format=format, fields=fields)), limit))
    files = describe_data(files_read(data) or [document.id.rpartition("#")[0] for document in documents])

    def measure(engine: Engine) -> list[Score]:
        result = _perplexity(engine, documents, context=context, stride=stride, batch=batch)
        window = engine.context if context is None else context
        step = max(window // 2, 1) if stride is None else stride
        settings = _settings(engine, result, context=window, stride=step, limit=limit or "none")
        counts = {"documents": result.documents, "tokens": result.tokens, "bytes": result.bytes}
        samples = result.documents if result.units == "documents" else result.windows
        return [
            Score(
                task="perplexity", metric=metric, value=getattr(result, metric), n=samples, data=files,
                interval=result.interval(metric), signature=settings, counts=counts,
            )
            for metric in METRICS
        ]  # fmt: skip

    return measure


def _running_texts(documents: Iterable[Document]) -> Iterator[Document]:
    for document in documents:
        if not document.text:
            raise InputError(
                f"{document.id} holds {found_in(document)}; perplexity needs running text (a field `text`)"
            )
        yield document


def _perplexity(
    engine: Engine, documents: Sequence[Document], *, context: int | None, stride: int | None, batch: int
) -> Perplexity:
    from plait.eval.perplexity import encode_document, perplexity

    if engine.encodes:
        raise ModelError(
            f"{engine.name} is an encoder-decoder, which gives no probability to a text without its source; "
            "measure a task, such as --task translate"
        )
    encoded = [encode_document(engine.tokenizer, document.text) for document in documents]
    with log.progress("perplexity: tokens", sum(len(tokens) - 1 for tokens, _ in encoded)) as bar:
        return perplexity(
            engine.model, encoded, context=context, stride=stride, batch=batch, advance=bar.advance
        )


def _settings(engine: Engine, result: Perplexity, **sizes: int | str) -> str:
    """What the numbers depend on."""
    import torch

    return signature(
        **sizes,
        ends="scored" if engine.tokenizer.eos_id is not None else "none",
        interval=f"95% over {result.units}",
        dtype=engine.dtype,
        tokenizer=engine.tokenizer.fingerprint[:12],
        plait=__version__,
        torch=torch.__version__,
    )


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
