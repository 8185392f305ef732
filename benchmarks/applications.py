"""The applications, measured: each row trains a shipped recipe and scores it with `plait evaluate`.

    python benchmarks/applications.py multi30k-en-de [--data ../shared/data] [--runs runs] [train.lr=1e-3 ...]
    python benchmarks/applications.py --list
    python benchmarks/applications.py --table                 what was measured, as docs/results.md has it

A row that was interrupted goes on where it stopped. What it leaves in `benchmarks/results/ROW/`: the two
commands, the recipe with every choice made, the log, and the scores with their signatures and intervals.
"""

from __future__ import annotations

import argparse
import glob
import gzip
import json
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared/data"
RESULTS = HERE / "results"


HELD = 0.1  # share of what is held out where no test file is given
LOGGED = 100  # lines that are kept of a log
UNIT = re.compile("1 |IN: ")  # what a story or a command begins with
STORIES = re.compile(r"qa(\d+)_(.+)_(?:train|test)\.txt\.gz")


@dataclass(frozen=True)
class Row:
    """A recipe, the keys that name its data, and what is scored.

    `@` stands for the data directory, `&` for the run, and `%` for the folder with what is held out of the
    files of `divided`, which are found again in `%/train` and `%/held`. The first of `baselines` is a script
    beside this one.
    """

    recipe: str
    train: tuple[str, ...]
    task: str
    data: tuple[str, ...]
    options: tuple[str, ...] = ()
    divided: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    checkpoint: str = ":best"


M30K = "@/multi30k/tok/{}.lc.norm.tok.{}.gz"
TEST = "test_2016_flickr"


def captions(source: str, target: str) -> Row:
    """Multi30k in one direction, in its published preprocessing."""

    def pair(name: str) -> str:
        return f"[{M30K.format(name, source)}, {M30K.format(name, target)}]"

    return Row(
        "multi30k-en-de",
        (
            f"data.pairs={pair('train')}",
            f"data.validation={pair('val')}",
            "tokenizer.merges_file=@/multi30k/revisit-mmt.en-de.bpe10000.code.gz",
        ),
        "translate",
        (M30K.format(TEST, source), M30K.format(TEST, target)),
        ("--tokenize", "none"),
        checkpoint=":average",
    )


def sentences(source: int, target: int, *options: str) -> Row:
    """Tatoeba in one direction; the columns are English and Chinese."""
    file = "@/zh-en/tatoeba.clean.{}.tsv.gz"
    fields, dev = ("--field", f"source={source}", f"target={target}"), file.format("dev")
    return Row(
        "zh-en",
        (f"data.pairs={file.format('train')}", f"data.fields={{source: {source}, target: {target}}}"),
        "translate",
        (dev,),
        ("--format", "tsv", *fields, *options),
        baselines=("gru_baseline.py", "&", "--data", dev, *fields, *options),
        checkpoint=":average",
    )


def stories(folder: str, *more: str) -> Row:
    """bAbI, one model for its twenty tasks: the tests that are there, of the others a tenth held out."""
    tested = [f"@/babi/{folder}/qa{task}_*_train.txt.gz" for task in range(1, 11)]
    if folder == "en-10k":  # task 3 has no such file
        tested[2] = "@/babi/en/qa3_*_train.txt.gz"
    files = ", ".join([*tested, "%/train/*"])
    tests = "@/babi/en/*_test.txt.gz", "%/held/*"
    others = f"@/babi/{folder}/qa1[1-9]_*_train.txt.gz", f"@/babi/{folder}/qa20_*_train.txt.gz"
    data, options = (f"data.pairs=[{files}]", *more), ("--batch", "64")  # questions are short
    return Row("babi", data, "babi", tests, options, divided=others, checkpoint="")


def dialogue(task: int, merges: int, *more: str) -> Row:
    """Dialogue bAbI, one model a task."""
    file = f"@/dialog-babi/dialog-babi-task{task}{{}}.txt.gz"
    train = f"data.messages={file.format('trn')}", f"tokenizer.merges={merges}", *more
    return Row("dialog-babi", train, "dialog-babi", (file.format("dev"),))


def table(recipe: str, kind: str, name: str, ending: str, source: str, target: str, *more: str) -> Row:
    """A table with a column of texts and one of answers; its development file is scored."""
    train, dev = f"@/{name}/train.{ending}.gz", f"@/{name}/dev.{ending}.gz"
    fields = "--field", f"source={source}", f"target={target}"
    return Row(
        recipe,
        (f"data.pairs={train}", f"data.fields={{source: {source}, target: {target}}}"),
        recipe,
        (dev,),
        (*fields, "--truncate", *more),
        baselines=("baselines.py", kind, "--train", train, "--data", dev, *fields),
    )


RAW = "@/multi30k/raw/{}.gz"
SCAN = "@/scan/tasks_{}.txt.gz"
ROWS = {
    "multi30k-en-de": captions("en", "de"),
    "multi30k-de-en": captions("de", "en"),
    "multi30k-raw": Row(
        "multi30k-raw",
        (
            f"data.pairs=[{RAW.format('train.en')}, {RAW.format('train.de')}]",
            f"data.validation=[{RAW.format('val.en')}, {RAW.format('val.de')}]",
        ),
        "translate",
        (RAW.format(f"{TEST}.en"), RAW.format(f"{TEST}.de")),
        ("--tokenize", "13a"),
        checkpoint=":average",
    ),
    "zh-en": sentences(1, 0, "--lang", "en"),
    "en-zh": sentences(0, 1, "--lang", "zh"),
    "scan-simple": Row(
        "scan", ("data.pairs=%/train/*",), "scan", ("%/held/*",), divided=(SCAN.format("train_simple"),)
    ),
    "babi-1k": stories("en"),
    "babi-10k": stories("en-10k", "train.epochs=8"),
    "scan-length": Row(
        "scan", (f"data.pairs={SCAN.format('train_length')}",), "scan", (SCAN.format("test_length"),)
    ),
    "aeslc": table("summarize", "subjects", "aeslc", "jsonl", "body", "subject", "--stem"),
    "cold": table("classify", "labels", "cold", "csv", "TEXT", "label"),
    "dialog-babi-1": dialogue(1, 200),
    "dialog-babi-2": dialogue(2, 200),
    "dialog-babi-3": dialogue(3, 1000, "model.context=1024"),
    "dialog-babi-4": dialogue(4, 1000),
    "dialog-babi-5": dialogue(5, 1400, "model.context=1024"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", nargs="?", choices=ROWS)
    parser.add_argument("--list", action="store_true", help="the rows")
    parser.add_argument("--table", action="store_true", help="the scores that lie in benchmarks/results")
    parser.add_argument("--data", type=Path, default=SHARED, help="the directory of the data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs are kept")
    parser.add_argument("overrides", nargs="*", help="keys to change, such as train.lr=1e-3")
    options = parser.parse_intermixed_args()
    if options.table:
        print("\n".join([*table_lines(), "", *task_lines()]))
        return
    if options.list or options.row is None:
        print("\n".join(ROWS))
        return
    measure(options.row, ROWS[options.row], options.data.resolve(), options.runs, options.overrides)


def measure(name: str, row: Row, data: Path, runs: Path, overrides: list[str]) -> None:
    """Train, score, and keep what makes the figure checkable."""
    run, results, held = runs / name, RESULTS / name, runs / f"{name}-held-out"
    results.mkdir(parents=True, exist_ok=True)
    if row.divided:
        files, tests = (files_of(patterns, data) for patterns in (row.divided, row.data))
        hold_out(files, held, {task_of(file) for file in tests})
    scored = [each for each in row.data if "%" not in each or any((held / "held").iterdir())]
    words = [*row.train, *overrides]
    train = ["train", row.recipe, *words, f"out={run}", "--resume"]
    score = ["evaluate", f"{run}{row.checkpoint}", "--task", row.task, "--data", *scored, *row.options]
    commands = [
        ["-m", "plait", *train],
        ["-m", "plait", *score, "--out", str(results / "scores.json")],
    ]
    if row.baselines:
        script, *words = row.baselines
        commands.append([str(HERE / script), *words, "--out", str(results / "baselines.json")])
    places = {"@": "$DATA", "%": f"runs/{held.name}", "&": f"runs/{name}"}
    places |= {f"{runs}/": "runs/", f"{HERE}/": "benchmarks/"}
    written = "".join(
        f"python {' '.join(quoted(word, places) for word in command)}\n" for command in commands
    )
    written = written.replace("python -m plait ", "plait ")
    (results / "commands.txt").write_text(written, encoding="utf-8")
    for command in commands:
        here = [
            word.replace("@", str(data)).replace("%", str(held)).replace("&", str(run)) for word in command
        ]
        subprocess.run([sys.executable, *here], check=True)
    shutil.copy(run / "recipe.yaml", results / "recipe.yaml")
    (results / "log.jsonl").write_text("".join(thinned(run / "log.jsonl")), encoding="utf-8")
    for file in results.glob("*.*"):  # where they lay is nobody's business
        text = file.read_text(encoding="utf-8")
        text = text.replace(f"{data}/", "$DATA/").replace(f"{runs}/", "runs/")
        file.write_text(text, encoding="utf-8")


def quoted(word: str, places: dict[str, str]) -> str:
    """A word of a command for a shell in which DATA is set."""
    for mark, place in places.items():
        word = word.replace(mark, place)
    return f'"{word}"' if "$DATA" in word else shlex.quote(word)


def table_lines() -> list[str]:
    """A line of Markdown for each row that was measured: its metrics with their 95 % intervals."""
    lines = []
    for name in ROWS:
        for file in ("scores", "baselines"):
            path = RESULTS / name / f"{file}.json"
            if not path.exists():
                continue
            systems: dict[str, list[str]] = {}
            for score in json.loads(path.read_text(encoding="utf-8"))["results"]:
                if "," in score["metric"] and "mean of" not in score["metric"]:
                    continue  # one group of many
                system = "" if file == "scores" else f" ({score['task']})"
                low, high = score["interval"] or (None, None)
                spread = "" if low is None else f" ({low:.2f} to {high:.2f})"
                systems.setdefault(system, []).append(f"{score['metric']} {score['value']:.2f}{spread}")
            lines += [f"| `{name}`{system} | {'; '.join(found)} |" for system, found in systems.items()]
    return lines


def task_lines() -> list[str]:
    """A table of the accuracy in each task of bAbI, in the rows that were measured."""
    found: dict[str, dict[str, float]] = {}
    names: dict[int, str] = {}
    for row in ("babi-1k", "babi-10k"):
        path = RESULTS / row / "scores.json"
        if path.exists():
            scores = json.loads(path.read_text(encoding="utf-8"))["results"]
            found[row] = {score["metric"]: score["value"] for score in scores}
            files = [STORIES.fullmatch(Path(data["path"]).name) for data in scores[0]["data"]]
            names |= {int(file[1]): file[2].replace("-", " ") for file in files if file}
    lines = [f"| task | {' | '.join(f'`{row}`' for row in found)} |", "|---" * (1 + len(found)) + "|"]
    for number, name in sorted(names.items()):
        values = [f"{scores[f'accuracy, task {number:02d}']:.1f}" for scores in found.values()]
        lines.append(f"| {number} {name} | {' | '.join(values)} |")
    return lines


def thinned(log: Path) -> list[str]:
    """The lines of a log that hold a validation, and of the others every so many, and the first."""
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    every = max(len(lines) // LOGGED, 1)
    return [line for number, line in enumerate(lines) if number % every == 0 or '"val_loss"' in line]


def files_of(patterns: Iterable[str], data: Path) -> list[str]:
    """The files of the data directory that patterns name."""
    return sorted(
        file for pattern in patterns if "@" in pattern for file in glob.glob(pattern.replace("@", str(data)))
    )


def task_of(file: str) -> str:
    """Such as `qa11`, with which the name of the file begins."""
    return Path(file).name.partition("_")[0]


def hold_out(files: list[str], folder: Path, tested: set[str]) -> None:
    """Divide files into `train` and `held`, story by story or command by command, always in the same way.

    What is held out of a task that has a test file is not kept; the training data are the same with one.
    """
    draw = random.Random(0)
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("train", "held"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for file in files:
        parts: dict[str, list[str]] = {"train": [], "held": []}
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                if UNIT.match(line):
                    part = parts["held" if draw.random() < HELD else "train"]
                part.append(line)
        for name, kept in parts.items():
            if name == "held" and task_of(file) in tested:
                continue
            # without a time, so that the digest says what was scored
            packed = gzip.compress("".join(kept).encode("utf-8"), mtime=0)
            (folder / name / Path(file).name).write_bytes(packed)


if __name__ == "__main__":
    main()
