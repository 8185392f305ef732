from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.data.pack import Rows, cut, pack, write_rows
from plait.data.shards import EncodedDocument, write_shards
from plait.errors import InputError


def packed(predictions, context, together=True):
    pieces, offsets = pack(cut(np.arange(len(predictions)), predictions, context), context, together=together)
    return [pieces[a:b].tolist() for a, b in pairwise(offsets)]


@given(st.lists(st.integers(0, 70), max_size=60), st.integers(1, 20), st.booleans())
def test_every_token_is_predicted_exactly_once(lengths, context, together):
    rows = packed(np.array(lengths, np.int64), context, together)
    seen = [np.zeros(length, int) for length in lengths]
    for row in rows:
        assert 0 < sum(length for _, _, length in row) <= context
        assert together or len(row) == 1
        for document, start, length in row:
            seen[document][start : start + length] += 1
    assert all((one == 1).all() for one in seen)
    firsts = [min((document, start) for document, start, _ in row) for row in rows]
    assert firsts == sorted(firsts)


@given(st.lists(st.integers(0, 70), max_size=40), st.integers(1, 20))
def test_only_documents_longer_than_a_row_are_cut(lengths, context):
    pieces = cut(np.arange(len(lengths)), np.array(lengths, np.int64), context)
    for document, length in enumerate(lengths):
        mine = pieces[pieces[:, 0] == document]
        assert len(mine) == -(-length // context)
        assert mine[:, 1].tolist() == list(range(0, length, context))


def plain_best_fit_decreasing(lengths, context):
    """Room left in each row by the textbook algorithm, one piece at a time."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        room = min(fitting, default=context)
        if fitting:
            rooms.remove(room)
        rooms.append(room - length)
    return sorted(rooms)


@given(st.lists(st.integers(1, 30), max_size=80))
def test_packing_is_best_fit_decreasing(lengths):
    rows = packed(np.array(lengths, np.int64), 30)
    assert sorted(30 - sum(piece[2] for piece in row) for row in rows) == plain_best_fit_decreasing(
        lengths, 30
    )


def test_ten_thousand_documents_leave_almost_no_padding():
    lengths = np.random.default_rng(0).lognormal(4, 1, 10_000).astype(np.int64) + 1
    rows = packed(lengths, 512)
    assert lengths.sum() / (512 * len(rows)) > 0.999


def store(tmp_path, masks=None, lengths=(5, 12, 3, 9)):
    documents = [
        EncodedDocument(f"a.txt#{n}", list(range(length)), None if masks is None else masks[n], 10 * n)
        for n, length in enumerate(lengths)
    ]
    return write_shards(tmp_path / "store", documents, vocab_size=100)


def test_rows_are_written_and_read_back(tmp_path):
    shards = store(tmp_path)
    rows = write_rows(tmp_path / "train.rows.idx", shards, np.array([0, 1, 3]), 6)
    assert (rows.context, rows.documents, rows.text_bytes, rows.cut) == (6, 3, 40, 2)
    assert rows.places == rows.target_tokens == 4 + 11 + 8
    found = [piece for row in range(rows.count) for piece in rows.pieces(row).tolist()]
    assert sorted(found) == [[0, 0, 4], [1, 0, 6], [1, 6, 5], [3, 0, 6], [3, 6, 2]]
    assert sum(rows.targets_in(row) for row in range(rows.count)) == rows.target_tokens
    rows.verify()


def test_pieces_without_a_loss_are_left_out(tmp_path):
    masks = [[0, 0, 1, 0, 0], [0] * 11 + [1], [0, 1, 1], [1] * 9]
    rows = write_rows(tmp_path / "train.rows.idx", store(tmp_path, masks), np.arange(4), 6)
    found = [piece for row in range(rows.count) for piece in rows.pieces(row).tolist()]
    assert [1, 0, 6] not in found
    assert [1, 6, 5] in found
    assert rows.target_tokens == 1 + 1 + 2 + 8


def test_a_damaged_row_index_is_named(tmp_path):
    path = tmp_path / "train.rows.idx"
    write_rows(path, store(tmp_path), np.arange(4), 6)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(InputError, match=r"train.rows.idx is truncated: [\d,]+ bytes expected, [\d,]+ found"):
        Rows(path)
    path.write_bytes(b"something else" * 20)
    with pytest.raises(InputError, match=r"train.rows.idx is damaged: it does not begin"):
        Rows(path)
    path.write_bytes(whole[:-8] + bytes(8))
    with pytest.raises(InputError, match=r"train.rows.idx is damaged: its sha256 is"):
        Rows(path).verify()
    path.unlink()
    with pytest.raises(InputError, match=r"train.rows.idx is missing; delete the data directory"):
        Rows(path)
