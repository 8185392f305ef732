"""lm-evaluation-harness: every number is the one that its own Hugging Face model gets from a directory."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from plait.checkpoint.directory import save
from plait.cli import main
from plait.errors import ConfigError, InputError, ModelError
from plait.infer.engine import Engine
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.encoder_decoder import EncoderDecoder
from plait.nn.initialize import initialize
from plait.text.tokenizer import Tokenizer
from plait.text.train_tokenizer import train

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)  # of the harness and its libraries

TEXT = "the cat sat on the mat and the dog sat on the log, 猫坐在垫子上，狗坐在木头上。" * 8
QUESTIONS = [
    {"country": "France", "cities": ["Paris", "London", "Rome"], "answer": 0},
    {"country": "the 意大利 ", "cities": ["Paris", "Rome"], "answer": 1},
    {"country": "Spain " * 12, "cities": ["Madrid", "London"], "answer": 0},  # longer than the context
]
FILE = "dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
TASKS = {
    "capitals": 'output_type: multiple_choice\ndoc_to_text: "The capital of {{country}} is"\n'
    'doc_to_target: answer\ndoc_to_choice: "{{cities}}"\nfewshot_split: test\n'
    "metric_list: [{metric: acc}, {metric: acc_norm}]\nmetadata: {version: 1.0}\n",
    "running": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{country * 9}}"\n'
    "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n",
    "written": 'output_type: generate_until\ndoc_to_text: "{{country}}:"\ndoc_to_target: "{{cities[0]}}"\n'
    'generation_kwargs: {until: ["q", "\\n"], max_gen_toks: 12, do_sample: false}\n'
    "metric_list: [{metric: exact_match}, {metric: chrf}]\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Task files and their data."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "capitals.jsonl"
    data.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS), encoding="utf-8"
    )
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\n{FILE.format(data=data)}{text}", encoding="utf-8"
        )
    return folder


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A model with random weights and merges that may cross from a context into its continuation."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = train([TEXT], vocab_size=310)
    model = Decoder(
        ModelConfig(width=32, layers=2, heads=4, context=48, init_std=0.3, vocab=tokenizer.vocab_size)
    )
    initialize(model, 0)
    save(model, tokenizer, directory)
    return directory


@pytest.fixture(scope="module")
def theirs(directory):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(directory), device="cpu", dtype="float32", batch_size=1)


def run(folder: Path, name: str, lm) -> dict:
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_path=str(folder), include_defaults=False).load([name])
    for task in tasks["tasks"].values():
        task.set_config(key="num_fewshot", value=0)
    found = evaluator.evaluate(lm=lm, task_dict=tasks, bootstrap_iters=10)
    return {
        "samples": [(sample["arguments"], sample["resps"]) for sample in found["samples"][name]],
        "results": {
            key: value
            for key, value in found["results"][name].items()
            if "stderr" not in key and key not in ("alias", "name")
        },
    }


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("batch", [1, 8])
def test_every_number_is_that_of_the_harness_own_model(name, batch, folder, directory, theirs, capsys):
    from plait.eval.harness import Harness

    ours, reference = run(folder, name, Harness(Engine(directory), batch=batch)), run(folder, name, theirs)
    for (asked, said), (also_asked, wanted) in zip(ours["samples"], reference["samples"]):
        assert asked == also_asked
        for mine, other in zip(said, wanted):
            if name == "capitals":
                assert mine[0][0] == pytest.approx(other[0][0], abs=1e-3)
                assert mine[0][1] == other[0][1]
            else:
                assert mine == (pytest.approx(other, abs=1e-2) if name == "running" else other)
    assert ours["results"] == pytest.approx(reference["results"], rel=1e-4, abs=1e-6)
    if name == "capitals":
        assert "2 of 7 contexts are longer" in capsys.readouterr().err


def command(words: list[str]) -> int:
    """The exit code of `plait` with these words."""
    with pytest.raises(SystemExit) as end:
        main(words)
    return int(end.value.code or 0)


def test_the_command_scores_and_writes(folder, directory, tmp_path, capsys):
    out = tmp_path / "scores.json"
    words = [
        "evaluate",
        str(directory),
        "--task",
        "lm_eval:capitals",
        "--data",
        str(folder),
        "--out",
        str(out),
    ]
    assert command([*words, "--shots", "1", "--limit", "2"]) == 0
    assert "acc_norm" in capsys.readouterr().out
    first, second = json.loads(out.read_text(encoding="utf-8"))["results"]
    assert (first["task"], first["metric"], first["n"]) == ("lm_eval:capitals", "acc", 2)
    assert second["metric"] == "acc_norm"
    assert first["interval"][0] <= first["value"] <= first["interval"][1]
    assert "lm_eval:0.4" in first["signature"]
    assert "|version:1|shots:1|limit:2|" in first["signature"]
    assert {Path(file["path"]).name for file in first["data"]} == {
        "capitals.jsonl", "capitals.yaml", "running.yaml", "written.yaml",
    }  # fmt: skip


def test_an_encoder_decoder_reads_contexts_and_writes_answers(folder, directory):
    from plait.eval.harness import Harness

    tokenizer = Engine(directory).tokenizer
    shape = {"width": 32, "layers": 2, "encoder_layers": 2, "heads": 4, "context": 48, "init_std": 0.3}
    model = EncoderDecoder(ModelConfig(**shape, vocab=tokenizer.vocab_size, decoder_start=1))
    initialize(model, 0)
    lm = Harness(Engine(model, tokenizer))
    assert 0 <= run(folder, "capitals", lm)["results"]["acc,none"] <= 1
    assert "chrf,none" in run(folder, "written", lm)["results"]
    with pytest.raises(ModelError, match="an encoder-decoder, which gives no probability"):
        run(folder, "running", lm)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "lm_eval:capital", "--data", "{folder}"], "unknown; did you mean 'capitals'"),
        (["--task", "lm_eval:capitals", "--data", "nowhere"], "nowhere is no folder with task files"),
        (["--task", "lm_eval:capitals", "--data", "{folder}", "--metric", "bleu"], "says itself how data"),
        (
            ["--task", "perplexity", "--data", "{folder}", "--shots", "1"],
            "--shots is for --task lm_eval:NAME",
        ),
    ],
)
def test_a_mistake_is_told(words, message, folder, directory, capsys):
    assert command(["evaluate", str(directory), *(word.format(folder=folder) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_data_that_are_not_there_are_named(folder, directory, tmp_path, capsys):
    text = (folder / "capitals.yaml").read_text(encoding="utf-8")
    (tmp_path / "lost.yaml").write_text(text.replace("capitals.jsonl", "lost.jsonl"), encoding="utf-8")
    (tmp_path / "wrong.yaml").write_text(
        text.replace("task: capitals", "task: wrong").replace("{{cities}}", "{{towns}}"), encoding="utf-8"
    )
    words = ["evaluate", str(directory), "--data", str(tmp_path), "--task"]
    assert command([*words, "lm_eval:capitals"]) == 2
    assert "the data of lm_eval:capitals cannot be read: Unable to find" in capsys.readouterr().err
    assert command([*words, "lm_eval:wrong"]) == 2
    assert "lm_eval:wrong cannot be read: 'towns' is undefined" in capsys.readouterr().err


def test_without_a_context_what_begins_a_text_is_no_part_of_its_continuation(directory):
    from tokenizers import Tokenizer as Backend
    from tokenizers import processors

    from plait.eval.harness import Harness

    engine = Engine(directory)
    backend = Backend.from_str((directory / "tokenizer.json").read_text(encoding="utf-8"))
    end = engine.tokenizer.eos_id
    assert end is not None
    backend.post_processor = processors.TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", end)]
    )
    named = {"bos_token": "<|end|>", "eos_token": "<|end|>"}
    engine.tokenizer = Tokenizer(backend.to_str(), named)
    plain = engine.tokenizer.encode_plain("the cat")
    assert engine.tokenizer.encode_prompt("the cat") == [end, *plain]
    assert Harness(engine)._pair("", "the cat") == ([end], plain)
    prompt, target = Harness(engine)._pair("the", " cat")
    assert prompt[0] == end
    assert prompt[1:] + target == engine.tokenizer.encode_plain("the cat")


def test_generation_settings():
    from plait.eval.harness import sampling

    greedy = sampling({"until": "\n", "do_sample": False, "temperature": 0.7})
    assert (greedy.temperature, greedy.stop, greedy.max_tokens) == (0, ("\n",), 256)
    free = sampling({"until": ["", "a"], "temperature": 0.7, "top_p": 0.9, "max_gen_toks": 5})
    assert (free.temperature, free.top_p, free.stop, free.max_tokens) == (0.7, 0.9, ("a",), 5)
    with pytest.raises(ConfigError, match="num_beams"):
        sampling({"num_beams": 4})
    with pytest.raises(ConfigError, match="hold length_penalty; plait follows until"):
        sampling({"length_penalty": 2})


def test_a_continuation_longer_than_the_context_is_refused(directory):
    from lm_eval.api.instance import Instance

    from plait.eval.harness import Harness

    request = Instance("loglikelihood", {}, ("the cat", " x" * 60), 0)
    with pytest.raises(InputError, match=r"has \d+ tokens, more than the model's context of 48"):
        Harness(Engine(directory)).loglikelihood([request])


def test_the_task_of_the_documentation_works(directory, tmp_path, monkeypatch, capsys):
    page = Path(__file__).resolve().parents[2] / "docs/concepts/scores.md"
    (task,) = re.findall(r"```yaml\n(task: .*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/capitals.yaml").write_text(task, encoding="utf-8")
    (tmp_path / "tasks/capitals.jsonl").write_text(json.dumps(QUESTIONS[0]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert command(["evaluate", str(directory), "--task", "lm_eval:capitals", "--data", "tasks"]) == 0
    assert "acc_norm" in capsys.readouterr().out
