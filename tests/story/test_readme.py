"""The README's story, told to a new user's folder: every command and snippet from "your own text" on runs."""

from __future__ import annotations

import json
import re
import shlex
import signal
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUICK = {  # the same story, shorter
    "--vocab-size 4096": "--vocab-size 300",
    "--out runs/mine": "--out runs/mine --minutes 0.02 --no-serve",
    "steps: 500": "steps: 6",
    "step-000500": "step-000006",
    "width: 192, layers: 4, heads: 6": "width: 32, layers: 1, heads: 4",
    "samples:": "threads: 1, samples:",
    "plait serve runs/mine": "plait serve runs/mine --port 0",
}


def blocks() -> list[tuple[str, str]]:
    """(language, text) of the code blocks after the first section, comments left out of the shell's."""
    story = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The same with your own text")[2]
    story = story.partition("## Your machine")[0]
    for long, short in QUICK.items():
        assert long in story, long
        story = story.replace(long, short)
    return re.findall(r"```(\w+)\n(.*?)```", story, flags=re.DOTALL)


def test_the_readme_runs_word_for_word(plait, tmp_path, own_text, wait_until, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own_text(tmp_path / "my-folder")
    Path("held-out.txt").write_text("Nobody saw the river.\n", encoding="utf-8")
    Path("prompts.jsonl").write_text('{"prompt": "The "}\n', encoding="utf-8")
    server, url = None, ""

    def serve(words: list[str]) -> tuple:
        running = plait.start(*words, cwd=tmp_path)
        wait_until(lambda: "(Ctrl-C stops)" in running.stderr or not running.alive, "the server")
        return running, running.stderr.split(" at ")[-1].split(" (Ctrl-C")[0]

    for language, text in blocks():
        if language == "yaml":
            Path("mine.yaml").write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text.replace("http://127.0.0.1:8000", url), "README.md", "exec"), {})
        else:
            for line in text.splitlines():
                before, _, command = line.rpartition(" | ")
                words = shlex.split(command, comments=True)
                if words[:2] == ["plait", "serve"]:
                    server, url = serve(words[1:])
                elif words and words[0] == "plait":
                    plait.works(*words[1:], cwd=tmp_path, stdin=before.removeprefix("echo ") or "Hello\n")
    assert server is not None
    server.kill(signal.SIGINT)
    server.wait()
    assert capsys.readouterr().out.strip()  # the snippets printed their answers
    assert json.loads(Path("scores.json").read_text(encoding="utf-8"))["results"]
    assert Path("runs/mine-by-hand/report.html").is_file()
    assert Path("answers.jsonl").read_text(encoding="utf-8").count("\n") == 1
