"""Time of `plait --help` against importing the libraries its command line is built on.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys
import time

ROUNDS = 7
PEER = [sys.executable, "-c", "import cyclopts, pydantic"]
OURS = [sys.executable, "-m", "plait", "--help"]


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    best = {"peer": float("inf"), "plait": float("inf")}
    for _ in range(ROUNDS):
        best["peer"] = min(best["peer"], seconds(PEER))
        best["plait"] = min(best["plait"], seconds(OURS))
    print(f"plait --help {best['plait']:.2f} s, import of cyclopts and pydantic {best['peer']:.2f} s")
    print(f"ratio {best['plait'] / best['peer']:.2f}")


if __name__ == "__main__":
    main()
