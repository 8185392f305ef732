import numpy as np
import pytest
import torch

from plait.data.batch import NO_LOSS, evaluation_batches, make_batch
from plait.data.loader import Loader
from plait.data.pack import write_rows
from plait.data.shards import EncodedDocument, write_shards
from plait.data.source import Source
from plait.errors import ConfigError

CONTEXT = 8


def make_source(folder, name="text", lengths=(30, 4, 5, 9, 3, 20, 6), *, weight=1.0, masked=False, pack=True):
    """Documents of consecutive tokens, so that a target is always its input plus one."""
    start = np.cumsum([0, *lengths])
    documents = [
        EncodedDocument(f"{name}#{n}", range(at, at + length), [0, 1] * (length // 2) + [1] * (length % 2))
        if masked
        else EncodedDocument(f"{name}#{n}", range(at, at + length))
        for n, (at, length) in enumerate(zip(start.tolist(), lengths))
    ]
    shards = write_shards(folder / name, documents, vocab_size=1000, pad_id=999)
    rows = write_rows(
        folder / name / "train.rows.idx", shards, np.arange(len(lengths)), CONTEXT, together=pack
    )
    return Source(name, shards, rows, weight)


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path)


def test_targets_are_the_next_tokens_of_the_same_document(source):
    seen = []
    for batch in evaluation_batches(source, 3):
        real = batch.targets != NO_LOSS
        assert torch.equal(batch.targets[real], batch.tokens[real] + 1)
        assert (batch.tokens[~real] == 999).all()
        assert torch.equal(real, torch.ones_like(real) if batch.held is None else batch.held)
        seen += batch.targets[real].tolist()
    assert sorted(seen) == [token for n in range(7) for token in source.shards.read(n, 1).tolist()]
    assert len(seen) == source.target_tokens == source.rows.places


def test_positions_and_segments_keep_pieces_apart(source):
    row = next(row for row in range(source.rows.count) if len(source.rows.pieces(row)) == 2)
    batch = make_batch([(source, row)])
    first, second = source.rows.pieces(row)[:, 2].tolist()
    rest = CONTEXT - first - second
    assert batch.positions is not None
    assert batch.segments is not None
    assert batch.positions[0].tolist() == [*range(first), *range(second), *[0] * rest]
    assert batch.segments[0].tolist() == [0] * first + [1] * second + [-1] * rest


def test_rows_of_one_document_need_no_mask(tmp_path):
    alone = make_source(tmp_path, pack=False)
    for batch in evaluation_batches(alone, 4):
        assert batch.positions is None
        assert batch.segments is None


def test_attention_across_documents_drops_segments_and_lets_positions_run(source):
    row = next(row for row in range(source.rows.count) if len(source.rows.pieces(row)) == 2)
    apart, across = make_batch([(source, row)]), make_batch([(source, row)], attend_across=True)
    assert across.segments is None
    assert across.positions is None
    assert torch.equal(apart.targets, across.targets)


def test_only_masked_tokens_carry_a_loss(tmp_path):
    chat = make_source(tmp_path, masked=True)
    learned = [
        t for batch in evaluation_batches(chat, 2) for t in batch.targets[batch.targets != -100].tolist()
    ]
    wanted = [
        token
        for n in range(7)
        for token, on in zip(chat.shards.read(n, 1).tolist(), chat.shards.read_mask(n, 1).tolist())
        if on
    ]
    assert sorted(learned) == wanted
    assert chat.target_tokens == len(wanted)


def test_an_epoch_is_every_row_once_and_runs_on_into_the_next(source):
    loader = Loader([source], batch_size=4, seed=5)
    count = source.rows.count
    assert count % 4
    stream = [row for step in range(count) for _, row in loader.rows_of(step)]
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert stream[:count] != stream[count : 2 * count]
    assert loader.steps_for(1) == -(-count // 4)
    assert loader.epoch(0) == 0
    assert loader.epoch(count) == 4


def same(one, other):
    return (
        one.rows == other.rows
        and torch.equal(one.tokens, other.tokens)
        and torch.equal(one.targets, other.targets)
    )


def test_a_fresh_loader_gives_any_step_again(source):
    walked = [Loader([source], batch_size=4, seed=5).batch(step) for step in range(6)]
    again = Loader([source], batch_size=4, seed=5)
    for step in (5, 0, 3):
        assert same(walked[step].microbatches[0], again.batch(step).microbatches[0])
    assert not same(
        walked[0].microbatches[0], Loader([source], batch_size=4, seed=6).batch(0).microbatches[0]
    )


@pytest.mark.parametrize("ranks", [2, 3, 6])
def test_the_ranks_share_the_rows_of_one_process(tmp_path, ranks):
    sources = [make_source(tmp_path, "a", masked=True, weight=2), make_source(tmp_path, "b", masked=True)]
    for step in range(4):
        whole = Loader(sources, batch_size=6, seed=1).batch(step)
        parts = [
            Loader(sources, batch_size=6, micro_batch=1, seed=1, rank=rank, ranks=ranks).batch(step)
            for rank in range(ranks)
        ]
        batches = [batch for part in parts for batch in part.microbatches]
        assert torch.equal(torch.cat([batch.tokens for batch in batches]), whole.microbatches[0].tokens)
        assert torch.equal(torch.cat([batch.targets for batch in batches]), whole.microbatches[0].targets)
        assert {part.target_tokens for part in parts} == {whole.target_tokens}
        assert whole.target_tokens == sum(batch.target_tokens() for batch in batches)


def test_a_mixture_draws_by_weight_and_knows_its_sources(tmp_path):
    sources = [make_source(tmp_path, "en", weight=3), make_source(tmp_path, "zh", (9, 9), weight=1)]
    loader = Loader(sources, batch_size=4, seed=1)
    for step in range(10):
        batch = loader.batch(step).microbatches[0]
        assert sorted(batch.sources) == ["en", "en", "en", "zh"]
    zh = [row for step in range(10) for number, row in loader.rows_of(step) if number == 1]
    assert all(sorted(zh[at : at + 2]) == [0, 1] for at in range(0, 10, 2))


def test_a_batch_names_its_documents(source):
    step = Loader([source], batch_size=2 * source.rows.count, micro_batch=2, seed=1).batch(0)
    assert set(step.document_ids()) == {f"text#{n}" for n in range(7)}
    row = step.microbatches[0].rows[0]
    expected = [f"text#{n}" for n in source.rows.pieces(row)[:, 0]]
    assert make_batch([(source, row)]).document_ids() == list(dict.fromkeys(expected))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 6, "ranks": 4}, "batch_size=6 is not divisible by 4 data ranks; use 4 or 8"),
        ({"batch_size": 2, "ranks": 4}, "batch_size=2 is not divisible by 4 data ranks; use 4"),
        (
            {"batch_size": 12, "ranks": 2, "micro_batch": 4},
            "micro_batch=4 does not divide the 6 rows.*1, 2, 3, 6",
        ),
    ],
)
def test_uneven_sizes_are_refused_with_those_that_fit(source, given, message):
    with pytest.raises(ConfigError, match=message):
        Loader([source], seed=1, **given)


def test_a_state_is_checked_against_what_it_was_made_from(tmp_path):
    sources = [make_source(tmp_path, "a"), make_source(tmp_path, "b")]
    state = Loader(sources, batch_size=4, seed=1).state(7)
    assert (state["step"], state["epoch"]) == (7, 7 * 4 // sum(source.rows.count for source in sources))
    Loader(sources, batch_size=4, micro_batch=2, seed=1, ranks=2, rank=1).check(state)
    with pytest.raises(ConfigError, match="batch_size=8 differs from batch_size=4 of the run"):
        Loader(sources, batch_size=8, seed=1).check(state)
    heavier = [sources[0], Source("b", sources[1].shards, sources[1].rows, 2.0)]
    with pytest.raises(ConfigError, match=r"weights=.* differs"):
        Loader(heavier, batch_size=4, seed=1).check(state)
    other = [sources[0], make_source(tmp_path / "new", "b", (50, 50))]
    with pytest.raises(ConfigError, match="the encoded data of b is not the data this run was trained on"):
        Loader(other, batch_size=4, seed=1).check(state)


def test_a_batch_moves_whole(source):
    moved = make_batch([(source, 0)]).to("meta")
    assert moved.tokens.device.type == moved.targets.device.type == "meta"
