from pydoc_data import topics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from plait.text.stream import ReplayDecoder, spelling, visible
from plait.text.tokenizer import Tokenizer
from plait.text.train_tokenizer import train

TEXT = topics.topics["assignment"] + "春眠不觉晓，处处闻啼鸟。" * 20


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    return {
        "bpe": train([TEXT], vocab_size=300),
        "char": train([TEXT], kind="char"),
        "byte": train([TEXT], kind="byte"),
        "words": train([TEXT], style="words", merges=60),
        "sentencepiece": sentencepiece_like(),
    }


def sentencepiece_like() -> Tokenizer:
    tokens = ["<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a"]
    backend = Backend(
        models.BPE({token: i for i, token in enumerate(tokens)}, [("▁", "a")], byte_fallback=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<s>"])
    return Tokenizer(backend.to_str(), {"bos_token": "<s>"})


@pytest.mark.parametrize("kind", ["bpe", "char", "byte", "words", "sentencepiece"])
@pytest.mark.parametrize("skip", [False, True])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_pushes_and_flush_equal_decoding_at_once(trained, kind, skip, data):
    tokenizer = trained[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=20))
    decoder = tokenizer.decoder(skip_special=skip)
    shown = [decoder.push(index) for index in ids]
    assert "".join(shown) + decoder.flush() == tokenizer.decode(ids, skip_special=skip)


def test_half_characters_wait(trained):
    tokenizer = trained["byte"]
    decoder = tokenizer.decoder()
    assert [decoder.push(index) for index in tokenizer.encode("é中😀")] == [
        "",
        "é",
        "",
        "",
        "中",
        "",
        "",
        "",
        "😀",
    ]
    assert decoder.flush() == ""


def test_broken_bytes_show_as_soon_as_they_are_certain(trained):
    decoder = trained["byte"].decoder()
    ids = [5 + byte for byte in b"\xe4\xb8A\xff\xc3"]
    assert [decoder.push(index) for index in ids] == ["", "", "\ufffdA", "\ufffd", ""]
    assert decoder.flush() == "\ufffd"
    assert decoder.push(5 + ord("x")) == "x"  # used again from the start


def test_a_leading_space_of_sentencepiece_is_dropped_once(trained):
    tokenizer = trained["sentencepiece"]
    ids = tokenizer.encode("a a")
    assert tokenizer.pieces("a a") == ["▁a", "▁a"]
    decoder = tokenizer.decoder()
    assert [decoder.push(index) for index in ids] == ["a", " a"]
    assert decoder.flush() == ""
    assert tokenizer.decode(ids) == "a a"
    assert tokenizer.token_bytes(ids[1]) == b" a"
    assert tokenizer.token_bytes(1 + 0xE4) == b"\xe4"


def test_vocabularies_without_a_rule_of_bytes_decode_by_the_library():
    tokens = ["[UNK]", "the", "##re", "is", "好"]
    backend = Backend(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    tokenizer = Tokenizer(backend.to_str(), {})
    ids = tokenizer.encode("there is 好")
    assert tokenizer.decode(ids) == "there is 好"
    decoder = tokenizer.decoder()
    assert isinstance(decoder, ReplayDecoder)
    assert [decoder.push(index) for index in ids] == ["the", "re", " is", " 好"]
    assert decoder.flush() == ""
    assert tokenizer.token_bytes(1) == b"the"


def test_a_decoder_of_the_replay_kind_holds_back_broken_text():
    decoder = ReplayDecoder(lambda ids: "\ufffd" if ids == [1] else "好" if ids == [1, 2] else "")
    assert [decoder.push(1), decoder.push(2), decoder.flush()] == ["", "好", ""]


def test_added_tokens_spell_themselves():
    table = spelling({"Ä": 0, "é|": 1}, {1: "é|"}, {"type": "ByteLevel"})
    assert table is not None
    assert [table.bytes_of[0], table.bytes_of[1]] == [b"\xc4", "é|".encode()]
    assert spelling({}, {}, None) is None


def test_invisible_characters_are_shown():
    assert visible(" a\u200d\n".encode()) == "▁a\\u200d\\n"
    assert visible(b"\xe4\xb8") == "<0xE4><0xB8>"
