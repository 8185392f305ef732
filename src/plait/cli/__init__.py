"""The command line: verbs only; each calls one recipe. `plait --help` imports no torch."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import sys

from cyclopts import CycloptsError, UnknownOptionError, UnusedCliTokensError

from plait.cli.app import app, flowing
from plait.cli.applying import answer, chat, classify, complete, summarize, translate
from plait.cli.models import evaluate, generate, score, serve
from plait.cli.settings import config, device
from plait.cli.texts import prepare, tokenize, tokenizer
from plait.cli.training import prove, quickstart, train
from plait.errors import PlaitError
from plait.log import console

STDIN = "/dev/stdin"
for verb in (
    quickstart, prepare, tokenizer, tokenize, train, prove, evaluate, score, generate, translate, summarize,
    answer, classify, complete, chat, serve, device,
):  # fmt: skip
    app.command(flowing(verb))
app.command(config)


def main(words: list[str] | None = None) -> None:
    """Run the command line; user errors are one line and exit code 2, Ctrl-C is 130, SIGTERM 143."""
    atexit.register(gc.freeze)  # or leaving searches all that torch has made for cycles, for half a second
    words = sys.argv[1:] if words is None else words
    debug = "--debug" in words
    words = _with_stdin([word for word in words if word != "--debug"])
    try:
        app(words, exit_on_error=False, print_error=False)
    except PlaitError as error:
        if debug:
            raise
        fail(str(error), error.exit_code)
    except CycloptsError as error:
        if debug:
            raise
        fail(_usage(words, error), 2)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # a path that may not be read or written
        if error.errno == errno.ENOSPC and error.filename is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            fail("standard output: no space left on the device", 2)
        if debug or error.filename is None:
            raise
        fail(f"{error.filename}: {(error.strerror or 'cannot be used').lower()}", 2)


def _with_stdin(words: list[str]) -> list[str]:
    """`-` where a file is expected, which would look like an option, under its name in the file system."""
    verb = words[0] if words else ""
    files = verb in ("prepare", "tokenizer", "tokenize", "evaluate")
    return [
        STDIN if word == "-" and (files or before == "--input") else word
        for before, word in zip(["", *words], words)
    ]


def _usage(words: list[str], error: CycloptsError) -> str:
    """What is wrong with the words of a command, in one line."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        flag = {"quickstart": "--text", "evaluate": "--data"}.get(words[0])
        hint = f"; did you mean {flag} {error.unused_tokens[0]}?" if flag else "; see --help"
        return f"unexpected {error.unused_tokens[0]!r}{hint}"
    message = " ".join(str(error).split()).rstrip(".")
    spaced = next((word for word in words if word.startswith("-") and " " in word and "=" not in word), None)
    if isinstance(error, UnknownOptionError) and spaced:
        return f"{message}; a text that begins with '-' goes to the end, after --"
    return f"{message}; see --help"


def fail(message: str, code: int) -> None:
    """Print one line of error and leave."""
    console().print(f"plait: {message}", style="red" if code == 2 else None, markup=False)
    sys.exit(code)
