"""What quickstart's model has learned: held-out text, held-out questions, and the names it was taught."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from plait.checkpoint.directory import load
from plait.checkpoint.resolve import newest
from plait.data.prepare import open_data
from plait.eval.scores import Score, describe_data, signature, write_scores
from plait.infer.engine import Engine
from plait.infer.params import SamplingParams
from plait.log import say, table, track
from plait.parallel.apply import place_model
from plait.text.lessons import Lesson
from plait.train.validate import Validation, validate

BATCH = 64
DECODING = SamplingParams(temperature=0, max_tokens=64)


def score_run(run_dir: Path, lessons: Sequence[Lesson]) -> None:
    """Write and print `scores.json`, and every question with its answer in `answers.jsonl`."""
    model, tokenizer = load(run_dir)
    engine = Engine(model, tokenizer)
    results = loss_scores(run_dir, engine)
    asked = [(each, each.questions[number % len(each.questions)]) for number, each in enumerate(lessons)]
    answers = ask(engine, [question for _, question in asked])
    lines = []
    right: dict[bool, list[bool]] = {False: [], True: []}
    for (lesson, question), answer in zip(asked, answers):
        right[lesson.held_out].append(answer == lesson.answer)
        row = {"question": question, "answer": answer, "expected": lesson.answer, "held_out": lesson.held_out}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    (run_dir / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
    data = describe_data([run_dir / "lessons.jsonl"])
    for held_out, metric in ((False, "taught_exact_match"), (True, "held_out_exact_match")):
        results.append(exact_match(metric, right[held_out], data))
    path = newest(run_dir)
    assert path is not None
    write_scores(run_dir / "scores.json", path.name, results)
    rows = [(score.metric, f"{score.value:.4f}", f"{score.n:,}") for score in results]
    table("scores", ("metric", "value", "n"), rows)
    say("answers come only from the model; what it was not taught it may answer wrongly")


def ask(engine: Engine, questions: Sequence[str]) -> list[str]:
    """Greedy answers, as the chat page would give them; a question that does not fit gets none."""
    prompts = [
        engine.tokenizer.encode_chat([{"role": "user", "content": question}], add_generation_prompt=True)[0]
        for question in questions
    ]
    answers = [""] * len(prompts)
    fitting = [number for number, prompt in enumerate(prompts) if len(prompt) < engine.context]
    # questions of like length together: less padding
    order = sorted(fitting, key=lambda number: len(prompts[number]))
    for start in track(range(0, len(order), BATCH), "asking"):
        numbers = order[start : start + BATCH]
        done = engine.generate([prompts[number] for number in numbers], DECODING, clip=True)
        for number, completion in zip(numbers, done):
            answers[number] = completion.text
    return answers


def exact_match(metric: str, right: Sequence[bool], data: list) -> Score:
    """Share answered word for word, with its Wilson interval (Wilson 1927)."""
    count, share = len(right), sum(right) / max(1, len(right))
    interval = None
    if count:
        z = 1.959964
        middle = (share + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
        interval = (middle - half, middle + half)
    return Score("answer", metric, share, interval, count, "match:exact", data, DECODING.describe())


def loss_scores(run_dir: Path, engine: Engine) -> list[Score]:
    """Bits per byte of held-out text; loss and token accuracy of held-out questions."""
    placed = place_model(engine.model)
    found: dict[str, Validation] = {}
    documents: dict[str, int] = {}
    for name in ("data", "data-tune"):
        data = open_data(run_dir / name, engine.tokenizer)
        parts = [validate(placed, source, batch_size=16) for source in data.validation]
        found[name] = sum(parts, Validation())
        documents[name] = sum(source.rows.documents for source in data.validation)
    text, questions = found["data"], found["data-tune"]
    where = {name: describe_data([run_dir / name / "data.json"]) for name in found}
    settings = signature(context=engine.context)

    def score(task: str, metric: str, value: float, name: str) -> Score:
        counts = {"tokens": found[name].tokens, "bytes": round(found[name].text_bytes)}
        return Score(task, metric, value, None, documents[name], settings, where[name], None, counts)

    return [
        score("perplexity", "bits_per_byte", text.bits_per_byte, "data"),
        score("perplexity", "token_accuracy", text.accuracy, "data"),
        score("answer", "question_loss", questions.loss, "data-tune"),
        score("answer", "question_token_accuracy", questions.accuracy, "data-tune"),
    ]
