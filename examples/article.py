"""The toy that many articles print, written so that it learns: a language model in one page.

    python examples/article.py           # tiny: about a minute on two cores
    python examples/article.py --full    # the sizes as printed: 10,000 tokens, 512 wide, 8 heads, 6 layers

The toy is usually printed like this:

    model = Transformer(vocab_size=10000, embedding_dim=512, num_heads=8, num_layers=6)
    optimizer = Adam(model.parameters(), lr=1e-3)
    for epoch in range(10):
        loss = cross_entropy(model(tokens), tokens)

It runs, its loss falls, and it has learned nothing about language, for three reasons:

1. No causal mask. Every position sees the token it is asked for, so the model copies its input.
2. Targets that are not shifted. A language model says what comes *next*: position t is compared with token
   t + 1. (With 1 and 2 together the loss even falls to zero.)
3. No positions. Attention is a weighted mean, which has no order: "dog bites man" is "man bites dog".

The text is the documentation that every Python brings along.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import plait
from plait.text.reference import reference_documents
from plait.text.train_tokenizer import train as learn_tokenizer


def main() -> None:
    sizes = arguments()
    torch.manual_seed(sizes.seed)
    text = reference_text(sizes.characters)
    tokenizer = learn_tokenizer([text], vocab_size=sizes.vocab_size)
    tokens = torch.tensor(tokenizer.encode_plain(text))
    split = int(0.95 * len(tokens))
    train, held_out = rows(tokens[:split], sizes.context), rows(tokens[split:], sizes.context)

    # Transformer(vocab_size, embedding_dim, num_heads, num_layers). Its attention is causal (reason 1), and
    # it knows order by rotating queries and keys with their position, RoPE (reason 3).
    config = plait.ModelConfig(
        vocab=sizes.vocab_size,
        width=sizes.embedding_dim,
        heads=sizes.num_heads,
        layers=sizes.num_layers,
        context=sizes.context,
        position="rope",
    )
    model = plait.Decoder(config)
    plait.initialize(model, sizes.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=sizes.lr)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{count:,} parameters, {train[:, 1:].numel():,} tokens to learn from")
    print(f"knowing nothing: loss {math.log(sizes.vocab_size):.2f} nats per token")

    for epoch in range(1, sizes.epochs + 1):
        model.train()
        total = 0.0
        for batch in shuffled(train, sizes.batch_size):
            loss = next_token_loss(model, batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item() * len(batch)
        print(f"epoch {epoch}: loss {total / len(train):.2f}, held out {evaluate(model, held_out):.2f}")

    engine = plait.Engine(model, tokenizer)
    params = plait.SamplingParams(max_tokens=min(40, sizes.context // 2), temperature=0.7, seed=sizes.seed)
    prompt = "The statement"
    print(prompt + engine.generate(prompt, params)[0].text)


def reference_text(characters: int | None) -> str:
    """The Python language reference and, where more is asked for, the docstrings of the libraries here."""
    text = ""
    for document in reference_documents():
        text += document.text + "\n\n"
        if characters is not None and len(text) >= characters:
            break
    return text[:characters]


def next_token_loss(model: plait.Decoder, batch: Tensor) -> Tensor:
    """Mean nats per token: inputs are all tokens but the last, targets all but the first (reason 2)."""
    inputs, targets = batch[:, :-1], batch[:, 1:]
    logits = model(inputs)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@torch.no_grad()
def evaluate(model: plait.Decoder, held_out: Tensor) -> float:
    """The loss on text that is never trained on: copying or learning by heart does not help here."""
    model.eval()
    losses = [next_token_loss(model, batch) * len(batch) for batch in held_out.split(16)]
    return float(sum(losses)) / len(held_out)


def rows(tokens: Tensor, context: int) -> Tensor:
    """`[rows, context + 1]`: rows overlap by one token, so that every token is a target once."""
    count = (len(tokens) - 1) // context
    return tokens[: count * context + 1].unfold(0, context + 1, context)


def shuffled(train: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Batches of one epoch, in an order of its own."""
    return iter(train[torch.randperm(len(train))].split(batch_size))


def arguments() -> argparse.Namespace:
    """Sizes: tiny, or with --full as printed; each can be set on its own."""
    parser = argparse.ArgumentParser(description="The well-known toy Transformer, written correctly.")
    parser.add_argument("--full", action="store_true", help="the sizes as printed (hours on a CPU)")
    tiny = {
        "vocab_size": 1000, "embedding_dim": 64, "num_heads": 4, "num_layers": 2, "context": 64, "epochs": 10,
        "batch_size": 16, "lr": 1e-3, "characters": 300_000, "seed": 0,
    }  # fmt: skip
    full = tiny | {
        "vocab_size": 10_000, "embedding_dim": 512, "num_heads": 8, "num_layers": 6, "context": 256,
        "characters": None,
    }  # fmt: skip
    for name, value in tiny.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(value), help=f"{value}; full: {full[name]}"
        )
    given = parser.parse_args()
    for name, value in (full if given.full else tiny).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


if __name__ == "__main__":
    main()
