"""`plait` commands as real processes, forked from one that has imported everything already."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plait.config import dump_yaml, merge

ONE_CORE = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
TEXT = "".join(
    f"Line {n}: the quick brown fox jumps over {n * n} lazy dogs.\n第{n}行：敏捷的狐狸跳过懒狗。\n"
    for n in range(60)
)


WORDS = [
    "river",
    "mountain",
    "window",
    "garden",
    "letter",
    "winter",
    "lantern",
    "harbour",
    "bridge",
    "candle",
]
CHARACTERS = "春江潮水连海平明月共生滟随波千万里何处无流宛转绕芳甸照花林皆似霰空里霜不觉飞汀上白沙看"


def write_own_text(folder: Path) -> None:
    """Forty short documents, half of them Chinese, no two alike."""
    folder.mkdir()
    for n in range(20):
        first, second, third = (WORDS[(n * step + step) % 10] for step in (1, 3, 7))
        english = f"The {first} {n} lies behind the {second}. Nobody saw the {third} of {n * n} summers. "
        english += f"In the end the {second} was sold for {n + 3} coins.\n"
        (folder / f"story-{n:02}.txt").write_text(english, encoding="utf-8")
        places = [CHARACTERS[(n * 5 + k * 3) % len(CHARACTERS)] for k in range(18)]
        chinese = "{}{}{}{}，{}{}{}{}。{}{}{}{}{}，{}{}{}{}{}。\n".format(*places)
        (folder / f"诗-{n:02}.txt").write_text(chinese, encoding="utf-8")


@dataclass
class Running:
    """A command under way, its output in files."""

    pid: int
    out: Path
    err: Path
    ask: Callable[[dict], int]
    code: int | None = None

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self) -> Running:
        self.code = self.ask({"wait": self.pid})
        return self

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        state = Path(f"/proc/{self.pid}/stat")
        return state.exists() and state.read_text("utf-8").rpartition(")")[2].split()[0] != "Z"

    @property
    def stdout(self) -> str:
        return self.out.read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return self.err.read_text(encoding="utf-8")

    @property
    def refusal(self) -> str:
        """The message of a command that a user's mistake ended: one line, exit code 2, no traceback."""
        assert "Traceback" not in self.stderr
        lines = [line for line in self.stderr.splitlines() if line.startswith("plait: ")]
        assert len(lines) == 1, self.stderr
        assert self.stderr.endswith(lines[0] + "\n")
        assert self.code == 2, self.stderr
        return lines[0].removeprefix("plait: ")


class Plait:
    """`plait(words)` runs a command to its end, `plait.start(words)` leaves it running."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        script = Path(__file__).with_name("forks.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_CORE},
        )

    def ask(self, request: dict) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(
        self,
        *words: object,
        cwd: Path | None = None,
        stdin: str = "",
        max_file: int | None = None,
        stdout: Path | None = None,
        plant: str = "",
        **env: str,
    ) -> Running:
        self.count += 1
        base = self.folder / f"{self.count:03}"
        base.with_suffix(".in").write_text(stdin, encoding="utf-8")
        out, err = stdout or base.with_suffix(".out"), base.with_suffix(".err")
        for path in (base.with_suffix(".out"), err):
            path.touch()
        request = {"words": [str(word) for word in words], "cwd": str(cwd or self.folder), "env": env}
        request |= {"stdin": str(base.with_suffix(".in")), "stdout": str(out), "stderr": str(err)}
        return Running(self.ask(request | {"max_file": max_file, "plant": plant}), out, err, self.ask)

    def __call__(self, *words: object, **options: Any) -> Running:
        return self.start(*words, **options).wait()

    def works(self, *words: object, **options: Any) -> str:
        """Run a command that must succeed; its standard output."""
        run = self(*words, **options)
        assert run.code == 0, run.stderr
        return run.stdout

    def refuses(self, *words: object, **options: Any) -> str:
        """Run a command that must end as a user's mistake; its message."""
        return self(*words, **options).refusal

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture(scope="session")
def plait(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plait]:
    commands = Plait(tmp_path_factory.mktemp("commands"))
    yield commands
    commands.close()


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """Write a recipe of a tiny run in `tmp_path/NAME.yaml`, with changes."""
    (tmp_path / "input.txt").write_text(TEXT, encoding="utf-8")
    tiny = {
        "out": str(tmp_path / "run"),
        "data": {"text": str(tmp_path / "input.txt")},
        "tokenizer": {"kind": "char"},
        "model": {"width": 16, "layers": 1, "heads": 2, "context": 16, "dropout": 0.2},
        "train": {
            "steps": 30, "batch_size": 4, "lr": 3e-3, "save_every": 4, "eval_every": 10, "sample_tokens": 4,
            "threads": 1, "dtype": "float32", "compile": False, "tensorboard": False,
        },
    }  # fmt: skip

    def write(name: str = "recipe", **changes: Any) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(dump_yaml(merge(tiny, changes)), encoding="utf-8")
        return path

    return write


def until(true: Callable[[], Any], what: str, seconds: float = 60) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            pytest.fail(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.002)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    return until


@pytest.fixture(scope="session")
def rows() -> Callable[[Path], list[dict[str, Any]]]:
    """The complete rows of a run's log."""

    def read(run: Path) -> list[dict[str, Any]]:
        path = run / "log.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    return read


@pytest.fixture(scope="session")
def own_text() -> Callable[[Path], None]:
    return write_own_text


class Ranks:
    """The processes of one run, as a cluster's launcher would start them, forked and so at once."""

    def __init__(self, plait: Plait, count: int) -> None:
        from torch.distributed import TCPStore

        self.plait, self.count = plait, count
        self.started: list[Running] = []
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def start(self, *words: object, each: Callable[[int], dict[str, Any]] = lambda rank: {}) -> list[Running]:
        """Start `plait words` on every rank; `each` gives a rank's own options, `words` among them."""
        running = []
        for rank in range(self.count):
            own = each(rank)
            more = own.pop("words", ())
            running.append(self.plait.start(*words, *more, **own, **self.place(rank)))
        self.started += running
        return running

    def place(self, rank: int) -> dict[str, str]:
        """What a launcher tells a rank in its environment."""
        place = {"RANK": rank, "WORLD_SIZE": self.count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": self.count}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": self.store.port, "PLAIT_AGENT_STORE": 1}
        return {key: str(value) for key, value in place.items()} | {"GLOO_SOCKET_IFNAME": "lo"}

    def __call__(self, *words: object, **options: Any) -> list[Running]:
        return [each.wait() for each in self.start(*words, **options)]


@pytest.fixture
def ranks(plait: Plait) -> Iterator[Callable[[int], Ranks]]:
    made: list[Ranks] = []  # the store lives as long as its object

    def make(count: int) -> Ranks:
        made.append(Ranks(plait, count))
        return made[-1]

    yield make
    for running in (each for ranks in made for each in ranks.started if each.code is None):
        running.kill()  # what a test that failed has left behind
        running.wait()
