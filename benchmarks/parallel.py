"""Layouts on one machine, against one process in the same run.

    python benchmarks/parallel.py --speed      # dp=2, a thread each, against one process with two threads
    python benchmarks/parallel.py --saving     # steps with a save in between, against steps without

Model: the decoder of `recipes/shakespeare.yaml` (10.7 M parameters) on random tokens, eager, the dtype that
was measured to be fastest here. Both sides run by turns and the fastest steps of each count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RECIPE = "shakespeare"
ROWS = 32


def overrides(out: Path, layout: str, steps: int, text: Path, extra: list[str]) -> list[str]:
    words = [f"data.text={text}", f"out={out}", f"train.batch_size={ROWS}", "train.epochs=null"]
    words += [
        f"train.steps={steps}",
        "train.samples=[]",
        "train.eval_every=100000",
        "train.eval_rows=4",
        "train.compile=false",
    ]
    words += ["model.dropout=0", "train.tensorboard=false", *extra]
    return ["train", RECIPE, *words, *(["--layout", layout] if layout else [])]


def rates(run: Path) -> list[float]:
    """tokens/s of each step but the first ones."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    return [row["tokens_per_s"] for row in rows[3:]]


def train(folder: Path, name: str, layout: str, steps: int, text: Path, *extra: str) -> list[float]:
    words = overrides(folder / name, layout, steps, text, list(extra))
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    subprocess.run(
        [sys.executable, "-m", "plait", *words], check=True, env=env,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return rates(folder / name)


def speed(folder: Path, text: Path, steps: int) -> None:
    one: list[float] = []
    two: list[float] = []
    for turn in range(3):
        one += train(folder, f"one-{turn}", "", steps, text, "train.save_every=100000")
        two += train(folder, f"two-{turn}", "dp=2", steps, text, "train.save_every=100000")
    best_one, best_two = max(one), max(two)
    middle_one, middle_two = statistics.median(one), statistics.median(two)
    print(f"one process, two threads: best {best_one:,.0f}, median {middle_one:,.0f} tokens/s")
    print(f"dp=2, one thread each:    best {best_two:,.0f}, median {middle_two:,.0f} tokens/s")
    print(f"ratio: best {best_two / best_one:.3f}, median {middle_two / middle_one:.3f}")


def saving(folder: Path, text: Path, steps: int) -> None:
    """Seconds of steps that one save falls into, beyond as many without; as a share of a minute."""
    plain, saved = [], []
    for turn in range(3):
        for times, name, every in ((plain, "plain", 100000), (saved, "saved", steps // 2)):
            run = folder / f"{name}-{turn}"
            train(folder, run.name, "", steps, text, f"train.save_every={every}")
            rows = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
            # the save begins after step steps/2: what follows pays for the copy and the writing beside it
            window = rows[steps // 2 : steps - 1]
            times.append(sum((row["tokens"] - before["tokens"]) / row["tokens_per_s"]
                             for before, row in zip(rows[steps // 2 - 1 :], window)))  # fmt: skip
    extra = min(saved) - min(plain)
    print(f"{len(window)} steps after a save: {min(saved):.2f} s, without one {min(plain):.2f} s")
    print(f"one save a minute costs {100 * extra / 60:.2f} % of the time")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--saving", action="store_true")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--text", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = options.text or folder / "text.txt"
        if options.text is None:
            letters = "abcdefghijklmnopqrstuvwxyz .\n"
            text.write_text("".join(letters[n * n * 7 % 29] for n in range(200_000)), encoding="utf-8")
        everything = not (options.speed or options.saving)
        if options.speed or everything:
            speed(folder, text, options.steps)
        if options.saving or everything:
            saving(folder, text, options.steps)


if __name__ == "__main__":
    main()
