"""The encoder-decoder (Vaswani et al. 2017): a source is read whole, a target is written looking at it."""

from __future__ import annotations

from torch import Tensor

from plait.nn.attention import Memory
from plait.nn.config import ModelConfig
from plait.nn.decoder import Decoder
from plait.nn.stack import Stack


class EncoderDecoder(Decoder):
    """A decoder whose layers also look at what an encoder made of a source.

    The decoder's parameters have the names of a decoder alone; the encoder's begin with `encoder.`. With
    `shared_embeddings` source and target have one embedding, `embed_tokens`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, cross=True)
        self.encoder = Stack(config, config.encoder_layers, causal=False)
        self.tie()

    def tie(self) -> None:
        """Make head, decoder and encoder share the embeddings that the configuration says they share."""
        super().tie()
        if self.config.shared_embeddings and hasattr(self, "encoder"):
            self.encoder.embed_tokens = self.embed_tokens

    def encode(self, source: Tensor, positions: Tensor | None = None) -> Memory:
        """What the decoder looks at.

        Args:
            source: ids `[batch, time]`.
            positions: `[batch, time]`, -1 where a place is padding; None: no place is.
        """
        return Memory(self.encoder.hidden(source, positions=positions), positions)

    def forward(self, tokens: Tensor, *, source: Tensor | None = None, **options) -> Tensor:  # type: ignore[override]
        """Logits `[batch, time, vocab]` of targets, of `source` ids `[batch, time]` or encoded `memory`."""
        if source is not None:
            options["memory"] = self.encode(source)
        return super().forward(tokens, **options)


def build(config: ModelConfig) -> Decoder:
    """The model of a configuration, its parameters as torch leaves them."""
    return EncoderDecoder(config) if config.encoder_layers else Decoder(config)
