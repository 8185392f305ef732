"""Starts `plait` commands as real processes without paying for the imports each time.

Reads one JSON request a line: `{words, cwd, env, stdin, stdout, stderr, max_file, plant}` forks a process
that runs the command, after the Python text `plant`, and answers its pid; `{wait: pid}` answers its exit
status, negative for the signal that ended it.
"""

import atexit
import importlib
import json
import os
import resource
import sys
import threading
import traceback
from typing import NoReturn

for name in (
    "train", "evaluate", "generate", "score", "chat", "serve", "prepare", "tokenizer", "dry_run",
    "quickstart", "quickstart_scores",
):  # fmt: skip
    importlib.import_module(f"plait.recipes.{name}")
for name in ("_dynamo", "distributed.fsdp", "distributed.pipelining"):  # which runs import when needed
    importlib.import_module(f"torch.{name}")
from plait.cli import main  # noqa: E402


def become(request: dict) -> None:
    """Turn this fork into what a shell would have started."""
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    for target, (path, flags) in enumerate(
        (
            (request["stdin"], os.O_RDONLY),
            (request["stdout"], os.O_WRONLY | os.O_CREAT),
            (request["stderr"], os.O_WRONLY | os.O_CREAT),
        )
    ):
        os.dup2(os.open(path, flags), target)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    if request["max_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["max_file"], request["max_file"]))
    exec(request["plant"], {})


def serve() -> dict | None:
    """Answer requests; in a fork, return the request that it is for."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    os.set_inheritable(requests.fileno(), False)
    for line in iter(requests.readline, b""):
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        elif (answer := os.fork()) == 0:
            return request
        answers.write(b"%d\n" % answer)
    return None


def run(words: list[str]) -> NoReturn:
    """Run the command and leave as the interpreter does, but for taking modules apart, which is slow."""
    code = 0
    try:
        main(words)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = 120
    os._exit(code)


if __name__ == "__main__" and (mine := serve()):
    become(mine)
    run(mine["words"])
