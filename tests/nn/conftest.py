"""Small random decoders in float64, where equal means equal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.initialize import initialize

TINY = {"vocab": 31, "width": 16, "layers": 2, "heads": 4, "context": 24, "init_std": 0.3}


@pytest.fixture(scope="session")
def make_decoder() -> Callable[..., Decoder]:
    def make(seed: int = 0, dtype: torch.dtype = torch.float64, **fields) -> Decoder:
        model = Decoder(ModelConfig(**(TINY | fields)))
        initialize(model, seed)
        return model.to(dtype).eval()

    return make
