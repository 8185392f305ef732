"""Tensors in safetensors files: written one tensor at a time, read as slices. Nothing is ever unpickled.

The format (huggingface/safetensors, README): 8 bytes of header length, a JSON header, then raw little-endian
data. It is written here and not by the library so that a conversion needs the memory of one tensor only and
a full disk is an `OSError`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from plait.errors import ModelError

MAX_SHARD = 4 * 1024**3  # bytes of one file, as small as old file systems and slow links want it
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Lazy:
    """A tensor that is not here yet: `read` fetches it when it is written, once."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


Source = Tensor | Lazy


def fetched(source: Source) -> Tensor:
    """The tensor itself."""
    return source.read() if isinstance(source, Lazy) else source


def stored_bytes(tensors: Mapping[str, Source], dtype: torch.dtype | None = None) -> int:
    """Bytes the tensors take in a file."""
    return sum(tensor.numel() * (dtype or tensor.dtype).itemsize for tensor in tensors.values())


def write_tensors(path: Path, tensors: Mapping[str, Source], dtype: torch.dtype | None = None) -> None:
    """Write one file, every tensor converted to `dtype` on its way (None: as it is)."""
    # wide elements first, so that everything is aligned to its own size
    names = sorted(tensors, key=lambda name: -(dtype or tensors[name].dtype).itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        kind, start = dtype or tensors[name].dtype, end
        end += tensors[name].numel() * kind.itemsize
        header[name] = {
            "dtype": DTYPES[kind],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            plain = fetched(tensors[name]).detach().to("cpu", dtype or tensors[name].dtype).contiguous()
            file.write(plain.reshape(-1).view(torch.uint8).numpy().data)


def write_shards(
    directory: Path,
    stem: str,
    tensors: Mapping[str, Source],
    dtype: torch.dtype | None = None,
    max_shard: int = MAX_SHARD,
) -> None:
    """Write `stem.safetensors`, or numbered files with an index where one would exceed `max_shard` bytes."""
    groups: list[dict[str, Source]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        bytes_ = tensor.numel() * (dtype or tensor.dtype).itemsize
        if groups[-1] and size + bytes_ > max_shard:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += bytes_
    if len(groups) == 1:
        write_tensors(directory / f"{stem}.safetensors", tensors, dtype)
        return
    where: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = f"{stem}-{number:05}-of-{len(groups):05}.safetensors"
        write_tensors(directory / name, group, dtype)
        where |= dict.fromkeys(group, name)
    index = {"metadata": {"total_size": stored_bytes(tensors, dtype)}, "weight_map": where}
    text = json.dumps(index, indent=1) + "\n"
    (directory / f"{stem}.safetensors.index.json").write_text(text, encoding="utf-8")


class TensorFiles:
    """The tensors of one or several open files, by name."""

    def __init__(self, handles: Mapping[Path, Any]) -> None:
        self._handles = handles
        self.file_of = {name: path for path, handle in handles.items() for name in handle.keys()}  # noqa: SIM118

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return tuple(self._handles[self.file_of[name]].get_slice(name).get_shape())

    def kind(self, name: str) -> str:
        """The file's own name of a tensor's dtype, such as `F32`."""
        return self._handles[self.file_of[name]].get_slice(name).get_dtype()

    def view(self, name: str) -> Tensor:
        """A tensor that lies in the mapped file: copy it before the file goes away."""
        try:
            return self._handles[self.file_of[name]].get_tensor(name)
        except SafetensorError as error:
            raise damaged(self.file_of[name], error) from None


@contextmanager
def open_tensors(directory: Path, stem: str) -> Iterator[TensorFiles]:
    """Open `stem.safetensors`, or the files its index names.

    Raises:
        ModelError: naming the file that is missing, damaged, or not a plain name inside the directory.
    """
    with ExitStack() as stack:
        yield TensorFiles({path: stack.enter_context(_open(path)) for path in tensor_paths(directory, stem)})


def tensor_paths(directory: Path, stem: str) -> list[Path]:
    """The files that hold the tensors called `stem`; see `open_tensors` for the errors."""
    single = directory / f"{stem}.safetensors"
    index = directory / f"{stem}.safetensors.index.json"
    if single.is_file() or not index.is_file():
        return [single]
    try:
        where = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(where.values()))
        plain = [re.fullmatch(r"[\w.-]+\.safetensors", name) is not None for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(index, error) from None
    if not all(plain):
        name = names[plain.index(False)]
        raise ModelError(f"{index} names {name!r}; only plain file names beside it are opened")
    return [directory / name for name in names]


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"{path} is missing; restore it from where the model came from")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise damaged(path, error) from None


def damaged(path: Path, reason: object) -> ModelError:
    """The error for a file that cannot be read as what it should be."""
    return ModelError(f"{path} is damaged or cut short ({reason}); restore it from where the model came from")
