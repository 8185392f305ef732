"""plait and transformers open each other's directories and compute the same, family by family."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

from plait.checkpoint.directory import load, load_model, read_config, save  # noqa: E402
from plait.nn.config import ModelConfig, RopeScaling  # noqa: E402
from plait.nn.decoder import Decoder  # noqa: E402
from plait.nn.initialize import initialize  # noqa: E402
from plait.text.train_tokenizer import train  # noqa: E402

TOKENS = torch.arange(2 * 40).reshape(2, 40).mul(7).remainder(90)
SIZES = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "bos_token_id": 0,
    "eos_token_id": None, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16, "rope_theta": 500000.0,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip
MOE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}
GPT2 = {
    "vocab_size": 97, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64,
    "bos_token_id": 0, "eos_token_id": None,
}  # fmt: skip

THEIRS = {
    "qwen3": ("Qwen3", SIZES | {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3-untied-biases": ("Qwen3", SIZES | {"head_dim": 8, "attention_bias": True}),
    "qwen3-last-layers-slide": (
        "Qwen3",
        SIZES | {"head_dim": 8, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
    ),
    "qwen3-every-second-slides": (
        "Qwen3",
        SIZES
        | {"head_dim": 8, "use_sliding_window": True, "sliding_window": 5, "num_hidden_layers": 4}
        | {"layer_types": ["sliding_attention", "full_attention"] * 2},
    ),
    "llama": ("Llama", SIZES),
    "llama-biases": ("Llama", SIZES | {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-5}),
    "llama-gelu": ("Llama", SIZES | {"hidden_act": "gelu_pytorch_tanh", "num_key_value_heads": 4}),
    "llama-llama3": ("Llama", SIZES | {"rope_parameters": LLAMA3}),
    "llama-yarn": ("Llama", SIZES | {"rope_parameters": YARN}),
    "llama-yarn-betas": ("Llama", SIZES | {"rope_parameters": YARN | {"beta_fast": 8, "beta_slow": 2}}),
    "llama-linear": ("Llama", SIZES | {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
    "gpt2": ("GPT2", GPT2),
    "gpt2-inner-untied": ("GPT2", GPT2 | {"n_inner": 60, "tie_word_embeddings": False}),
    "qwen3-moe": ("Qwen3Moe", SIZES | MOE | {"norm_topk_prob": True}),
    "qwen3-moe-unnormalized": ("Qwen3Moe", SIZES | MOE | {"norm_topk_prob": False}),
}

SMALL = {"vocab": 261, "width": 48, "layers": 3, "heads": 4, "context": 64}
OURS = {
    "default": ModelConfig(**SMALL),
    "dropout": ModelConfig(**SMALL, dropout=0.1, init_std=0.01),
    "head-dim": ModelConfig(**SMALL, head_dim=20, tied=False, rope_theta=5e5),
    "windows": ModelConfig(**SMALL, window=7),
    "experts": ModelConfig(**SMALL, experts=4, experts_per_token=2, expert_ffn=32),
    "llama": ModelConfig(**SMALL, qk_norm=False, kv_heads=1),
    "llama-biases": ModelConfig(**SMALL, qk_norm=False, qkv_bias=True, out_bias=True, mlp_bias=True),
    "ntk": ModelConfig(**SMALL, rope_scaling=RopeScaling(kind="ntk", factor=4.0, original_context=16)),
    "yarn": ModelConfig(**SMALL, rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_context=16)),
    "llama3": ModelConfig(**SMALL, rope_scaling=RopeScaling(kind="llama3", factor=8.0, original_context=16)),
    "linear": ModelConfig(**SMALL, rope_scaling=RopeScaling(kind="linear", factor=2.0, original_context=32)),
    "gpt2": ModelConfig(
        **SMALL, kv_heads=4, norm="layer", position="learned", qk_norm=False, activation="gelu_tanh",
        gated=False, qkv_bias=True, out_bias=True, mlp_bias=True, norm_eps=1e-5,
    ),
}  # fmt: skip


def randomize(model: torch.nn.Module) -> None:
    """Values large enough that a swapped or forgotten tensor shows, in norms and biases too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.15)


def theirs(name: str):
    kind, settings = THEIRS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**json.loads(json.dumps(settings)))
    model = getattr(transformers, f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(config)
    randomize(model)
    return model.eval()


def ours(name: str) -> Decoder:
    model = Decoder(OURS[name])
    initialize(model, seed=0)
    randomize(model)
    return model.eval()


@torch.no_grad()
def greedy(model: Decoder, tokens: torch.Tensor, count: int) -> torch.Tensor:
    for _ in range(count):
        tokens = torch.cat((tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)), dim=1)
    return tokens


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_plait_computes_what_a_transformers_directory_means(name, tmp_path):
    model = theirs(name)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(load_model(tmp_path)(TOKENS), model(TOKENS).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", OURS)
@torch.no_grad()
def test_transformers_computes_what_a_plait_directory_means(name, tmp_path):
    model = ours(name)
    save(model, train(["a"], kind="byte"), tmp_path / "model", max_shard=30_000)
    other, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(other(TOKENS).logits, model(TOKENS), rtol=0, atol=1e-4)
    prompt = TOKENS[:, :10]
    theirs = other.generate(prompt, do_sample=False, max_new_tokens=20, eos_token_id=None, pad_token_id=1)
    assert torch.equal(theirs, greedy(model, prompt, 20))


@pytest.mark.parametrize("name", OURS)
def test_a_saved_configuration_comes_back_field_by_field(name, tmp_path):
    save(ours(name), None, tmp_path / "model")
    assert read_config(tmp_path / "model")[0] == OURS[name]


@torch.no_grad()
def test_gpt2_agrees_to_float64(tmp_path):
    model = theirs("gpt2").double()
    model.save_pretrained(tmp_path)
    mine = load_model(tmp_path)
    assert next(mine.parameters()).dtype == torch.float64
    torch.testing.assert_close(mine(TOKENS), model(TOKENS).logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_as_it_is_in_both(dtype, tmp_path):
    model = ours("default").to(dtype)
    save(model, train(["a"], kind="byte"), tmp_path / "model")
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == dtype
    assert next(load(tmp_path / "model")[0].parameters()).dtype == dtype


@torch.no_grad()
def test_base_models_and_old_configurations_open(tmp_path):
    """Names without a prefix, a tied head left out, `rope_theta` and `rope_scaling` as before version 5."""
    model = theirs("llama-llama3")
    model.model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    hidden = model.model(TOKENS).last_hidden_state
    expected = hidden @ model.model.embed_tokens.weight.T
    torch.testing.assert_close(load_model(tmp_path)(TOKENS), expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_gpt2_opens_as_the_hub_has_it(tmp_path):
    """Names without `transformer.`, and the causal mask beside the weights."""
    model = theirs("gpt2")
    model.transformer.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "wte.weight" in tensors
    save_file(tensors | {"h.0.attn.bias": torch.ones(1, 1, 64, 64).tril()}, tmp_path / "model.safetensors")
    torch.testing.assert_close(load_model(tmp_path)(TOKENS), model(TOKENS).logits, rtol=0, atol=1e-4)


def test_transformers_keeps_the_settings_only_plait_knows(tmp_path):
    save(ours("dropout"), None, tmp_path / "model")
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert other.config.attention_dropout == 0.1
    other.save_pretrained(tmp_path / "again")
    assert read_config(tmp_path / "again")[0] == OURS["dropout"]
