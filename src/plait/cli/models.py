"""Verbs on a trained model: evaluate, score, generate, chat, serve."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from plait.cli.app import Sampling, Where, fields_of


def evaluate(
    model: str,
    /,
    *,
    task: Annotated[list[str], Parameter(consume_multiple=True)] = ["perplexity"],  # noqa: B006
    data: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    limit: int | None = None,
    out: str | None = None,
    context: int | None = None,
    stride: int | None = None,
    batch: int = 8,
    format: str = "auto",
    field: Annotated[list[str] | None, Parameter(name="--field")] = None,
    where: Where = Where(),
    json: bool = False,
) -> None:
    """Measure a model: perplexity and bits per byte of held-out text.

    For example:

        plait evaluate runs/first --data held-out.txt --out scores.json

    Args:
        model: A model, step or run directory (RUN:best, RUN:average).
        task: What to measure; perplexity.
        data: Held-out files or folders.
        limit: Only the first so many documents.
        out: Write scores.json here.
        context: Tokens the model sees at once; default its context.
        stride: Tokens scored per window; the rest of the window is history.
        batch: Windows at a time; changes no score.
        format: How to read the data.
        field: Rename a column: text=body; a number for a headerless table.
        json: Print what scores.json holds.
    """
    from plait.recipes.evaluate import evaluate as run

    run(
        model, task=task, data=data or [], limit=limit, out=out, context=context, stride=stride,
        batch=batch, format=format, fields=fields_of(field), **vars(where), as_json=json,
    )  # fmt: skip


def score(
    model: str,
    text: str,
    /,
    *,
    top: int = 0,
    where: Where = Where(),
    json: bool = False,
) -> None:
    """Log-probability of a text, in all and token by token.

    For example:

        plait score runs/first "To be, or not to be"

    Args:
        model: A model, step or run directory.
        text: The text.
        top: Alternatives to show for each token.
        json: Print JSON.
    """
    from plait.recipes.score import score as run

    run(model, text, top=top, **vars(where), as_json=json)


def generate(
    model: str,
    prompt: str | None = None,
    /,
    *,
    input: str | None = None,
    output: str | None = None,
    sampling: Sampling = Sampling(),
    n: int | None = None,
    logprobs: int | None = None,
    batch: int = 8,
    where: Where = Where(),
    json: bool = False,
) -> None:
    """Continue a prompt, or every prompt of a file (resumable).

    For example:

        plait generate runs/first "Once upon a time" --max-tokens 100 --temperature 0.8
        plait generate runs/first --input prompts.jsonl --output answers.jsonl

    Args:
        model: A model, step or run directory.
        prompt: Text to continue.
        input: Prompts: JSON lines with prompt, messages or text, or plain lines.
        output: Where to write one JSON line a prompt; lines that are there are kept.
        n: Continuations per prompt.
        logprobs: Report log-probabilities with so many alternatives.
        batch: Prompts at a time.
        json: Print JSON.
    """
    from plait.recipes.generate import generate as run

    run(
        model, prompt, input=input, output=output, sampling=sampling.given(n=n, logprobs=logprobs),
        batch=batch, as_json=json, **vars(where),
    )  # fmt: skip


def chat(
    model: str,
    /,
    *,
    system: str | None = None,
    sampling: Sampling = Sampling(),
    where: Where = Where(),
) -> None:
    """Talk with a model in the terminal; it remembers as much as its context holds.

    For example:

        plait chat runs/quickstart

    Args:
        model: A model, step or run directory.
        system: An instruction that stands before the conversation.
    """
    from plait.recipes.chat import chat as run

    run(model, system=system, sampling=sampling.given(), **vars(where))


def serve(
    model: str,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_env: str | None = None,
    allow_host: list[str] | None = None,
    queue: int = 32,
    where: Where = Where(),
    open_browser: bool = False,
) -> None:
    """Serve a model: OpenAI's API and a page to talk with it.

    For example:

        plait serve runs/first
        PLAIT_KEY=... plait serve runs/first --host 0.0.0.0 --api-key-env PLAIT_KEY

    Args:
        model: A model, step or run directory.
        host: Address to listen at.
        port: Port; 0 takes a free one.
        api_key_env: Environment variable that holds the key clients must send.
        allow_host: Names under which a proxy reaches this server.
        queue: Requests that may wait.
        open_browser: Open the page when it answers.
    """
    from plait.recipes.serve import serve as run

    run(
        model, host=host, port=port, api_key_env=api_key_env, allow_host=allow_host or [], queue=queue,
        **vars(where), open_browser=open_browser,
    )  # fmt: skip
