"""plait and transformers open each other's encoder-decoders and compute the same, family by family."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

from plait.checkpoint.directory import load, load_model, read_config, save  # noqa: E402
from plait.errors import ModelError  # noqa: E402
from plait.infer.cache import KVCache  # noqa: E402
from plait.nn.config import ModelConfig  # noqa: E402
from plait.nn.encoder_decoder import EncoderDecoder, build  # noqa: E402
from plait.nn.initialize import initialize  # noqa: E402
from plait.recipes.recipe import load_recipe  # noqa: E402
from plait.text.train_tokenizer import train  # noqa: E402

LENGTHS = torch.tensor([13, 5, 9])
SOURCE = torch.arange(3 * 13).reshape(3, 13).mul(7).remainder(90) + 3
TARGET = torch.arange(3 * 11).reshape(3, 11).mul(5).remainder(90) + 3
STEPS = torch.arange(13).expand(3, -1)
POSITIONS = torch.where(LENGTHS[:, None] > STEPS, STEPS, -1)
SPECIAL = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "decoder_start_token_id": 1}
BART = SPECIAL | {
    "vocab_size": 97, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "max_position_embeddings": 40, "forced_eos_token_id": None,
}  # fmt: skip
T5 = SPECIAL | {
    "vocab_size": 97, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3,
    "num_heads": 4, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12,
}  # fmt: skip
APART = {"share_encoder_decoder_embeddings": False}
THEIRS = {
    "marian": ("MarianMTModel", BART | {"activation_function": "swish", "scale_embedding": True}),
    "marian-apart": ("MarianMTModel", BART | APART | {"activation_function": "relu"}),
    "marian-apart-untied": ("MarianMTModel", BART | APART | {"tie_word_embeddings": False}),
    "bart": ("BartForConditionalGeneration", BART),
    "bart-scaled": ("BartForConditionalGeneration", BART | {"scale_embedding": True, "encoder_layers": 1}),
    "mbart": ("MBartForConditionalGeneration", BART | {"scale_embedding": True}),
    "pegasus": ("PegasusForConditionalGeneration", BART | {"scale_embedding": True}),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5-unscaled": (
        "T5ForConditionalGeneration",
        T5 | {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"},
    ),
    "t5-gated-silu": ("T5ForConditionalGeneration", T5 | {"feed_forward_proj": "gated-silu"}),
    "mt5": ("MT5ForConditionalGeneration", T5),
}

SMALL = {
    "vocab": 261, "width": 32, "layers": 3, "encoder_layers": 2, "heads": 4, "kv_heads": 4, "ffn": 48,
    "context": 64, "qk_norm": False,
}  # fmt: skip
BIASES = dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), True)
PLAIN = SMALL | BIASES | {"norm": "layer", "norm_eps": 1e-5, "norm_place": "post", "gated": False}
MARIAN = PLAIN | {"position": "sinusoidal", "embed_scale": 32**0.5}
LEARNED = PLAIN | {"position": "learned", "embed_norm": True, "activation": "gelu"}
RELATIVE = SMALL | {"position": "t5", "attn_scale": 1.0, "activation": "gelu_tanh", "head_dim": 6}
OURS = {
    "marian": ModelConfig(**MARIAN, activation="relu", dropout=0.3, attn_dropout=0.1),
    "marian-start": ModelConfig(**MARIAN | {"embed_scale": 5.656854}, decoder_start=7),
    "marian-bias": ModelConfig(**MARIAN, head_bias=True, init_std=0.03),
    "marian-apart": ModelConfig(**MARIAN, shared_embeddings=False),
    "marian-apart-untied": ModelConfig(**MARIAN, shared_embeddings=False, tied=False, head_bias=True),
    "bart": ModelConfig(**LEARNED),
    "bart-bias": ModelConfig(**LEARNED, head_bias=True),
    "mbart": ModelConfig(**LEARNED | {"norm_place": "pre"}),
    "pegasus": ModelConfig(**MARIAN | {"norm_place": "pre", "activation": "gelu"}),
    "t5": ModelConfig(**RELATIVE | {"gated": False, "activation": "relu"}, logit_scale=32**-0.5),
    "t5-1.1": ModelConfig(**RELATIVE, tied=False, t5_buckets=8, t5_max_distance=20),
    "t5-tied-unscaled": ModelConfig(**RELATIVE),
}


def randomize(model: torch.nn.Module) -> None:
    """Values large enough that a swapped or forgotten tensor shows, in norms and biases too."""
    generator = torch.Generator().manual_seed(0)
    bias = [tensor for name, tensor in model.named_buffers() if name == "final_logits_bias"]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for tensor in trained + bias:
            tensor.add_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) * 0.15)


def theirs(name: str):
    kind, settings = THEIRS[name]
    torch.manual_seed(0)
    model_class = getattr(transformers, kind)
    model = model_class(model_class.config_class(**json.loads(json.dumps(settings))))
    randomize(model)
    return model.eval()


def ours(name: str) -> EncoderDecoder:
    model = build(OURS[name])
    assert isinstance(model, EncoderDecoder)
    initialize(model, seed=0)
    randomize(model)
    return model.eval()


def logits_of_theirs(model) -> torch.Tensor:
    seen = (POSITIONS >= 0).long()
    return model(input_ids=SOURCE, attention_mask=seen, decoder_input_ids=TARGET).logits


def logits_of_ours(model) -> torch.Tensor:
    return model(TARGET, memory=model.encode(SOURCE, POSITIONS))


@torch.no_grad()
def greedy(model: EncoderDecoder, start: int, count: int) -> torch.Tensor:
    cache = KVCache(len(SOURCE))
    cache.memory = model.encode(SOURCE, POSITIONS)
    tokens = torch.full((len(SOURCE), 1), start)
    for _ in range(count):
        where = cache.next_positions()
        logits = model(tokens[:, -1:], positions=where, cache=cache, memory=cache.memory)
        tokens = torch.cat((tokens, logits[:, -1].argmax(-1, keepdim=True)), dim=1)
    return tokens


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_plait_computes_what_a_transformers_directory_means(name, tmp_path):
    model = theirs(name)
    model.save_pretrained(tmp_path)
    mine = load_model(tmp_path)
    assert isinstance(mine, EncoderDecoder)
    assert mine.config.decoder_start == 1
    torch.testing.assert_close(logits_of_ours(mine), logits_of_theirs(model), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", OURS)
@torch.no_grad()
def test_transformers_computes_what_a_plait_directory_means(name, tmp_path):
    model = ours(name)
    save(model, train(["a"], kind="byte"), tmp_path / "model", max_shard=30_000)
    other, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert other.config.model_type == name.partition("-")[0]
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(logits_of_theirs(other), logits_of_ours(model), rtol=0, atol=1e-4)
    padding = other.generation_config.pad_token_id
    start = padding if model.config.decoder_start < 0 else model.config.decoder_start
    assert other.config.decoder_start_token_id == other.generation_config.decoder_start_token_id == start
    assert other.generation_config.suppress_tokens == sorted({padding, start})
    other.generation_config.suppress_tokens = None  # the loop below looks at logits alone
    written = other.generate(
        SOURCE,
        attention_mask=(POSITIONS >= 0).long(),
        do_sample=False,
        max_new_tokens=12,
        eos_token_id=None,
        use_cache=False,  # theirs for T5 has as many layers as the encoder
    )
    assert torch.equal(written, greedy(model, start, 12))


@pytest.mark.parametrize(
    "recipe", ["translate", "answer", "classify", "zh-en", "multi30k-raw", "multi30k-en-de"]
)
@torch.no_grad()
def test_transformers_opens_what_the_recipes_train(recipe, tmp_path):
    config = load_recipe(recipe).model
    assert isinstance(config, ModelConfig)
    model = build(config.model_copy(update={"vocab": 261})).eval()
    assert isinstance(model, EncoderDecoder)
    initialize(model, seed=0)
    tokenizer = train(["a"], kind="byte")
    save(model, tokenizer, tmp_path / "model")
    other = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    reads = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert reads("two words").input_ids == [*tokenizer.encode("two words"), tokenizer.eos_id]
    torch.testing.assert_close(logits_of_theirs(other), logits_of_ours(model), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", OURS)
@torch.no_grad()
def test_a_saved_model_comes_back_field_by_field_and_tensor_by_tensor(name, tmp_path):
    model = ours(name)
    save(model, None, tmp_path / "model")
    back = load_model(tmp_path / "model")
    assert back.config == OURS[name]
    assert torch.equal(logits_of_ours(back), logits_of_ours(model))


@pytest.mark.parametrize("name", ["marian", "bart", "mbart", "t5", "t5-unscaled"])
@torch.no_grad()
def test_the_two_agree_to_float64(name, tmp_path, monkeypatch):
    """Where transformers computes in it: its sinusoids and T5's norms are float32 in every model."""
    monkeypatch.setattr(transformers.models.t5.modeling_t5.T5LayerNorm, "forward", rms_norm)
    model = theirs(name).double()
    if name == "marian":
        for stack in (model.model.encoder, model.model.decoder):
            stack.embed_positions.weight.copy_(published_sinusoids(40, 32))
    model.save_pretrained(tmp_path)
    mine = load_model(tmp_path)
    assert next(mine.parameters()).dtype == torch.float64
    torch.testing.assert_close(logits_of_ours(mine), logits_of_theirs(model), rtol=0, atol=1e-10)


def rms_norm(self, x: torch.Tensor) -> torch.Tensor:
    return self.weight * x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()


def published_sinusoids(count: int, width: int) -> torch.Tensor:
    angles = np.arange(count)[:, None] / 10_000 ** (2 * np.arange(width // 2) / width)
    return torch.from_numpy(np.concatenate((np.sin(angles), np.cos(angles)), axis=1))


def test_half_precision_stays_as_it_is_in_both(tmp_path):
    save(ours("marian").to(torch.bfloat16), train(["a"], kind="byte"), tmp_path / "model")
    other = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    assert other.dtype == torch.bfloat16
    assert next(load(tmp_path / "model")[0].parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["marian", "bart", "t5"])
@torch.no_grad()
def test_base_models_open(name, tmp_path):
    """Names without a prefix, neither a head nor a bias stored."""
    model = theirs(name)
    if name != "t5":
        model.final_logits_bias.zero_()
    model.model.save_pretrained(tmp_path) if name != "t5" else model.save_pretrained(tmp_path)
    torch.testing.assert_close(
        logits_of_ours(load_model(tmp_path)), logits_of_theirs(model), rtol=0, atol=1e-4
    )


OLD = {
    "marian": {"model.decoder.embed_positions.weight": published_sinusoids(40, 32).float()},
    "bart": {"model.encoder.version": torch.tensor([3.0])},
    "t5": {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.ones(8, 4)},
}


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("name", OLD)
@torch.no_grad()
def test_older_files_open(name, renamed, tmp_path):
    """The embedding under each of its names, or under another alone, and what nobody reads beside it."""
    model = theirs(name)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors") | OLD[name]
    prefix = "" if name == "t5" else "model."
    copies = [
        "lm_head.weight",
        f"{prefix}encoder.embed_tokens.weight",
        f"{prefix}decoder.embed_tokens.weight",
    ]
    embedding = tensors.pop(f"{prefix}shared.weight") if renamed else tensors[f"{prefix}shared.weight"]
    tensors |= {copy: embedding.clone() for copy in (copies[1:2] if renamed else copies)}
    save_file(tensors, tmp_path / "model.safetensors")
    mine = load_model(tmp_path)
    assert mine.config.tied
    torch.testing.assert_close(logits_of_ours(mine), logits_of_theirs(model), rtol=0, atol=1e-4)


def test_an_embedding_that_differs_from_the_one_it_should_be_is_refused(tmp_path):
    theirs("bart").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    other = tensors["model.shared.weight"] + 1
    save_file(tensors | {"model.encoder.embed_tokens.weight": other}, tmp_path / "model.safetensors")
    with pytest.raises(
        ModelError, match=r"holds model\.encoder\.embed_tokens\.weight, which this model does not"
    ):
        load_model(tmp_path)


@torch.no_grad()
def test_a_t5_with_a_head_of_its_own_says_it_is_tied_once_transformers_has_saved_it(tmp_path):
    model = ours("t5-1.1")
    save(model, None, tmp_path / "model")
    other = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    other.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["tie_word_embeddings"]
    back = load_model(tmp_path / "again")
    assert back.config == read_config(tmp_path / "again")[0] == OURS["t5-1.1"]
    assert torch.equal(logits_of_ours(back), logits_of_ours(model))


def test_transformers_keeps_the_settings_only_plait_knows(tmp_path):
    save(ours("marian"), train(["a"], kind="byte"), tmp_path / "model")
    transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again")
    assert read_config(tmp_path / "again")[0] == OURS["marian"]
