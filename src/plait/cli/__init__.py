"""The command line: verbs only; each calls one recipe. `plait --help` imports no torch."""

from __future__ import annotations

import os
import sys

from cyclopts import CycloptsError

from plait.cli.app import app
from plait.cli.models import chat, evaluate, generate, score, serve
from plait.cli.settings import config, device
from plait.cli.texts import prepare, tokenize, tokenizer
from plait.cli.training import quickstart, train
from plait.errors import PlaitError
from plait.log import console

for verb in (
    quickstart, prepare, tokenizer, tokenize, train, evaluate, score, generate, chat, serve, config, device,
):  # fmt: skip
    app.command(verb)


def main(words: list[str] | None = None) -> None:
    """Run the command line; user errors are one line and exit code 2, Ctrl-C is 130, SIGTERM 143."""
    words = sys.argv[1:] if words is None else words
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        app(words, exit_on_error=False, print_error=False)
    except PlaitError as error:
        if debug:
            raise
        fail(str(error), error.exit_code)
    except CycloptsError as error:
        if debug:
            raise
        fail(" ".join(str(error).split()).rstrip(".") + "; see --help", 2)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # a path that may not be read or written
        if debug or error.filename is None:
            raise
        fail(f"{error.filename}: {(error.strerror or 'cannot be used').lower()}", 2)


def fail(message: str, code: int) -> None:
    """Print one line of error and leave."""
    console().print(f"plait: {message}", style="red" if code == 2 else None, markup=False)
    sys.exit(code)
