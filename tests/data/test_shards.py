import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.data.shards import EncodedDocument, Shards, write_shards
from plait.errors import InputError

TOKENS = st.lists(st.integers(0, 69_999), min_size=1, max_size=12)


@settings(max_examples=25)
@given(documents=st.lists(TOKENS, min_size=1, max_size=12), shard_bytes=st.sampled_from([1, 16, 1000]))
def test_what_is_written_is_read_back(tmp_path_factory, documents, shard_bytes):
    folder = tmp_path_factory.mktemp("shards") / "a"
    stored = [EncodedDocument(f"x#{n}", ids, None, n) for n, ids in enumerate(documents)]
    shards = write_shards(folder, stored, vocab_size=70_000, tokenizer_hash="t", shard_bytes=shard_bytes)
    assert [shards.read(n).tolist() for n in range(shards.documents)] == documents
    assert shards.read(0, 1).tolist() == documents[0][1:]
    assert shards.text_bytes.tolist() == list(range(len(documents)))
    assert shards.tokens == sum(map(len, documents))
    shards.verify()


@pytest.mark.parametrize(("vocab_size", "size"), [(65_536, 2), (65_537, 4)])
def test_tokens_take_two_bytes_where_they_can(tmp_path, vocab_size, size):
    shards = write_shards(tmp_path / "a", [EncodedDocument("x", [vocab_size - 1, 0])], vocab_size=vocab_size)
    assert (tmp_path / "a" / "tokens-00000.bin").stat().st_size == 2 * size
    assert shards.read(0).tolist() == [vocab_size - 1, 0]
    with pytest.raises(IndexError):
        shards.read(0, 0, 3)


def test_masks_and_names_lie_beside_the_tokens(tmp_path):
    names = ["诗/全唐诗.jsonl#1", "a\nb#2", "c#3"]
    documents = [EncodedDocument(name, [1, 2, 3], [0, n % 2, 1]) for n, name in enumerate(names)]
    shards = write_shards(tmp_path / "a", documents, vocab_size=9, shard_bytes=1)
    assert shards.document_ids([2, 0, 1, 1]) == [names[2], names[0], names[1], names[1]]
    mask = shards.read_mask(1, 1)
    assert mask is not None
    assert mask.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([EncodedDocument("x", [9])], "document x needs tokens within 0..8"),
        ([EncodedDocument("x", [])], "document x needs tokens"),
        ([EncodedDocument("x", [1]), EncodedDocument("y", [1], [1])], "document y differs from the others"),
        ([EncodedDocument("x", [1, 2], [1])], "1 mask values for 2 tokens"),
    ],
)
def test_what_cannot_be_stored_leaves_nothing_behind(tmp_path, documents, message):
    with pytest.raises(ValueError, match=message):
        write_shards(tmp_path / "a", documents, vocab_size=9)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_store(tmp_path):
    write_shards(tmp_path / "a", [EncodedDocument("old", [1, 2])], vocab_size=9)

    def cut_short():
        yield EncodedDocument("new", [3, 4])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path / "a", cut_short(), vocab_size=9)
    assert Shards(tmp_path / "a").document_ids([0]) == ["old"]
    write_shards(tmp_path / "a", [EncodedDocument("new", [3, 4])], vocab_size=9)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def damage(path, how):
    whole = path.read_bytes()
    if how == "remove":
        path.unlink()
    elif how == "truncate":
        path.write_bytes(whole[:-1])
    else:
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])


@pytest.mark.parametrize("name", ["tokens-00001.bin", "mask-00000.bin", "documents.bin", "documents.jsonl"])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("remove", "is missing"),
        ("truncate", "is truncated: [0-9,]+ bytes expected, [0-9,]+ found"),
        ("flip a bit", "is damaged: its sha256 is"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, how, message):
    documents = [EncodedDocument("x", [1, 2], [0, 1]), EncodedDocument("y", [1, 2], [0, 1])]
    write_shards(tmp_path / "a", documents, vocab_size=9, shard_bytes=1)
    damage(tmp_path / "a" / name, how)
    with pytest.raises(InputError, match=f"{name} {message}.*delete the data directory"):
        Shards(tmp_path / "a").verify()


def test_a_damaged_index_is_named(tmp_path):
    write_shards(tmp_path / "a", [EncodedDocument("x", [1, 2])], vocab_size=9)
    index = tmp_path / "a" / "index.json"
    value = json.loads(index.read_text(encoding="utf-8"))
    index.write_text(json.dumps(value | {"format": 99}), encoding="utf-8")
    with pytest.raises(InputError, match="has token format 99, 1 expected"):
        Shards(tmp_path / "a")
    index.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"index.json is damaged: it is not a JSON object"):
        Shards(tmp_path / "a")


def test_the_digest_follows_the_contents(tmp_path):
    one = write_shards(tmp_path / "a", [EncodedDocument("x", [1, 2])], vocab_size=9)
    same = write_shards(tmp_path / "b", [EncodedDocument("x", np.array([1, 2]))], vocab_size=9)
    other = write_shards(tmp_path / "c", [EncodedDocument("x", [1, 3])], vocab_size=9)
    assert one.digest == same.digest != other.digest
