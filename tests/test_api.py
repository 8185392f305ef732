import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

import plait
from plait.config import build, dump_yaml, merge
from plait.errors import BusyError, ConfigError, PlaitError

TEXT = "".join(f"Line {n}: the quick brown fox jumps over the lazy dog.\n" for n in range(60))


@pytest.fixture
def values(tmp_path: Path) -> dict:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    return {
        "out": str(tmp_path / "run"),
        "data": {"text": str(tmp_path / "a.txt")},
        "tokenizer": {"kind": "byte"},
        "model": {"width": 16, "layers": 1, "heads": 2, "context": 16},
        "train": {
            "steps": 6, "batch_size": 2, "lr": 3e-3, "threads": 1, "dtype": "float32", "tensorboard": False,
            "sample_tokens": 0, "eval_every": 3, "save_every": 4,
        },
    }  # fmt: skip


def losses(steps) -> list[float]:
    return [step.loss for step in steps]


def checkpoints(values: dict) -> list[str]:
    return sorted(path.name for path in Path(values["out"], "checkpoints").glob("step-*"))


def test_importing_plait_is_light():
    code = """
import sys, plait
assert "plait.api" not in sys.modules and "pydantic" not in sys.modules
plait.ModelConfig, plait.Tokenizer, plait.Recipe, plait.train, plait.PlaitError
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_and_train_is_a_package_that_can_be_called():
    from plait.train.loop import train as loop

    assert all(getattr(plait, name) is not None for name in plait.__all__)
    assert dir(plait) == sorted(plait.__all__)
    assert callable(plait.train)
    assert sys.modules["plait.train.loop"].train is loop


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'plait' has no attribute 'trian'"):
        _ = plait.trian  # type: ignore[attr-defined]


def test_training_yields_every_step_once_it_is_logged(values):
    seen = []
    for step in plait.train(values):
        log = Path(values["out"], "log.jsonl").read_text(encoding="utf-8").splitlines()
        assert json.loads(log[-1])["step"] == step.number
        seen.append(step)
    assert [step.number for step in seen] == [1, 2, 3, 4, 5, 6]
    assert [step.number for step in seen if step.val_loss is not None] == [3, 6]
    assert checkpoints(values)[-1] == "step-000006"
    model, tokenizer = plait.load(values["out"])
    logits = model(torch.tensor([tokenizer.encode("the quick")]))
    assert logits.shape == (1, 9, tokenizer.vocab_size)


def test_a_recipe_is_a_file_a_mapping_or_a_recipe_and_changes_are_nested_or_dotted(values, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(dump_yaml(values), encoding="utf-8")
    ways = [path, values, build(plait.Recipe, values)]
    runs = [
        losses(plait.train(way, out=str(tmp_path / f"run{n}"), train={"lr": 1e-2}, **{"train.steps": 2}))
        for n, way in enumerate(ways)
    ]
    assert runs[0] == runs[1] == runs[2]
    assert len(runs[0]) == 2
    with pytest.raises(ConfigError, match=r"recipe: unknown key 'train.leer'; did you mean 'lr'"):
        plait.train(values, train={"leer": 1})  # told by the call, before any step


def test_leaving_early_saves_and_resuming_goes_on_exactly(values, tmp_path):
    whole = losses(plait.train(values, out=str(tmp_path / "whole")))
    for step in plait.train(values):
        if step.number == 2:
            break
    assert checkpoints(values) == ["step-000002"]
    with pytest.raises(BusyError, match="holds a run already"):
        next(plait.train(values))
    assert losses(plait.train(values, resume=True)) == whole[2:]
    assert losses(plait.train(values, resume=True)) == []


def test_a_program_that_ends_amid_its_steps_leaves_a_checkpoint(values):
    code = f"""
import plait
steps = plait.train({values!r})
for step in steps:
    if step.number == 2:
        raise ValueError("a bug of the user's")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "a bug of the user's" in run.stderr
    assert "Exception ignored" not in run.stderr
    assert checkpoints(values) == ["step-000002"]


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"batch_size": None, "batch_tokens": 40}},
        {"train": {"optimizer": "sgd", "momentum": 0.0}},
        {"train": {"optimizer": "muon", "ema": 0.9}},
        {"model": {"experts": 2, "dropout": 0.2}},
        {"train": {"samples": ["\n", "1e5"], "sample_tokens": 2}},
    ],
    ids=["batch_tokens", "sgd", "muon", "experts", "samples"],
)
def test_every_kind_of_run_resumes_exactly(values, tmp_path, change):
    values = merge(values, change)
    whole = losses(plait.train(values, out=str(tmp_path / "whole")))
    assert losses(islice(plait.train(values), 3)) == whole[:3]
    assert losses(plait.train(values, resume=True)) == whole[3:]


def test_a_run_from_a_model_resumes(values, tmp_path):
    for _ in plait.train(values, train={"steps": 1}):
        pass
    tuned = {key: value for key, value in values.items() if key != "tokenizer"}
    tuned |= {"model": {"from": values["out"], "dropout": 0.1}, "out": str(tmp_path / "tuned")}
    whole = losses(plait.train(tuned, out=str(tmp_path / "whole")))
    assert losses(islice(plait.train(tuned), 2)) == whole[:2]
    assert losses(plait.train(tuned, resume=True)) == whole[2:]


def test_a_stop_is_reached_once_and_then_moved(values):
    assert len(losses(plait.train(values, train={"stop_after": 2}))) == 2
    assert losses(plait.train(values, resume=True, train={"stop_after": 2})) == []
    assert losses(plait.train(values, resume=True, train={"stop_after": 1})) == []
    assert [step.number for step in plait.train(values, resume=True)] == [3, 4, 5, 6]


def test_generate_and_score_open_a_run(values):
    for _ in plait.train(values, train={"steps": 1}):
        pass
    (done,) = plait.generate(values["out"], "the", max_tokens=4, temperature=0)
    assert len(done.tokens) <= 4
    assert plait.Engine(values["out"]).generate("the", plait.SamplingParams(max_tokens=4, temperature=0)) == [
        done
    ]
    with pytest.raises(ConfigError, match="generate: unknown key 'max_token'"):
        plait.generate(values["out"], "the", max_token=4)
    scored = plait.score(values["out"], "the")
    assert scored.total < 0
    assert [token.text for token in scored.tokens] == ["t", "h", "e"]


def test_a_pause_changes_neither_patience_nor_averages(values):
    changes = {"train.steps": 12, "train.patience": 2, "train.lr": 1e-9, "train.average_last": 2}
    changes |= {"train.eval_every": 4, "train.save_every": 3}
    whole = list(plait.train(values, out=values["out"] + "-whole", **changes))
    list(plait.train(values, **changes, **{"train.stop_after": 5}))
    rest = list(plait.train(values, resume=True, **changes))
    assert rest[-1].number == whole[-1].number
    averages = [
        plait.load(f"{run}:average")[0].state_dict() for run in (values["out"], values["out"] + "-whole")
    ]
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])


def test_validation_measures_the_same_rows_from_the_first_to_the_last(values):
    frozen = {"train.lr": 1e-12, "train.eval_every": 2, "train.eval_rows": 2, "train.weight_decay": 0}
    measured = [step.val_loss for step in plait.train(values, **frozen) if step.val_loss is not None]
    assert measured == pytest.approx([measured[0]] * 3, abs=1e-6)


def test_what_ends_a_run_is_told_and_not_that_there_is_no_report(values, monkeypatch, capsys):
    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr("plait.parallel.placed.Placed.forward_backward", no_memory)
    with pytest.raises(PlaitError, match=r"out of memory at step 1; lower train.micro_batch \(2 now\)"):
        list(plait.train(values))
    assert "no report is written" in capsys.readouterr().err


def test_how_a_run_is_computed_may_change_on_the_way(values, capsys):
    before = losses(plait.train(values, out=values["out"] + "-whole", **{"train.batch_size": 4}))
    list(plait.train(values, **{"train.batch_size": 4, "train.stop_after": 4}))
    after = losses(plait.train(values, resume=True, **{"train.batch_size": 4, "train.micro_batch": 1}))
    assert (
        "train.micro_batch was 4: from here on the run may differ in the last bits" in capsys.readouterr().err
    )
    assert after == pytest.approx(before[4:], rel=1e-4)


def test_without_a_length_an_answer_ends_with_the_context(values):
    list(plait.train(values))
    (done,) = plait.generate(values["out"], "Line 1")
    assert done.prompt_tokens + len(done.tokens) <= 16
    with pytest.raises(PlaitError, match="more than the model's context of 16"):
        plait.generate(values["out"], "Line 1", max_tokens=99)
