"""The model directory: a Hugging Face directory, written whole or not at all, read from anyone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plait.checkpoint.families import choose_family, from_hf_config, nearest_family, to_hf_config
from plait.checkpoint.names import export
from plait.checkpoint.names_read import our_tensors, settled, widest
from plait.checkpoint.resolve import resolve, verify_weights
from plait.checkpoint.tensors import (
    MAX_SHARD,
    Source,
    damaged,
    open_tensors,
    stored_bytes,
    write_shards,
)
from plait.errors import ModelError
from plait.files import new_directory
from plait.log import say
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.encoder_decoder import build
from plait.text.tokenizer import Tokenizer
from plait.text.tokenizer_files import read_json

OWN_FILES = (
    "config.json", "generation_config.json", "README.md", "model*.safetensors",
    "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
)  # fmt: skip
START = "decoder_start_token_id"
SLACK = 16 * 1024**2  # bytes beside the weights: tokenizer, index, card


def save_model(
    directory: str | Path,
    weights: Mapping[str, Source],
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    *,
    save_dtype: str = "float32",
    card: str = "",
    generation: Mapping[str, Any] | None = None,
    max_shard: int = MAX_SHARD,
) -> Path:
    """Write a model directory that plait, `transformers` and vLLM open; it is complete or not there.

    Args:
        directory: replaced when it holds an earlier model and nothing else.
        weights: tensors under plait's names; a tied `lm_head.weight` may be there or not.
        config: with `vocab` set.
        tokenizer: None leaves its files out.
        save_dtype: float64, float32, bfloat16 or float16, of every tensor.
        card: text of README.md; a short one is made when empty.
        generation: settings of generation_config.json, added to the special tokens.
        max_shard: bytes of one weight file.

    Raises:
        ModelError: when the directory holds something else.
        TrainingError: when the disk is full.
    """
    target = Path(directory).resolve() if Path(directory).is_symlink() else Path(directory)
    _check_replaceable(target)
    with new_directory(target, stored_bytes(weights, as_dtype(save_dtype)) + SLACK) as draft:
        write_model(
            draft, weights, config, tokenizer,
            save_dtype=save_dtype, card=card, generation=generation, max_shard=max_shard,
        )  # fmt: skip
    return target


def save(model: Decoder, tokenizer: Tokenizer | None, directory: str | Path, **options: Any) -> Path:
    """Save a model in its own dtype; `options` as in `save_model`.

    What the generation_config.json of another directory says is not kept, unless given as `generation`.
    """
    weights = dict(model.named_parameters())
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    return save_model(directory, weights, model.config, tokenizer, **{"save_dtype": dtype, **options})


def write_model(
    directory: Path,
    weights: Mapping[str, Source],
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    *,
    save_dtype: str = "float32",
    card: str = "",
    generation: Mapping[str, Any] | None = None,
    max_shard: int = MAX_SHARD,
) -> None:
    """Write the files of a model directory into an existing one; arguments as in `save_model`."""
    family = announced_family(config)
    own = {name: weights[name] for name in parameter_shapes(config)}
    write_shards(directory, "model", export(family, config, own), as_dtype(save_dtype), max_shard)
    tokens: dict[str, Any] = {}
    if tokenizer is not None:
        tokenizer = tokenizer.ending if config.encoder_layers else tokenizer
        tokenizer.save(directory, context=config.context)
        tokens = token_ids(tokenizer)
    if config.encoder_layers:
        start = tokens.get("pad_token_id") if config.decoder_start < 0 else config.decoder_start
        tokens |= {} if start is None else {"decoder_start_token_id": start}
        never = sorted(tokenizer.unlearned(start)) if tokenizer else []
        # transformers ends after 20 tokens where nothing is said
        usual = {"max_length": config.context} | ({"suppress_tokens": never} if never else {})
        generation = usual | dict(generation or {})
    _write_json(directory / "config.json", to_hf_config(config, dtype=save_dtype, tokens=tokens))
    _write_json(directory / "generation_config.json", tokens | dict(generation or {}))
    readme = card or _short_card(config, family, sum(tensor.numel() for tensor in own.values()))
    (directory / "README.md").write_text(readme, encoding="utf-8")


def load(model: str | Path) -> tuple[Decoder, Tokenizer]:
    """Open a model: the stored dtype, on the CPU, in eval mode.

    Args:
        model: a model directory of plait or of a known Hugging Face family, a step directory or a run
            directory; `RUN:best` and `RUN:average` too.

    Raises:
        ModelError: naming the file, tensor or setting that is missing, damaged or not expressible.
    """
    directory = resolve(model)
    tokenizer = check_model(directory)
    return read_model(directory), tokenizer


def check_model(directory: Path) -> Tokenizer:
    """The tokenizer of a model directory whose files are whole and belong together; raises as `load`."""
    verify_weights(directory)
    (config, _), tokenizer = read_config(directory), Tokenizer.load(directory)
    if tokenizer.vocab_size > config.vocab:
        raise ModelError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens, the model only "
            f"{config.vocab}; restore the tokenizer the model was trained with"
        )
    return tokenizer


def load_model(model: str | Path) -> Decoder:
    """`load` without the tokenizer."""
    directory = resolve(model)
    verify_weights(directory)
    return read_model(directory)


def read_model(directory: Path) -> Decoder:
    """`load_model` of a model directory whose files need no comparing with recorded hashes."""
    with stored_weights(directory) as (config, dtype, weights):
        decoder = empty_decoder(config, dtype)
        parameters = {name: parameter.data for name, parameter in decoder.named_parameters()}
        for name, value in weights:
            parameters[name].copy_(value)
    decoder.tie()
    return decoder.eval()


@contextmanager
def stored_weights(
    directory: Path,
) -> Iterator[tuple[ModelConfig, torch.dtype, Iterator[tuple[str, Tensor]]]]:
    """A model directory's configuration, widest dtype, and weights under our names, one after the other.

    The weights lie in mapped files wherever possible, so that reading a part of one costs that part.
    """
    config, family = read_config(directory)
    with open_tensors(directory, "model") as files:
        yield config, widest(files), our_tensors(files, config, family, parameter_shapes(config), directory)


def weights_of(decoder: Decoder) -> tuple[ModelConfig, dict[str, Tensor]]:
    """A decoder's configuration and parameters; tied ones once."""
    return decoder.config, {name: parameter.data for name, parameter in decoder.named_parameters()}


def read_config(directory: Path) -> tuple[ModelConfig, str]:
    """The configuration and family of a model directory.

    Raises:
        ModelError: where config.json is missing, damaged, or says what plait cannot do.
    """
    path = directory / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; give a model directory") from None
    except ValueError as error:
        raise damaged(path, error) from None
    if not isinstance(values, dict):
        raise damaged(path, "not a JSON object")
    if values.get(START) is None:  # some say it only where transformers looks as it generates
        values[START] = read_json(directory / "generation_config.json").get(START)
    try:
        config, family = from_hf_config(values)
    except ModelError as error:
        raise ModelError(f"{directory}: {error}") from None
    return settled(directory, config, family), family


def empty_decoder(config: ModelConfig, dtype: torch.dtype) -> Decoder:
    """A decoder whose parameters have memory but no values yet."""
    with torch.device("meta"):
        decoder = build(config).to(dtype)
    buffers = dict(decoder.named_buffers())
    decoder.to_empty(device="cpu")
    for name, buffer in decoder.named_buffers():
        assert buffers[name].is_meta
        buffer.zero_()  # counters of the routers
    decoder.tie()
    return decoder


def parameter_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Name and shape of every parameter; tied ones once."""
    with torch.device("meta"):
        return {name: parameter.shape for name, parameter in build(config).named_parameters()}


def token_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """The ids that begin, end and pad, as config.json and generation_config.json name them."""
    stop = list(tokenizer.stop_ids)
    ends = stop if len(stop) > 1 else tokenizer.eos_id
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": ends, "pad_token_id": tokenizer.pad_id}
    return {name: value for name, value in ids.items() if value is not None}


def as_dtype(name: str) -> torch.dtype:
    """`"bfloat16"` → `torch.bfloat16`."""
    return getattr(torch, name)


def announced_family(config: ModelConfig) -> str:
    """`choose_family`, telling once why a model will not open elsewhere."""
    family = choose_family(config)
    if family == "plait":
        near, theirs = nearest_family(config)
        # what has no meaning on one of the two sides follows from the others
        change = {name: value for name, value in theirs.items() if value not in (None, getattr(config, name))}
        fields = [f"{name}={json.dumps(value)}".replace('"', "") for name, value in change.items()]
        _say_once(
            f"saved as model_type plait, which plait opens and transformers does not: no Hugging Face family "
            f"has this configuration (nearest: {near}, which has {', '.join(fields)})"
        )
    return family


@cache
def _say_once(message: str) -> None:
    say(message)


def _check_replaceable(target: Path) -> None:
    """Refuse a target that holds anything but a model directory's own files, as it is replaced whole."""
    if not target.exists():
        return
    if not target.is_dir():
        raise ModelError(f"{target} is a file; choose another name for the model directory")
    if target.resolve() == Path.cwd():
        raise ModelError(f"{target} is the working directory, which cannot be replaced; name another one")
    for entry in sorted(target.iterdir()):
        if not any(entry.match(pattern) for pattern in OWN_FILES):
            raise ModelError(f"{target} holds {entry.name}, which is no part of a model; choose another name")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _short_card(config: ModelConfig, family: str, parameters: int) -> str:
    library = "plait" if family == "plait" else "transformers"
    kind, task, layers = "A decoder", "text-generation", f"{config.layers}"
    if config.encoder_layers:
        kind, task = "An encoder-decoder", "text2text-generation"
        layers = f"{config.encoder_layers} + {config.layers}"
    return (
        f"---\nlibrary_name: {library}\npipeline_tag: {task}\ntags: [plait]\n---\n\n"
        f"{kind} of {parameters:,} parameters ({layers} layers, width {config.width}, context "
        f"{config.context}), trained with plait.\n\n```python\nimport plait\n\n"
        'model, tokenizer = plait.load(".")\n```\n'
    )
