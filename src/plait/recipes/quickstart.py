"""`plait quickstart`: raw text to a page that answers, in minutes, resumable at every stage.

collect → clean → tokenizer → pretrain → tune on questions → scores → serve.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait import files
from plait.checkpoint.lock import LOCK, lock
from plait.config import build, merge, read_yaml
from plait.errors import BusyError, ConfigError, InputError, need
from plait.log import bytes_text, say
from plait.recipes.recipe import Recipe, find_recipe
from plait.text.lessons import Lesson, lessons_from_reference, lessons_from_text

if TYPE_CHECKING:
    from plait.data.prepare import EncodedData

PRETRAIN_SHARE = 0.375  # of the minutes; tuning gets the rest
TEXT_WEIGHT = 0.2  # rows of text for each row of conversations while tuning
CONTEXT, ROWS = 128, 8  # small batches: at such a budget the number of steps decides, not the model's size
ENOUGH_STEPS = 1500  # pretraining and tuning together; a model is no larger than allows this many
SIZES = ((128, 4, 4), (192, 4, 6), (256, 6, 8), (384, 8, 6), (512, 8, 8))  # width, layers, heads
FAMOUS = ("os.path.join", "json.loads", "math.sqrt", "random.choice", "sorted", "shutil.copy", "len", "zip")
NEEDED = ("ftfy", "fastapi", "uvicorn", "prometheus_client")  # the last three to serve


def quickstart(
    *,
    text: Sequence[str] | None = None,
    fields: Mapping[str, str | int] | None = None,
    minutes: float = 4,
    out: str = "runs/quickstart",
    serve: bool = True,
    port: int = 8000,
    open_browser: bool = False,
) -> None:
    """Train a model from raw text within `minutes` of training and serve it.

    Args:
        text: files or folders; None: the reference text of this machine's Python.
        fields: our field name → the column it is in, as in `plait.text.readers.read`.
        minutes: both training stages together.
        out: run directory; an interrupted one is resumed at the stage where it was.
        serve, port, open_browser: the page at the end.

    Raises:
        MissingExtra: before anything else, when a package is missing.
        ConfigError: a run directory made with other arguments.
        BusyError: the port is in use, told before training.
    """
    if not 0 < minutes < math.inf:
        raise ConfigError(f"minutes={minutes:g} must be more than 0, and finite")
    for module in NEEDED if serve else NEEDED[:1]:
        need(module, "quickstart")
    if serve:
        _check_port(port)
    run_dir = Path(out).expanduser()
    with lock(run_dir):
        paths = [str(path) for path in text] if text else None
        _remember(run_dir, {"text": paths, "fields": dict(fields or {}), "minutes": minutes})
        _once(run_dir / "text", lambda: collect(run_dir, paths, fields))
        lessons = read_lessons(run_dir)
        _once(run_dir / "tokenizer", lambda: learn_tokenizer(run_dir))
        _train(run_dir, minutes)
        _once(run_dir / "scores.json", lambda: _score(run_dir, lessons))
    if serve:
        from plait.recipes.serve import serve as serve_model

        serve_model(run_dir, port=port, open_browser=open_browser)


def collect(run_dir: Path, text: Sequence[str] | None, fields: Mapping[str, str | int] | None = None) -> None:
    """Raw text → cleaned, deduplicated documents in `text/`, and question/answer pairs made from them."""
    from plait.recipes.prepare import PrepareConfig, prepare

    if text is None:
        say("collecting the reference text of this Python, numpy and torch")
        from plait.text.reference import reference_documents

        raw = run_dir / "raw.jsonl"
        lines = (json.dumps(document.to_json(), ensure_ascii=False) for document in reference_documents())
        files.write_text(raw, "".join(line + "\n" for line in lines))
        inputs: list[str] = [str(raw)]
    else:
        inputs = list(text)
    draft = run_dir / ".text"
    prepare(inputs, draft, PrepareConfig(overwrite=True, fields=dict(fields) if fields else None))
    pairs = lessons_from_reference() if text is None else lessons_from_text(draft)
    write_lessons(run_dir, pairs)
    draft.rename(run_dir / "text")


def write_lessons(run_dir: Path, lessons: Sequence[Lesson]) -> None:
    """Lessons, and conversations to tune on: all phrasings of what is taught, one of what is held out."""

    def lines(rows) -> str:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def talk(question: str, answer: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}

    teach = [each for each in lessons if not each.held_out]
    taught = [talk(question, each.answer) for each in teach for question in each.questions]
    held = [talk(each.questions[0], each.answer) for each in lessons if each.held_out]
    files.write_text(run_dir / "taught.jsonl", lines(taught))
    files.write_text(run_dir / "held-out.jsonl", lines(held))
    files.write_text(run_dir / "lessons.jsonl", lines(each.to_json() for each in lessons))
    famous = [each.questions[0] for each in teach if each.name in FAMOUS]
    suggestions = famous or [each.questions[0] for each in teach[:: max(1, len(teach) // 6)]]
    files.write_text(run_dir / "suggestions.json", json.dumps(suggestions[:6], ensure_ascii=False) + "\n")


def read_lessons(run_dir: Path) -> list[Lesson]:
    """The lessons of a run."""
    lines = (run_dir / "lessons.jsonl").read_text(encoding="utf-8").split("\n")
    return [Lesson.from_json(json.loads(line)) for line in lines if line]


def learn_tokenizer(run_dir: Path) -> None:
    """A byte-level BPE whose size follows the text: larger where there are many distinct characters."""
    from plait.recipes.tokenizer import train_tokenizer
    from plait.text.tokenizer_config import TokenizerConfig

    report = json.loads((run_dir / "text" / "report.json").read_text(encoding="utf-8"))
    size = report["kept"]["bytes"]
    distinct = len(set((run_dir / "text" / "documents.jsonl").read_text(encoding="utf-8")))
    wanted = min(2048 + 2 * max(0, distinct - 256), 12_000)
    vocab = max(300, min(wanted, size // 400))
    config = TokenizerConfig(kind="bpe", vocab_size=vocab)
    try:
        train_tokenizer(run_dir / "text", run_dir / "tokenizer", config)
    except ConfigError:
        raise InputError(f"{bytes_text(size)} of text are too few to learn from; give more text") from None


def stage_recipes(run_dir: Path, minutes: float, size: tuple[int, int, int]) -> dict[str, Recipe]:
    """The shipped recipes of both stages with this run's paths, model size and minutes."""
    width, layers, heads = size
    share = {"quickstart": PRETRAIN_SHARE, "quickstart-tune": 1 - PRETRAIN_SHARE}
    data = {
        "quickstart": {"text": str(run_dir / "text")},
        "quickstart-tune": {
            "messages": str(run_dir / "taught.jsonl"),
            "validation": str(run_dir / "held-out.jsonl"),
        },
    }
    recipes = {}
    for name, stage in (("quickstart", "pretrain"), ("quickstart-tune", "tune")):
        shipped = read_yaml(find_recipe(name))
        model = {"width": width, "layers": layers, "heads": heads, "kv_heads": heads, "context": CONTEXT}
        changes = {"data": data[name], "train": {"minutes": minutes * share[name]}}
        own = {"out": str(run_dir), "tokenizer": str(run_dir / "tokenizer"), "model": model}
        recipes[stage] = build(Recipe, merge(shipped, changes) | own, source=name)
    return recipes


def _train(run_dir: Path, minutes: float) -> None:
    """Both stages, from wherever the newest checkpoint left off."""
    from plait.checkpoint.resolve import newest
    from plait.checkpoint.run import load_checkpoint, point_last
    from plait.data.prepare import open_data, prepare_data
    from plait.nn.config import ModelConfig
    from plait.recipes.choices import settle
    from plait.recipes.fit import fit
    from plait.recipes.run_directory import save_recipe
    from plait.recipes.saving import restore
    from plait.recipes.train import build_stage, keep_average, report
    from plait.text.tokenizer import Tokenizer

    point_last(run_dir)
    tokenizer = Tokenizer.load(run_dir / "tokenizer")
    plan = run_dir / "size.json"
    if not plan.is_file():
        files.write_text(plan, json.dumps(choose_size(tokenizer.vocab_size, minutes)))
    recipes = stage_recipes(run_dir, minutes, tuple(json.loads(plan.read_text(encoding="utf-8"))))
    for number, (name, recipe) in enumerate(recipes.items()):
        path = newest(run_dir)
        checkpoint = load_checkpoint(path) if path else None
        saved = checkpoint.state if checkpoint else {"stage": "", "done": False}
        if (saved["stage"] == "tune" and name == "pretrain") or (saved["stage"] == name and saved["done"]):
            continue
        assert isinstance(recipe.model, ModelConfig)
        config = recipe.model.model_copy(update={"vocab": tokenizer.vocab_size})
        folder = run_dir / ("data", "data-tune")[number]
        data = prepare_data(recipe.data, tokenizer, folder, CONTEXT, recipe.seed)
        if name == "tune":
            data = with_text(data, open_data(run_dir / "data", tokenizer))
        settled_path = run_dir / f"{name}.yaml"
        if settled_path.is_file():
            recipe = build(Recipe, read_yaml(settled_path), source=str(settled_path))
        recipe, _, _ = settle(recipe, config, CONTEXT, None)
        files.write_text(settled_path, _yaml(recipe))
        if name == "pretrain":
            save_recipe(run_dir, recipe)
        fresh = checkpoint is not None and saved["stage"] != name
        stage = build_stage(
            run_dir,
            recipe,
            tokenizer,
            data,
            config,
            name=name,
            first_step=checkpoint.step if checkpoint and fresh else saved.get("first_step", 0),
            first_tokens=_tokens(saved) if fresh else saved.get("first_tokens", 0),
        )
        if checkpoint is not None and fresh:
            stage.placed.parameters.load(checkpoint.weights())
            keep_average(stage)
        elif checkpoint is not None:
            restore(stage, checkpoint)
        if name == "tune":
            stage.generation = {"do_sample": False}  # word for word is what it was taught
        fit(stage)
        report(run_dir)


def with_text(talks: EncodedData, text: EncodedData) -> EncodedData:
    """Mix rows of the pretraining text into the conversations, or tuning would make the model forget it."""
    rows = [replace(source, weight=TEXT_WEIGHT) for source in text.train]
    return replace(talks, train=[*talks.train, *rows])


def choose_size(vocab: int, minutes: float) -> tuple[int, int, int]:
    """The largest of SIZES that still takes ENOUGH_STEPS within the minutes, by measuring real steps."""
    import time

    import torch

    from plait.data.batch import Batch, StepBatch
    from plait.device import choose, measure
    from plait.nn.config import ModelConfig
    from plait.parallel.apply import apply_layout
    from plait.parallel.layout import Layout
    from plait.train.objectives import next_token

    machine = measure()
    allowed = minutes * 60 / ENOUGH_STEPS
    fitting = SIZES[0]
    for width, layers, heads in SIZES:
        config = ModelConfig(
            width=width, layers=layers, heads=heads, kv_heads=heads, context=CONTEXT, vocab=vocab
        )
        choices = choose(machine, parameters=12 * layers * width**2)
        torch.set_num_threads(choices.threads)
        placed = apply_layout(config, Layout(), torch.device(machine.kind), dtype=choices.dtype)
        tokens = torch.zeros(ROWS, CONTEXT, dtype=torch.long)
        batch = StepBatch([Batch(tokens, tokens, None, None, [], [])], tokens.numel())
        seconds = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            placed.forward_backward(batch, next_token)
            seconds = min(seconds, time.perf_counter() - start)
        if seconds > allowed:
            break
        fitting = (width, layers, heads)
    say(f"model size for {minutes:g} minutes on this machine: width {fitting[0]}, {fitting[1]} layers")
    return fitting


def _score(run_dir: Path, lessons: Sequence[Lesson]) -> None:
    from plait.recipes.quickstart_scores import score_run

    score_run(run_dir, lessons)


def _tokens(state: dict[str, Any]) -> int:
    return state["first_tokens"] + state["train"]["tokens"]


def _yaml(recipe: Recipe) -> str:
    from plait.config import dump_yaml

    return dump_yaml(recipe)


def _once(done: Path, work: Callable[[], None]) -> None:
    """Do a stage unless its result, which appears whole or not at all, is there."""
    if not done.exists():
        work()


def _remember(run_dir: Path, arguments: dict[str, Any]) -> None:
    """Refuse to mix two quickstarts in one directory; a change of mind needs another `--out`."""
    path = run_dir / "quickstart.json"
    if not path.is_file():
        others = [item.name for item in run_dir.iterdir() if item.name != LOCK]
        if others:
            raise BusyError(f"{run_dir} holds something else ({others[0]}); give another --out or empty it")
        files.write_text(path, json.dumps(arguments, ensure_ascii=False) + "\n")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if not (run_dir / "text").exists():  # nothing has come of them yet, so they may be mended
        before = arguments
        files.write_text(path, json.dumps(arguments, ensure_ascii=False) + "\n")
    for key, value in arguments.items():
        if before.get(key, value) != value:
            raise ConfigError(
                f"{run_dir} was begun with {key}={before[key]} and cannot go on with {value}; "
                "give the same, or another --out"
            )
    say(f"continuing {run_dir}")


def _check_port(port: int) -> None:
    need("fastapi", "quickstart")
    from plait.serve.server import listen

    with listen("127.0.0.1", port):
        pass
