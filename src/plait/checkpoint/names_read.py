"""The weights of a directory under our names, whichever family wrote them, checked against config.json."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from plait.checkpoint.families import FAMILIES
from plait.checkpoint.names import BUFFERS, PREFIXES, Link, copies, links, to_ours, to_theirs
from plait.checkpoint.tensors import FLOATS, TensorFiles, open_tensors, tensor_paths
from plait.errors import ModelError
from plait.nn.config import ModelConfig

MISMATCH = "config.json and weights do not belong together"


def our_tensors(
    files: TensorFiles, config: ModelConfig, family: str, shapes: Mapping[str, torch.Size], directory: Path
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the open files of a `directory` under our names, one after the other.

    Args:
        shapes: of every parameter the model has.

    Raises:
        ModelError: naming the tensors that are missing, unknown, or of another shape or kind.
    """
    table = links(family, config, shapes)
    found = _found(files, config, family, {name for link in table for name in link.theirs}, directory)
    for link in table:
        names = [found[name] for name in link.theirs]
        _check_shapes(link, names, [shapes[name] for name in link.ours], files)
        sizes = [shapes[name][0] for name in link.ours]
        yield from zip(link.ours, to_ours(link, [files.view(name) for name in names], sizes))


def settled(directory: Path, config: ModelConfig, family: str) -> ModelConfig:
    """The configuration with what only the weights say (see `Family.in_weights`), where there are weights.

    Every BART and Marian has a bias on its logits, which is a bias where it is not zero; newer
    `transformers` write of every T5 that its head is tied, which it is where it is not stored with other
    values.
    """
    asked = FAMILIES[family].in_weights if family in FAMILIES else ()
    if not asked or not all(path.is_file() for path in tensor_paths(directory, "model")):
        return config
    with open_tensors(directory, "model") as files:
        bias, head = "final_logits_bias", "lm_head.weight"
        if "head_bias" in asked and bias in files.file_of:
            return config.model_copy(update={"head_bias": config.head_bias or bool(files.view(bias).any())})
        if "tied" in asked and head in files.file_of:
            names = [name for name in copies(family, config) if name in files.file_of and name != head]
            same = bool(names) and torch.equal(files.view(head), files.view(names[0]))
            return config.model_copy(update={"tied": config.tied and same})
    return config


def widest(files: TensorFiles) -> torch.dtype:
    """The dtype that holds every number of the files."""
    kinds = {FLOATS[kind] for kind in map(files.kind, files.file_of) if kind in FLOATS}
    result = kinds.pop() if kinds else torch.float32
    for kind in kinds:
        result = torch.promote_types(result, kind)
    return result


def _found(
    files: TensorFiles, config: ModelConfig, family: str, expected: Collection[str], directory: Path
) -> dict[str, str]:
    """What each expected tensor is called in the files; base models there lack the prefix."""
    there, prefix = files.file_of.keys(), PREFIXES.get(family, "")
    bare = bool(prefix) and not any(name.startswith(prefix) for name in there)
    same = [name.removeprefix(prefix) if bare else name for name in copies(family, config)]
    same = [name for name in same if name in there]  # some write a tied weight twice, or under another name
    found = {}
    for name in expected:
        found[name] = name.removeprefix(prefix) if bare else name
        if found[name] not in there and same and name in copies(family, config):
            found[name] = same[0]
    missing = sorted(name for name in found.values() if name not in there)
    if missing:
        raise ModelError(f"{directory} lacks {_some(missing)}; {MISMATCH}")
    extra = sorted(name for name in there - set(found.values()) if not name.endswith(BUFFERS))
    extra = [n for n in extra if n not in same or not torch.equal(files.view(n), files.view(same[0]))]
    if extra:
        raise ModelError(f"{directory} holds {_some(extra)}, which this model does not have; {MISMATCH}")
    return found


def _check_shapes(link: Link, names: list[str], mine: list[torch.Size], files: TensorFiles) -> None:
    expected = to_theirs(link, [torch.empty(shape, device="meta") for shape in mine])
    for name, tensor in zip(names, expected, strict=True):
        if files.kind(name) not in FLOATS:
            raise ModelError(f"{files.file_of[name]}: {name} is {files.kind(name)}, not floating point")
        if files.shape(name) != tuple(tensor.shape):
            raise ModelError(
                f"{files.file_of[name]}: {name} has shape {list(files.shape(name))}, config.json asks for "
                f"{list(tensor.shape)}; {MISMATCH}"
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")
