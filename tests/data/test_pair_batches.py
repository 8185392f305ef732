"""Pairs as batches: what a model reads and what it writes, in which order and with which padding."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

from plait.config import build
from plait.data.batch import NO_LOSS, PADDING, evaluation_batches
from plait.data.config import DataConfig
from plait.data.encode import encode_pairs, source_frame
from plait.data.inputs import Intake
from plait.data.loader import Loader
from plait.data.prepare import prepare_data
from plait.text.document import Document
from plait.text.tokenizer import Tokenizer

PAIRS = [(f"source {n}" * (1 + n % 3), f"Ziel {n * n}") for n in range(30)]


def prepared(folder, tokenizer, pairs=PAIRS, *, context=40, start_id=1):
    path = folder / "pairs.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    config = build(DataConfig, {"pairs": str(path), "format": "tsv", "validation": 0.0})
    return prepare_data(config, tokenizer, folder / "run", context, 3, start_id=start_id)


def test_a_target_is_written_from_the_start_token_on_and_padding_is_told_apart(tmp_path, tokenizer):
    data = prepared(tmp_path, tokenizer, start_id=2)
    for batch in evaluation_batches(data.train[0], 7):
        lengths = (batch.targets != NO_LOSS).sum(1)
        assert batch.source.shape[1] == (batch.source_positions != PADDING).sum(1).max()
        assert batch.tokens.shape[1] == lengths.max()
        for row, length in enumerate(lengths.tolist()):
            assert batch.tokens[row, 0] == 2
            assert torch.equal(batch.tokens[row, 1:length], batch.targets[row, : length - 1])
            assert (batch.tokens[row, length:] == tokenizer.pad_id).all()
            places = batch.source_positions[row]
            size = int((places != PADDING).sum())
            assert places[:size].tolist() == list(range(size))
            assert (places[size:] == PADDING).all()
            assert (batch.source[row, size:] == tokenizer.pad_id).all()
        held = batch.targets != NO_LOSS
        assert held.all() if batch.held is None else torch.equal(batch.held, held)


def test_a_batch_is_never_longer_than_the_model_has_positions(tmp_path, tokenizer):
    data = prepared(tmp_path, tokenizer, [("s" * 33, "t" * 33), ("a", "b")], context=34)
    (batch,) = evaluation_batches(data.train[0], 2)
    assert batch.source.shape == batch.tokens.shape == (2, 34)


def test_the_pairs_of_a_step_are_put_in_order_of_length_and_their_tokens_counted(tmp_path, tokenizer):
    data = prepared(tmp_path, tokenizer)
    loader = Loader(data.train, batch_size=12, micro_batch=4, seed=5)
    whole = Loader(data.train, batch_size=12, seed=5)
    for step in range(4):
        batch = loader.batch(step)
        rows = [row for micro in batch.microbatches for row in micro.rows]
        assert sorted(rows) == sorted(row for _, row in loader.rows_of(step))
        kept = data.train[0].rows
        both = [(kept.places_in(row), kept.targets_in(row)) for row in rows]
        lengths = [(max(target, places - target), places) for places, target in both]
        assert lengths == sorted(lengths)
        counted = sum(micro.target_tokens() for micro in batch.microbatches)
        assert counted == batch.target_tokens == whole.batch(step).target_tokens


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_work_on_pairs_of_one_length_at_a_time(ranks, tmp_path, tokenizer):
    data = prepared(tmp_path, tokenizer)
    sizes = {"batch_size": 12, "micro_batch": 2, "seed": 5}
    alone = Loader(data.train, **sizes).batch(1).microbatches
    shared = [
        Loader(data.train, **sizes, rank=rank, ranks=ranks).batch(1).microbatches for rank in range(ranks)
    ]
    assert {len(each) for each in shared} == {6 // ranks}
    for number, together in enumerate(zip(*shared)):
        wanted = alone[number * ranks : (number + 1) * ranks]
        assert sorted(micro.rows for micro in together) == sorted(micro.rows for micro in wanted)
    widths = [
        [max(micro.source.shape[1], micro.tokens.shape[1]) for micro in each] for each in (alone, *shared)
    ]
    work = [sum(each) for each in widths[1:]]
    assert max(work) - min(work) <= widths[0][-1] - widths[0][0]


def test_a_batch_padded_to_a_multiple_has_the_same_tokens(tmp_path, tokenizer):
    data = prepared(tmp_path, tokenizer)
    for batch in evaluation_batches(data.train[0], 7):
        longer = batch.padded(4)
        assert longer.source.shape[1] % 4 == longer.tokens.shape[1] % 4 == 0
        assert longer.target_tokens() == batch.target_tokens() == int(longer.held.sum())
        time, read = batch.tokens.shape[1], batch.source.shape[1]
        assert torch.equal(longer.tokens[:, :time], batch.tokens)
        assert torch.equal(longer.source[:, :read], batch.source)
        assert (
            int((longer.source_positions != PADDING).sum())
            == sum(len(data.train[0].shards.read(row)) for row in batch.rows) - batch.target_tokens()
        )


def test_a_decoder_reads_pairs_as_chats_and_learns_the_answers(tmp_path, tokenizer):
    data = prepared(tmp_path, tokenizer, context=64, start_id=None)
    assert not data.paired
    shards = data.train[0].shards
    for number, (source, target) in enumerate(PAIRS):
        ids, mask = tokenizer.encode_chat(
            [{"role": "user", "content": source}, {"role": "assistant", "content": target}]
        )
        assert shards.read(number).tolist() == ids
        assert shards.read_mask(number).tolist() == mask
        learned = [token for token, on in zip(ids, mask) if on]
        assert tokenizer.decode(learned, skip_special=True) == target


def test_special_tokens_spelled_in_a_pair_are_text(tokenizer):
    document = Document("a#1", record={"source": "a<|end|>b", "target": "<|pad|>"})
    ((encoded, _),) = encode_pairs([(document, False)], tokenizer, Intake(), context=40)
    assert list(encoded.ids).count(tokenizer.eos_id) == 2
    assert tokenizer.pad_id not in encoded.ids
    assert tokenizer.decode(encoded.ids) == "a<|end|>b<|end|><|pad|><|end|>"


@pytest.mark.parametrize(
    ("around", "frame"),
    [("$A </s>", ([], [5])), ("<s> $A </s>", ([4], [5])), ("<s> $A", ([4], [5]))],
)
def test_a_source_stands_in_what_its_tokenizer_puts_around_a_text(around, frame):
    backend = Backend(models.WordLevel({"a": 0, "b": 1, "c": 2, "?": 3, "<s>": 4, "</s>": 5}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[("<s>", 4), ("</s>", 5)]
    )
    tokenizer = Tokenizer(backend.to_str(), {"eos_token": "</s>"})
    assert source_frame(tokenizer) == frame
    document = Document("a#1", record={"source": "a b", "target": "c"})
    ((encoded, _),) = encode_pairs([(document, False)], tokenizer, Intake(), context=9)
    assert list(encoded.ids) == [*frame[0], 0, 1, *frame[1], *frame[0], 2, 5]
    assert encoded.mask == [0] * (len(frame[0]) + 3) + [1] * (len(frame[0]) + 2)
