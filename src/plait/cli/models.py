"""Verbs on a trained model: evaluate, score, generate, serve."""

from __future__ import annotations

from dataclasses import dataclass, fields

from cyclopts import Group, Parameter

from plait.cli.app import Beams, Sampling, Where, Words, fields_of, flowing
from plait.errors import ConfigError
from plait.eval.options import Options

BATCH = 8


@Parameter(
    name="*", group=Group("Scoring", help="For --hypotheses, and for a --task in place of its own metrics.")
)
@flowing
@dataclass(frozen=True, kw_only=True)
class Scoring:
    """By what answers are scored.

    Args:
        metric: bleu, chrf, chrf++, rouge (or rouge1, rouge2, rougeL, rougeLsum), exact_match, verbatim,
            squad_em, squad_f1, cmrc (or cmrc_em, cmrc_f1), accuracy, macro_f1.
        lang: Language of the texts, such as zh or ja.
        tokenize: Tokenization of BLEU: none, 13a, intl, zh, ja-mecab, ko-mecab, char.
        lowercase: Compare without case (bleu, chrf).
        stem: Compare stems of English words (rouge).
        split_sentences: Compare sentences that nltk finds, not lines (rougeLsum).
    """

    metric: Words = None
    lang: str | None = None
    tokenize: str | None = None
    lowercase: bool = False
    stem: bool = False
    split_sentences: bool = False

    def options(self) -> Options:
        """What changes a score."""
        return Options(**{field.name: getattr(self, field.name) for field in fields(Options)})


@Parameter(name="*", group=Group("Outputs made elsewhere"))
@flowing
@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What to score where it is not a model.

    Args:
        hypotheses: Outputs: plain lines, or records with --field NAME or --field hypotheses=NAME.
        references: What they should be: one file for each set of references.
        compare: Outputs of a second system, for a paired bootstrap test.
        predictions: For bbq: its records, with predictions in the field named by --field.
    """

    hypotheses: list[str] | None = None
    references: Words = None
    compare: str | None = None
    predictions: str | None = None


def evaluate(
    model: str | None = None,
    /,
    *,
    task: Words = None,
    data: Words = None,
    limit: int | None = None,
    out: str | None = None,
    context: int | None = None,
    stride: int | None = None,
    batch: int = BATCH,
    format: str = "auto",
    field: Words = None,
    labels: Words = None,
    per_token: bool = False,
    truncate: bool = False,
    shots: int | None = None,
    beams: Beams = Beams(),
    scoring: Scoring = Scoring(),
    outputs: Outputs = Outputs(),
    where: Where = Where(),
    json: bool = False,
) -> None:
    """Measure a model on what it has not seen, or outputs that were made elsewhere.

    For example:

        plait evaluate runs/first --data held-out.txt --out scores.json
        plait evaluate runs/en-de --task translate --data test.en test.de
        plait evaluate runs/mood --task classify --data test.csv --field target=mood
        plait evaluate runs/chat --task chat --data talks.jsonl
        plait evaluate runs/first --task lm_eval:hellaswag --limit 100
        plait evaluate --hypotheses out.txt --references ref.txt --metric bleu
        plait evaluate --task bbq --predictions Age.jsonl --field answer

    Args:
        model: A model, step or run directory (RUN:best, RUN:average).
        task: perplexity, translate, summarize, answer, classify, chat, complete, scan, babi, dialog-babi,
            bbq, or lm_eval:NAME, a task of lm-evaluation-harness.
        data: Files or folders that the model has not seen; two plain files are sources and targets. For
            lm_eval:NAME: folders with your own task files; without, the harness downloads its data.
        limit: Only the first so many documents or questions.
        out: Write the scores here, as JSON.
        context: For perplexity: tokens the model sees at once; default: its context.
        stride: For perplexity: tokens scored per window, the rest being history; default: half of it.
        batch: Windows or questions computed together; changes speed and memory, no score.
        format: auto goes by the file's name; else lines, paragraphs, parallel, tsv, alpaca, scan, babi, ...
        field: Columns: source=english target=chinese; numbers without a header. For --hypotheses and
            --predictions: what to score.
        labels: For classify: the labels to choose from; default: those learned, or else the data's.
        per_token: For classify: compare labels by their probability a token, which is fair to long ones.
        truncate: For a --task: cut what leaves an answer no room in the context: the end of a text or of what
            a question is about, the oldest turns of a conversation, what is farthest from a gap to fill in.
        shots: For lm_eval:NAME: worked examples before each question; default: what the task says.
        json: Print what scores.json holds.
    """
    if model is None and outputs == Outputs() and scoring == Scoring():
        raise ConfigError(
            "there is nothing to measure; give MODEL, or --hypotheses and --references, or --predictions"
        )
    if model is None or outputs != Outputs():
        if model is not None:
            raise ConfigError(
                f"{model!r} would be a MODEL, and what --hypotheses and --predictions name is scored "
                "without one; leave it out"
            )
        given = {
            "limit": limit, "context": context, "stride": stride, "format": format != "auto",
            "labels": labels, "per-token": per_token, "shots": shots is not None,
            "truncate": truncate, "batch": batch != BATCH, "beams": beams.given(),
            "device": where.device != Where.device, "dtype": where.dtype,
        }  # fmt: skip
        if wrong := [name for name, value in given.items() if value]:
            raise ConfigError(
                f"--{wrong[0]} is for a MODEL; leave it out with --hypotheses and --predictions"
            )
        _evaluate_outputs(outputs, scoring, task, data, field, out, json)
        return
    from plait.recipes.evaluate import evaluate as run

    run(
        model, task=task or "perplexity", data=data or [], limit=limit, out=out, context=context,
        stride=stride, batch=batch, format=format, fields=fields_of(field), metric=scoring.metric or (),
        options=scoring.options(), labels=labels or (), per_token=per_token, truncate=truncate, shots=shots,
        decoding=beams.given(), **vars(where), as_json=json,
    )  # fmt: skip


def _evaluate_outputs(
    outputs: Outputs, scoring: Scoring, task: list[str] | None, data: list[str] | None,
    field: list[str] | None, out: str | None, json: bool,
) -> None:  # fmt: skip
    from plait.recipes.evaluate_outputs import evaluate_outputs, evaluate_predictions

    if outputs.predictions is not None:
        if outputs != Outputs(predictions=outputs.predictions) or scoring != Scoring():
            raise ConfigError("--predictions has its metrics from --task; leave out what is for --hypotheses")
        evaluate_predictions(
            outputs.predictions, task=task or [], field=field or [], data=data or [], out=out, as_json=json
        )
        return
    if task or data:
        raise ConfigError(
            "--task and --data are for a model or --predictions; leave them out with --hypotheses"
        )
    evaluate_outputs(
        outputs.hypotheses or [], outputs.references or [], scoring.metric or [], compare=outputs.compare,
        field=field or [], options=scoring.options(), out=out, as_json=json,
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


def serve(
    model: str,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_env: str | None = None,
    allow_host: Words = None,
    queue: int = 32,
    documents: Words = None,
    where: Where = Where(),
    open_browser: bool = False,
) -> None:
    """Serve a model: OpenAI's API and a page to talk with it.

    For example:

        plait serve runs/first
        PLAIT_KEY=... plait serve runs/first --host 0.0.0.0 --api-key-env PLAIT_KEY
        plait serve runs/answer --documents notes/

    Args:
        model: A model, step or run directory.
        host: Address to listen at.
        port: Port; 0 takes a free one.
        api_key_env: Environment variable that holds the key clients must send.
        allow_host: Names under which a proxy reaches this server.
        queue: Requests that may wait.
        documents: Files and folders to answer questions from; each answer cites its passages.
        open_browser: Open the page when it answers.
    """
    from plait.recipes.serve import serve as run

    run(
        model, host=host, port=port, api_key_env=api_key_env, allow_host=allow_host or [], queue=queue,
        documents=documents or [], **vars(where), open_browser=open_browser,
    )  # fmt: skip
