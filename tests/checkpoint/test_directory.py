import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import plait.checkpoint
from plait.checkpoint.directory import load, load_model, save, save_model, weights_of
from plait.checkpoint.tensors import write_tensors
from plait.errors import ModelError
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.initialize import initialize
from plait.text.train_tokenizer import train

SMALL = {"width": 16, "layers": 2, "heads": 2, "context": 16, "ffn": 32}
TOKENIZER = train(["a"], kind="byte")
TOKENS = torch.arange(12)[None]


def decoder(**fields) -> Decoder:
    model = Decoder(ModelConfig(**{"vocab": TOKENIZER.vocab_size, **SMALL, **fields}))
    initialize(model, seed=1)
    return model.eval()


@pytest.fixture
def model_dir(tmp_path) -> Path:
    return save(decoder(), TOKENIZER, tmp_path / "model")


PLAIT_ONLY = {"activation": "relu2", "gated": False, "position": "t5", "norm_place": "sandwich"}


@pytest.mark.parametrize("fields", [{}, {"tied": False}, {"experts": 4}, PLAIT_ONLY, {"head_bias": True}])
@pytest.mark.parametrize("max_shard", [4 * 1024**3, 4_000])
@torch.no_grad()
def test_a_saved_model_comes_back_bit_for_bit(fields, max_shard, tmp_path):
    model = decoder(**fields)
    save(model, TOKENIZER, tmp_path / "model", max_shard=max_shard)
    back, tokenizer = load(tmp_path / "model")
    assert back.config == model.config
    assert torch.equal(back(TOKENS), model(TOKENS))
    assert not back.training
    assert tokenizer.fingerprint == TOKENIZER.fingerprint
    assert (tmp_path / "model" / "model.safetensors.index.json").exists() == (max_shard == 4_000)


def test_the_directory_holds_what_a_hugging_face_directory_holds(model_dir):
    assert {path.name for path in model_dir.iterdir()} == {
        "config.json", "model.safetensors", "generation_config.json", "README.md",
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    tensors = load_file(model_dir / "model.safetensors")
    assert "lm_head.weight" not in tensors  # tied: stored once
    assert "model.layers.1.self_attn.q_norm.weight" in tensors
    assert json.loads((model_dir / "generation_config.json").read_text())["eos_token_id"] == TOKENIZER.eos_id
    assert "plait.load" in (model_dir / "README.md").read_text(encoding="utf-8")


def test_card_generation_and_dtype_are_the_callers(tmp_path):
    model = decoder()
    config, weights = model.config, dict(model.state_dict())
    where = save_model(
        tmp_path / "model",
        weights,
        config,
        None,
        save_dtype="bfloat16",
        card="# 模型\n",
        generation={"top_k": 5},
    )
    assert (where / "README.md").read_text(encoding="utf-8") == "# 模型\n"
    assert json.loads((where / "generation_config.json").read_text()) == {"top_k": 5}
    assert weights_of(load_model(where))[1]["norm.weight"].dtype == torch.bfloat16


def test_a_configuration_no_family_has_is_announced_once(tmp_path, capsys):
    model = decoder(logit_softcap=17.0)
    save(model, TOKENIZER, tmp_path / "one")
    save(model, TOKENIZER, tmp_path / "two")
    said = capsys.readouterr().err
    assert said.count("saved as model_type plait") == 1
    assert "nearest: qwen3, which has logit_softcap=0.0)" in said


def test_saving_over_a_model_replaces_it_and_over_anything_else_is_refused(model_dir, tmp_path, monkeypatch):
    save(decoder(layers=1), TOKENIZER, model_dir)
    assert load_model(model_dir).config.layers == 1
    (tmp_path / "link").symlink_to(model_dir)
    save(decoder(layers=3), TOKENIZER, tmp_path / "link")
    assert load_model(model_dir).config.layers == 3
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    refusal = "holds chapter.tex, which is no part of a model; choose another name"
    with pytest.raises(ModelError, match=refusal):
        save(decoder(), TOKENIZER, tmp_path / "thesis")
    (model_dir / "chapter.tex").write_text("x")
    with pytest.raises(ModelError, match=refusal):
        save(decoder(), TOKENIZER, model_dir)
    assert load_model(model_dir).config.layers == 3
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="file is a file; choose another name"):
        save(decoder(), TOKENIZER, tmp_path / "file")
    monkeypatch.chdir(model_dir)
    (model_dir / "chapter.tex").unlink()
    with pytest.raises(ModelError, match="is the working directory, which cannot be replaced"):
        save(decoder(), TOKENIZER, ".")
    assert not list(tmp_path.glob(".*"))


def test_loaded_weights_do_not_hang_on_the_file(model_dir):
    model = load_model(model_dir)
    before = model(TOKENS).clone()
    with (model_dir / "model.safetensors").open("r+b") as file:
        file.truncate(8)
    assert torch.equal(model(TOKENS), before)


def test_mixed_dtypes_load_as_the_widest(model_dir):
    path = model_dir / "model.safetensors"
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float()
    save_file(tensors, path)
    assert {parameter.dtype for parameter in load_model(model_dir).parameters()} == {torch.float32}


def test_our_files_are_safetensors_as_the_library_writes_them(tmp_path):
    tensors = {
        "odd": torch.randn(3, 5).bfloat16(), "wide": torch.randn(2, 2, dtype=torch.float64),
        "flag": torch.tensor([True, False, True]), "step": torch.tensor(7.0), "none": torch.empty(0, 4),
        "turned": torch.randn(4, 3).T, "名": torch.arange(3),
    }  # fmt: skip
    write_tensors(tmp_path / "x.safetensors", tensors)
    back = load_file(tmp_path / "x.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def rewrite(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


def test_a_tied_head_written_twice_is_accepted_only_if_equal(model_dir):
    path = model_dir / "model.safetensors"
    rewrite(
        path, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    )
    load_model(model_dir)
    rewrite(path, lambda tensors: tensors["lm_head.weight"].add_(1))
    with pytest.raises(ModelError, match=r"holds lm_head\.weight, which this model does not have"):
        load_model(model_dir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), r"lacks model\.norm\.weight; config\.json and weights do not"),
        (lambda t: t.update(a=torch.ones(1), b=torch.ones(1)), "holds a, b, which this model does not have"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(5)}),
            r"model\.safetensors: model\.norm\.weight has shape \[5\], config\.json asks for \[16\]",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(16, dtype=torch.int8)}),
            r"model\.norm\.weight is I8, not floating point",
        ),
        (
            lambda t: [t.pop(name) for name in list(t) if ".1." in name],
            r"lacks model\.layers\.1\.\S+, \S+, \S+ and \d+ more tensors",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message, model_dir):
    rewrite(model_dir / "model.safetensors", change)
    with pytest.raises(ModelError, match=message):
        load_model(model_dir)


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_cut_file_is_named(keep, model_dir):
    path = model_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=f"{re.escape(str(path))} is damaged or cut short"):
        load_model(model_dir)


@pytest.mark.parametrize("text", ["{", "[1]", "\x00"])
def test_a_damaged_configuration_is_named(text, model_dir):
    (model_dir / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json is damaged or cut short"):
        load_model(model_dir)


def test_a_configuration_plait_cannot_express_names_the_directory_too(model_dir):
    edit(model_dir / "config.json", hidden_act="mish")
    with pytest.raises(ModelError, match=f"{re.escape(str(model_dir))}: config.json: hidden_act='mish'"):
        load_model(model_dir)


def test_a_missing_shard_is_named(tmp_path):
    where = save(decoder(), TOKENIZER, tmp_path / "model", max_shard=4_000)
    gone = sorted(where.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ModelError, match=f"{re.escape(str(gone))} is missing"):
        load_model(where)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "a\\b"])
def test_an_index_cannot_lead_out_of_the_directory(name, tmp_path):
    where = save(decoder(), TOKENIZER, tmp_path / "model", max_shard=4_000)
    edit(where / "model.safetensors.index.json", weight_map={"x": name})
    with pytest.raises(ModelError, match="only plain file names beside it are opened"):
        load_model(where)


@pytest.mark.parametrize("index", ["{}", "[]", '{"weight_map": [1]}', '{"weight_map": {"a": 3}}', "{"])
def test_a_damaged_index_is_named(index, tmp_path):
    where = save(decoder(), TOKENIZER, tmp_path / "model", max_shard=4_000)
    (where / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=r"index\.json is damaged or cut short"):
        load_model(where)


def test_a_pickle_is_refused_with_the_way_to_convert_it(model_dir):
    (model_dir / "model.safetensors").rename(model_dir / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle.*save_pretrained"):
        load_model(model_dir)
    (model_dir / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        load_model(model_dir)


def test_a_tokenizer_larger_than_the_model_is_refused(model_dir):
    other = save(decoder(vocab=100), None, model_dir.parent / "small")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_dir / name, other)
    with pytest.raises(ModelError, match="the tokenizer has 261 tokens, the model only 100"):
        load(other)


def test_nothing_here_can_unpickle():
    for path in Path(plait.checkpoint.__path__[0]).glob("*.py"):
        code = path.read_text(encoding="utf-8")
        assert not re.search(
            r"^\s*(import|from)\s+(pickle|cloudpickle|dill|joblib|shelve|marshal)\b", code, re.M
        )
        assert "torch.load" not in code


def test_loading_never_calls_pickle(model_dir, monkeypatch):
    def no(*_, **__):
        raise AssertionError("unpickled")

    monkeypatch.setattr("pickle.load", no)
    monkeypatch.setattr("pickle.loads", no)
    monkeypatch.setattr("pickle.Unpickler", no)
    monkeypatch.setattr("torch.load", no)
    load(model_dir)
