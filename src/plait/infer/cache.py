"""Keys and values of earlier tokens, one contiguous buffer a layer, for a batch of unequal sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy

import torch
from torch import Tensor

from plait.nn.attention import Memory


class KVCache:
    """The simple cache: every forward adds the same number of slots to every row.

    Rows of unequal prompts are padded with positions of -1, left or right: such a slot stays empty, its
    contents are zeroed (so that no NaN of a padding query can leak) and masks never look at it.

    Attributes:
        positions: `[batch, used]` position of each slot, -1 where it is empty.
        memory: what cross-attention looks at, if anything.
    """

    positions: Tensor
    memory: Memory | None = None

    def __init__(self, batch: int, *, capacity: int = 64, device: torch.device | str = "cpu") -> None:
        self.positions = torch.empty(batch, 0, dtype=torch.long, device=device)
        self._capacity = max(capacity, 1)
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._of_memory: dict[int, tuple[Tensor, Tensor]] = {}
        self._start = 0
        self._padded = False

    @property
    def used(self) -> int:
        """Slots filled so far, empty ones included."""
        return self.positions.shape[1]

    def next_positions(self) -> Tensor:
        """`[batch, 1]`: where each row goes on."""
        if not self.used:
            return self.positions.new_zeros(len(self.positions), 1)
        return self.positions.amax(dim=1, keepdim=True) + 1

    def extend(self, positions: Tensor) -> Tensor:
        """Make room for tokens at `positions` `[batch, time]`; returns all keys' `[batch, time_k]`."""
        self._start = self.used
        self._padded = positions.shape[1] > 1 and bool((positions < 0).any())
        self.positions = torch.cat((self.positions, positions), dim=1)
        if self.used > self._capacity:
            self._grow(max(self.used, 2 * self._capacity))
        return self.positions

    def update(self, layer: int, key: Tensor, value: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Store `[batch, kv_heads, time, head_dim]`; all keys and values of the layer, as views."""
        if self._padded:
            empty = (positions < 0)[:, None, :, None]
            key, value = key.masked_fill(empty, 0.0), value.masked_fill(empty, 0.0)
        if layer not in self._layers:
            batch, heads, _, size = key.shape
            shape = (batch, heads, self._capacity, size)
            self._layers[layer] = (key.new_empty(shape), value.new_empty(shape))
        keys, values = self._layers[layer]
        keys[:, :, self._start : self.used] = key
        values[:, :, self._start : self.used] = value
        return keys[:, :, : self.used], values[:, :, : self.used]

    def of_memory(self, layer: int, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer's memory, made at the first call and kept."""
        if layer not in self._of_memory:
            self._of_memory[layer] = make()
        return self._of_memory[layer]

    def select(self, rows: Sequence[int]) -> None:
        """Keep only `rows`, in this order; a row named twice is copied."""
        index = torch.tensor(rows, dtype=torch.long, device=self.positions.device)
        self.positions = self.positions[index]
        self._layers = {layer: (keys[index], values[index]) for layer, (keys, values) in self._layers.items()}
        if self.memory is not None:
            self.memory = self.memory.select(index)
            self._of_memory = {
                layer: (keys[index], values[index]) for layer, (keys, values) in self._of_memory.items()
            }

    def selected(self, rows: Sequence[int]) -> KVCache:
        """A cache of `rows`, as `select` has it; this one stays."""
        other = copy(self)
        other.select(rows)
        return other

    def _grow(self, capacity: int) -> None:
        for layer, (keys, values) in self._layers.items():
            batch, heads, _, size = keys.shape
            larger = (
                keys.new_empty(batch, heads, capacity, size),
                values.new_empty(batch, heads, capacity, size),
            )
            larger[0][:, :, : self._start] = keys[:, :, : self._start]
            larger[1][:, :, : self._start] = values[:, :, : self._start]
            self._layers[layer] = larger
        self._capacity = capacity
