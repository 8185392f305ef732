import torch

from plait.data.batch import NO_LOSS, Batch
from plait.data.describe import describe_batch
from plait.text.train_tokenizer import train


def test_text_without_a_loss_stands_in_brackets():
    tokenizer = train(["x"], kind="byte")
    ids, mask = tokenizer.encode_chat(
        [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "Hello!"}]
    )
    tokens = ids[:-1] + [1] * 3
    targets = [token if on else NO_LOSS for token, on in zip(ids[1:], mask[1:])] + [NO_LOSS] * 3
    segments = [[0] * (len(ids) - 1) + [-1] * 3]
    batch = Batch(
        torch.tensor([tokens]), torch.tensor([targets]), None, torch.tensor(segments), [0], ["chat"]
    )
    shown = describe_batch(batch, tokenizer)
    assert "⟦<|user|>你好<|end|><|assistant|>⟧Hello!<|end|>" in shown
    assert f"first row: {len(tokens)} places, 7 tokens learned, 3 places of padding" in shown
    assert "<|pad|>" not in shown


def test_a_row_without_segments_shows_its_last_target():
    tokenizer = train(["x"], kind="byte")
    ids = [0, *tokenizer.encode("春眠不觉晓"), 0]
    batch = Batch(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]), None, None, [0], ["text"])
    assert describe_batch(batch, tokenizer).endswith("⟦<|end|>⟧春眠不觉晓<|end|>")


def test_of_pairs_the_first_source_and_target_are_shown_without_padding():
    tokenizer = train(["x"], kind="byte")
    end, pad = tokenizer.eos_id, tokenizer.pad_id
    source, target = [*tokenizer.encode("你好"), end], [*tokenizer.encode("Hello!"), end]
    batch = Batch(
        torch.tensor([[pad, *target[:-1], pad]] * 2), torch.tensor([[*target, NO_LOSS]] * 2), None, None,
        [0, 1], ["pairs"] * 2, source=torch.tensor([[*source, pad]] * 2),
        source_positions=torch.tensor([[*range(7), -1]] * 2),
    )  # fmt: skip
    assert describe_batch(batch, tokenizer).split("\n") == [
        "first of 2 pairs, padded to 8 and 8 tokens: ⟦source⟧ is read, the target learned",
        "--- source, 7 tokens",
        "⟦你好<|end|>⟧",
        "--- target, 7 tokens",
        "Hello!<|end|>",
    ]
