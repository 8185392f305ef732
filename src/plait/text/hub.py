"""Data sets of the Hugging Face hub, or folders in its layouts on this disk, through `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plait.errors import InputError, need
from plait.text.records import plain
from plait.text.sources import Skip

Row = tuple[int, str, dict[Any, Any]]


def hub_rows(name: str, on_skip: Skip) -> Iterator[Row]:
    """Rows of `hf://owner/name[/config][@split]`, or of a folder: `hf:///data/folder`, `hf://./folder`.

    A folder may hold data files or be what `save_to_disk` wrote. The split is `train`, or the only one.
    Columns that are neither text nor numbers are told and left out.

    Raises:
        InputError: no such data set, configuration or split, or the hub cannot be reached.
    """
    where, _, split = name.removeprefix("hf://").partition("@")
    data = _load(name, where)
    if hasattr(data, "keys"):
        splits = list(data.keys())
        split = split or ("train" if "train" in splits or len(splits) != 1 else splits[0])
        if split not in splits:
            known = ", ".join(splits)
            raise InputError(f"{name} has no split {split!r}; write {name.split('@')[0]}@SPLIT with {known}")
        data = data[split]
    told: set[str] = set()
    for number, row in enumerate(data, 1):
        values = {key: plain(value) for key, value in row.items()}
        for key in row:
            if row[key] is not None and values[key] is None and key not in told:
                told.add(key)
                on_skip(name, f"column {key!r} is not text")
        yield number, f"{name} row {number}", values


def _load(name: str, where: str) -> Any:
    datasets = need("datasets", "hf")
    local = where.startswith(("/", ".", "~"))
    path = Path(where).expanduser()
    if local and not path.is_dir():
        raise InputError(f"{name}: the folder {where!r} does not exist")
    try:
        if local and any((path / file).is_file() for file in ("state.json", "dataset_dict.json")):
            return datasets.load_from_disk(str(path))
        if local:
            return datasets.load_dataset(str(path), streaming=True)
        parts = where.split("/")
        if len(parts) not in (1, 2, 3):
            raise InputError(f"{name} must be hf://owner/name, hf://owner/name/config or hf:///local/folder")
        config = parts[2] if len(parts) == 3 else None
        return datasets.load_dataset("/".join(parts[:2]), config, streaming=True)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        remedy = (
            "" if local else "; without a network download it elsewhere and name the folder: hf:///folder"
        )
        raise InputError(f"{name} cannot be read: {reason[:200]}{remedy}") from None
