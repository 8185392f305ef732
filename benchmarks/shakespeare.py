"""`recipes/shakespeare-small.yaml` on tinyshakespeare: loss on the full validation set, and time.

    python benchmarks/shakespeare.py --text input.txt [--out runs/bench-shakespeare]

Compare with the minimal GPT trainer's published 1.88 (estimated on 20 batches) for the same 2,000 steps of
12 rows of 64 characters.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from plait.log import duration
from plait.recipes.recipe import load_recipe
from plait.recipes.run_directory import read_log
from plait.recipes.train import train_recipe

SHARED = Path(__file__).parents[2] / "shared/data/tinyshakespeare/input.txt"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, default=SHARED)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-shakespeare"))
    parser.add_argument("overrides", nargs="*", help="keys to change, such as train.lr=1e-3")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    words = [f"data.text={options.text}", f"out={options.out}", *options.overrides]
    start = time.perf_counter()
    train_recipe(load_recipe("shakespeare-small", words))
    seconds = time.perf_counter() - start
    last = [row for row in read_log(options.out) if "val_loss" in row][-1]
    print(f"val_loss {last['val_loss']:.4f} nats per token at step {last['step']}, in {duration(seconds)}")


if __name__ == "__main__":
    main()
