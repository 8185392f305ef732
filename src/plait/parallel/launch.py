"""The local launcher: starts the ranks of one machine and answers for them, whatever happens to one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic, sleep
from typing import IO

from plait import hardware
from plait.errors import ConfigError
from plait.log import say, table
from plait.parallel.health import Post, claim_error, last_posts

# Exit status of a rank that leaves because others do not answer: not its own fault, and worth another try.
PEER_LOST = 75  # EX_TEMPFAIL of sysexits.h
USER_ERROR = 2
POLITE = (128 + signal.SIGINT, 128 + signal.SIGTERM)
LAUNCHER = "PLAIT_LAUNCHER_PID"
LOCAL = "127.0.0.1"
POLL = 0.02  # seconds between two looks at the ranks
TERM_SECONDS = 3.0  # from SIGTERM to SIGKILL

Out = IO[bytes] | int | None
Smaller = Callable[[int], tuple[Sequence[str], int] | None]


@dataclass(frozen=True)
class Place:
    """Where a rank stands: among all, on its machine, at which attempt, and where the store is."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    attempt: int
    address: str
    port: int


def launched() -> bool:
    """Whether this process is a rank already: started by plait, torchrun, Kubernetes or Slurm."""
    slurm = "SLURM_PROCID" in os.environ and os.environ.get("SLURM_NTASKS", "1") != "1"
    return slurm or {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def place_of() -> Place:
    """This rank's place, from its launcher's variables; ConfigError names one that is missing or odd."""
    attempt = _number("TORCHELASTIC_RESTART_COUNT", 0)
    if "RANK" in os.environ or "SLURM_PROCID" not in os.environ:
        local = _number("LOCAL_RANK", 0), _number("LOCAL_WORLD_SIZE", 1)  # Kubernetes sets neither
        rank, world = _number("RANK"), _number("WORLD_SIZE")
        return Place(rank, world, *local, attempt, _word("MASTER_ADDR"), _number("MASTER_PORT"))
    rank, world = _number("SLURM_PROCID"), _number("SLURM_NTASKS")
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("SLURM_TASKS_PER_NODE", "1")
    local = _number("SLURM_LOCALID"), int(tasks.replace("(", ",").split(",")[0])  # "4(x2)": of the first node
    address = os.environ.get("MASTER_ADDR") or _first_host()
    # any port will do that all ranks of a job derive alike, and two jobs on one machine rarely share
    port = _number("MASTER_PORT") if "MASTER_PORT" in os.environ else 15000 + _number("SLURM_JOB_ID") % 10000
    return Place(rank, world, *local, attempt, address, port)


def _word(name: str) -> str:
    if name in os.environ:
        return os.environ[name]
    raise ConfigError(f"a rank needs {name} in its environment; start it with plait, torchrun or srun")


def _number(name: str, default: int | None = None) -> int:
    if not (value := _word(name) if default is None else os.environ.get(name, str(default))).isdigit():
        raise ConfigError(f"{name} must be a whole number, not {value!r}; unset it or mend it")
    return int(value)


def _first_host() -> str:
    """The first host of the Slurm job, where rank 0 runs."""
    nodes = os.environ.get("SLURM_STEP_NODELIST") or _word("SLURM_JOB_NODELIST")
    with suppress(OSError, subprocess.SubprocessError):
        command = ["scontrol", "show", "hostnames", nodes]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        if hosts := answer.stdout.split():
            return hosts[0]
    raise ConfigError(f"scontrol cannot name the first host of {nodes}; set MASTER_ADDR to that of rank 0")


def die_with_parent(parent: int | None = None) -> None:
    """End this rank as soon as its launcher is gone, even by SIGKILL: an orphan would train on, unseen.

    Called first of all by a rank; without `parent`, and not started by the launcher, it does nothing.
    """
    # taken out of the environment: a program that this rank starts has another parent
    if not (parent := parent or int(os.environ.pop(LAUNCHER, 0))):
        return
    if sys.platform == "linux":  # at once, and even where no thread of this rank can run
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def launch(
    words: Sequence[str],
    ranks: int,
    *,
    restarts: int,
    smaller: Smaller | None = None,
    environ: Mapping[str, str] | None = None,
    out: Out = None,
    program: Sequence[str] = (sys.executable, "-m", "plait"),
    grace: float = 5.0,
) -> int:
    """Run `program words` in `ranks` processes and start them again, from a checkpoint, when one is lost.

    `smaller(ranks left)` gives words and ranks of the next attempt, None where none fits; without it all
    are alike. `out` is rank 0's standard output, `environ` stands in for this process's, and `grace` is how
    many seconds ranks get to leave by themselves after one was lost. Returns the exit status: 0, 2 for an
    error of the user's, 130 or 143 for a signal, else 1.
    """
    with _signals() as received:
        for attempt in range(restarts + 1):
            run = _Attempt(ranks)
            try:
                run.start([*program, *words], attempt, os.environ if environ is None else environ, out)
                run.watch(received, grace)
                if (status := run.status(received)) != 1:
                    return status
                again = attempt < restarts and not received
                run.report("" if again or words[0] != "train" else "; go on with --resume")
            finally:
                run.close()
            if not again:
                break
            if smaller and run.dead:
                if (following := smaller(left := ranks - len(run.dead))) is None:
                    say(f"no layout fits the {left} ranks that are left")
                    break
                words, ranks = following
            if words[0] == "train" and "--resume" not in words:
                words = ["train", "--resume", *words[1:]]
            say(f"restarting from the last complete checkpoint (attempt {attempt + 1} of {restarts})")
    return 1


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The SIGINT and SIGTERM received so far: the ranks decide what these mean, not this process."""
    received: list[int] = []
    before = {}
    with suppress(ValueError):  # not the main thread: signals are not ours to take
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Attempt:
    """The processes of one attempt, the store they meet at, and how each of them ended.

    Attributes:
        ended, failed: exit status by rank; `failed` of those that ended badly before they were told to.
        silent: ranks that had stopped answering when the others gave up.
        struck: whether ranks have been told to end.
    """

    def __init__(self, ranks: int) -> None:
        from torch._C._distributed_c10d import TCPStore

        # the store asks for no password: it listens to this machine only
        listener = socket.create_server((LOCAL, 0), backlog=1024)
        self.ranks, self.port, fd = ranks, listener.getsockname()[1], listener.detach()
        self.store = TCPStore(LOCAL, self.port, is_master=True, wait_for_workers=False, master_listen_fd=fd)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ended: dict[int, int] = {}
        self.failed: dict[int, int] = {}
        self.silent: list[int] = []
        self.struck = False

    def start(self, command: list[str], attempt: int, environ: Mapping[str, str], out: Out) -> None:
        """Start every rank, in a session of its own: Ctrl-C reaches it through this launcher, and once."""
        chosen = {
            "OMP_NUM_THREADS": str(max(1, hardware.threads() // self.ranks)),
            # host names of laptops often lead nowhere, and one machine needs none
            "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
            "TORCH_CPP_LOG_LEVEL": "ERROR",  # a lost connection is told in one line, not in stack traces
        }
        common = {
            "WORLD_SIZE": str(self.ranks), "LOCAL_WORLD_SIZE": str(self.ranks), "PLAIT_AGENT_STORE": "1",
            "MASTER_ADDR": LOCAL, "MASTER_PORT": str(self.port), LAUNCHER: str(os.getpid()),
            "TORCHELASTIC_RESTART_COUNT": str(attempt),
        }  # fmt: skip
        for rank in map(str, range(self.ranks)):
            env = {**chosen, **environ, **common, "RANK": rank, "LOCAL_RANK": rank}
            stdin, stdout = subprocess.DEVNULL, subprocess.DEVNULL
            if rank == "0":  # data may come through a pipe; a terminal is for this process's group
                stdin, stdout = stdin if _terminal() else None, out
            child = subprocess.Popen(command, env=env, stdin=stdin, stdout=stdout, start_new_session=True)
            self.processes.append(child)

    def watch(self, received: list[int], grace: float) -> None:
        """Return when all ranks have ended; those that one of them left behind are made to."""
        passed_on, strikes = 0, None
        while self._collect(bool(received)):
            if len(received) > passed_on:
                self.struck |= passed_on > 0
                self._send(signal.SIGKILL if passed_on else received[0])
                passed_on += 1
            if self.failed and strikes is None:
                first = next(iter(self.failed.values()))
                due = monotonic() + (min(1.0, grace) if first == USER_ERROR else grace)
                strikes = [(due, signal.SIGTERM), (due + TERM_SECONDS, signal.SIGKILL)]
                if first not in (USER_ERROR, PEER_LOST, *POLITE):
                    claim_error(self.store, -1)  # this launcher knows more than the ranks can guess
            if strikes and monotonic() >= strikes[0][0]:
                if not self.struck:
                    running = enumerate(self._posts())
                    self.silent = [n for n, post in running if n not in self.ended and post and post.late]
                self.struck = True
                self._send(strikes.pop(0)[1])
            sleep(POLL)

    def _collect(self, stopping: bool) -> bool:
        """Note who has ended; whether any rank still runs."""
        codes = {n: each.poll() for n, each in enumerate(self.processes) if n not in self.ended}
        ended = [(code == PEER_LOST, code >= 0, n, code) for n, code in codes.items() if code is not None]
        for *_, rank, code in sorted(ended):  # of those found together, one that was killed left the others
            self.ended[rank] = code
            asked = stopping and code in (*POLITE, -signal.SIGINT, -signal.SIGTERM)
            if code and not asked and not self.struck:
                self.failed[rank] = code
            if code:
                _kill_group(self.processes[rank])  # what it has started itself
        return len(self.ended) < self.ranks

    def _posts(self) -> list[Post | None]:
        with suppress(RuntimeError):
            return last_posts(self.store, self.ranks)
        return [None] * self.ranks

    def _send(self, number: int) -> None:
        for rank, process in enumerate(self.processes):
            if rank not in self.ended:
                process.send_signal(number)

    def status(self, received: list[int]) -> int:
        """The launcher's exit status; 1 where another attempt may help."""
        first = next(iter(self.failed.values()), 0)
        if received and first in (0, PEER_LOST):
            return 128 + received[0] if any(self.ended.values()) else 0
        return first if first in (0, USER_ERROR, *POLITE) else 1

    @property
    def dead(self) -> set[int]:
        """Ranks lost by themselves; one that another's end made leave, or abort, lives on."""
        first = next(iter(self.failed))
        killed = {rank for rank, code in self.failed.items() if code < 0 and code != -signal.SIGABRT}
        return killed | (set(self.silent) if self.failed[first] == PEER_LOST else {first})

    def report(self, remedy: str) -> None:
        """Say which rank was lost and where; of ranks that wait for one another, where each of them is."""
        posts = dict(enumerate(self._posts()))
        lost = [
            f"rank {n} {self._how(n)}" + (f" at {posts[n]}" if posts[n] else "") for n in sorted(self.dead)
        ]
        if not lost:
            rows = [(n, p.step, p.phase, f"{p.age:.0f}") if p else (n, "", "", "") for n, p in posts.items()]
            table(f"the ranks waited for one another{remedy}", ("rank", "step", "phase", "seconds ago"), rows)
        elif not self.silent or claim_error(self.store, -1):  # else a rank has told of the silent one
            say("; ".join(lost) + remedy)

    def _how(self, rank: int) -> str:
        if (code := self.failed.get(rank, 0)) >= 0:
            return f"left with exit status {code}" if code else "stopped answering"
        return "was killed by " + {-each: each.name for each in signal.Signals}.get(code, f"signal {-code}")

    def close(self) -> None:
        """Leave no rank behind, whatever has happened here."""
        for rank, process in enumerate(self.processes):
            if rank not in self.ended:
                _kill_group(process)
                process.wait()


def _terminal() -> bool:
    return sys.stdin is None or sys.stdin.closed or sys.stdin.isatty()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
