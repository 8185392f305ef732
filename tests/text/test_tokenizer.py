import json
import unicodedata
from pydoc_data import topics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.config import build
from plait.errors import ConfigError, InputError, ModelError
from plait.text.tokenizer import Tokenizer
from plait.text.tokenizer_config import SPECIAL_TOKENS, TokenizerConfig
from plait.text.train_tokenizer import CHUNK, train

ENGLISH = topics.topics["assignment"] + "The weaver's shuttle flies; don't stop it, she said (twice).\n"
CHINESE = (
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少？\n床前明月光，疑是地上霜。举头望明月，低头思故乡。\n"
    "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。\n红豆生南国，春来发几枝？愿君多采撷，此物最相思。\n"
    "他说：“你好，世界！”明月、春风、故乡、千里；花落（春来）。\n"
) * 3
CORPUS = [ENGLISH, CHINESE]
MADE: dict[str, dict[str, Any]] = {
    "bpe": {"vocab_size": 400},
    "lines": {"vocab_size": 400, "style": "lines"},
    "unigram": {"vocab_size": 300, "kind": "unigram"},
    "char": {"kind": "char"},
    "byte": {"kind": "byte"},
}

EMOJI = ["👩‍👩‍👧‍👦", "🇨🇳", "❤️", "\u200d", "\u0301"]
AWKWARD = st.sampled_from(
    [
        *SPECIAL_TOKENS,
        *EMOJI,
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\x00",
        "\x1b",
        "\ufeff",
        "<0x41>",
        "▁",
        "Ġ",
        "</w>",
    ]
)
TEXTS = st.lists(AWKWARD | st.text(max_size=8) | st.sampled_from(["春眠", "，", "don't", "2024"]), max_size=8)


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    return {name: train(CORPUS, **given) for name, given in MADE.items()}


@pytest.mark.parametrize("kind", MADE)
@settings(deadline=None, max_examples=60)
@given(parts=TEXTS)
def test_any_text_comes_back_exactly(trained, kind, parts):
    tokenizer, text = trained[kind], "".join(parts)
    plain = tokenizer.encode_plain(text)
    assert tokenizer.decode(plain) == text
    assert not tokenizer.special_ids.intersection(plain)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_batch([text, ""]) == [plain, []]
    assert b"".join(map(tokenizer.token_bytes, plain)) == text.encode()
    assert "\n" not in "".join(tokenizer.pieces(text))


@pytest.mark.parametrize("kind", MADE)
def test_special_tokens_are_the_first_ids(trained, kind):
    tokenizer = trained[kind]
    assert [tokenizer.token(index) for index in range(5)] == list(SPECIAL_TOKENS)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 0, 1)
    assert tokenizer.special_ids == {0, 1, 2, 3, 4}
    assert tokenizer.stop_ids == (0,)
    assert tokenizer.encode("<|user|>") == [3]
    assert tokenizer.encode_prompt("hello") == tokenizer.encode("hello")
    assert tokenizer.decode([3, *tokenizer.encode("hi"), 0], skip_special=True) == "hi"


def test_spelled_special_tokens_in_the_corpus_never_become_their_ids():
    corpus = ["<|assistant|>,<|assistant|>,<|end|>,<|end|>. " * 50 + ENGLISH]
    for kind in ("bpe", "unigram"):
        tokenizer = train(corpus, kind=kind, vocab_size=300)
        assert not tokenizer.special_ids.intersection(tokenizer.encode_plain("<|assistant|>,<|end|>. "))
    tokenizer = train(corpus, style="words", merges=40)
    assert not {0, 1, 2, 3, 4}.intersection(tokenizer.encode_plain("<|assistant|>, <|end|>. <|end|>"))


def test_vocabulary_has_the_size_asked_for(trained):
    assert trained["bpe"].vocab_size == 400
    assert trained["unigram"].vocab_size == 300
    assert trained["byte"].vocab_size == 261
    beyond_ascii = {character for character in ENGLISH + CHINESE if ord(character) > 127}
    assert trained["char"].vocab_size == 5 + 115 + 128 + len(beyond_ascii)


def test_each_character_of_the_corpus_is_one_token(trained):
    assert all(len(trained["char"].encode(character)) == 1 for character in ENGLISH + CHINESE)
    assert len(trained["char"].encode("凰")) == 3  # not in the corpus: its bytes


def test_a_small_character_vocabulary_keeps_the_frequent_ones():
    tokenizer = train(["三三三二二一"], kind="char", vocab_size=5 + 115 + 128 + 2)
    assert [len(tokenizer.encode(character)) for character in "三二一"] == [1, 1, 3]


def test_byte_ids_follow_byte_values(trained):
    assert trained["byte"].encode("A中") == [5 + byte for byte in "A中".encode()]


def test_punctuation_is_never_glued_to_words():
    for kind in ("bpe", "unigram"):
        tokenizer = train(
            [CHINESE * 3 + "使用“print”函数，返回(值)。" * 30 + ENGLISH], kind=kind, vocab_size=420
        )
        for index in range(5, tokenizer.vocab_size):
            piece = tokenizer.token_bytes(index).decode("utf-8", "ignore")
            categories = {unicodedata.category(character)[0] for character in piece}
            assert not {"L", "P"} <= categories or piece[0] in "'’", piece


def test_a_token_may_span_words_but_not_lines():
    text = "Mary went to the garden.\nWhere is Mary?\n玛丽在哪里？\n"
    tokenizer = train([text * 20], style="lines", vocab_size=310)
    assert (
        tokenizer.pieces(text * 2)
        == ["Mary▁went▁to▁the▁garden.\\n", "Where▁is▁Mary?\\n", "玛丽在哪里？\\n"] * 2
    )
    assert len(tokenizer.encode("Mary went")) < len("Mary went")
    assert tokenizer.decode(tokenizer.encode("Mary is in 北京")) == "Mary is in 北京"


def test_scripts_digits_and_lines_stand_apart():
    from plait.text.train_tokenizer import byte_level_words

    def split(text: str) -> list[str]:
        return [text[start:end] for _, (start, end) in byte_level_words().pre_tokenize_str(text)]

    assert split("Python是“好”的，真的。") == ["Python", "是", "“", "好", "”", "的", "，", "真的", "。"]
    assert split("he's in 2024: it's 'tis") == [
        "he",
        "'s",
        " in",
        " ",
        "2",
        "0",
        "2",
        "4",
        ":",
        " it",
        "'s",
        " '",
        "tis",
    ]
    assert split("东京タワーとJR") == ["东京", "タワーと", "JR"]
    assert split("안녕 세계 नमस्ते") == ["안녕", " 세계", " नमस्ते"]
    assert split("if x:\r\n    y = 1\n\n") == ["if", " x", ":", "\r\n", "   ", " y", " =", " ", "1", "\n\n"]
    assert split("❤️b") == ["❤️", "b"]


def test_long_documents_are_cut_where_it_changes_nothing():
    line = "Over the  hills, 山高水长。\n\n   \nand far (away)…\r\n"
    long = line * (2 * CHUNK // len(line))
    assert len(long) > 1.9 * CHUNK
    from plait.text.train_tokenizer import _chunks, byte_level_words

    pieces = list(_chunks([long, "", "short"]))
    assert "".join(pieces) == long + "short"
    assert len(pieces) == 3
    words = [word for word, _ in byte_level_words().pre_tokenize_str(long)]
    assert [w for piece in pieces[:2] for w, _ in byte_level_words().pre_tokenize_str(piece)] == words


@pytest.mark.parametrize("kind", MADE)
def test_training_again_gives_the_same_tokenizer(trained, kind):
    assert train(CORPUS, **MADE[kind]).fingerprint == trained[kind].fingerprint


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vocab_size": 100}, "vocab_size=100 is too small for kind=bpe, needing 261 tokens"),
        ({"kind": "char", "vocab_size": 100}, "too small for kind=char, needing 248 tokens"),
        ({"kind": "byte", "vocab_size": 300}, "vocab_size=300 does not fit kind=byte, which always has 261"),
        ({"merges": 10}, "merges=10 counts the merges of style=words; use vocab_size instead"),
        ({"style": "words"}, "style=words needs exactly one of merges, merges_file and vocab_size, not none"),
        ({"style": "words", "kind": "char", "merges": 3}, "style=words does not go with kind=char"),
        ({"style": "lines", "kind": "unigram"}, "style=lines does not go with kind=unigram; use kind=bpe"),
        ({"kind": "wordpiece"}, "kind='wordpiece' is not valid"),
        ({"vocab": 3}, "unknown key 'vocab'; did you mean 'vocab_size'"),
    ],
)
def test_impossible_settings_are_refused(given, message):
    with pytest.raises(ConfigError) as error:
        build(TokenizerConfig, given)
    assert message in str(error.value)


def test_settings_have_a_default_size():
    assert TokenizerConfig().most == 8192
    assert TokenizerConfig(kind="unigram").most == 8192
    assert TokenizerConfig(kind="char").vocab_size is None
    assert TokenizerConfig(style="words", merges=5).vocab_size is None


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
def test_a_vocabulary_larger_than_the_text_supports_is_refused(kind):
    with pytest.raises(
        ConfigError, match=r"vocab_size=5000 is more than this text supports, which gives (\d+); "
    ) as error:
        train(CORPUS, kind=kind, vocab_size=5000)
    supported = int(str(error.value).split("gives ")[1].split(";")[0])
    assert train(CORPUS, kind=kind, vocab_size=supported).vocab_size == supported


@pytest.mark.parametrize("texts", [[], [""], iter(["", ""])])
def test_an_empty_corpus_is_refused(texts):
    with pytest.raises(InputError, match="there is no text to learn a tokenizer from"):
        train(texts, kind="byte")


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
def test_a_lone_surrogate_is_refused(trained, kind):
    with pytest.raises(InputError, match=r"lone surrogate stands after 'ab'; remove it"):
        train(["ab\ud800c"], kind=kind)
    for encode in (
        trained[kind].encode,
        trained[kind].encode_plain,
        lambda text: trained[kind].encode_batch([text]),
    ):
        with pytest.raises(InputError, match=r"character 2 is the lone surrogate U\+D800; remove it"):
            encode("ab\ud800c")


def test_an_error_while_reading_the_corpus_reaches_the_caller():
    def texts():
        yield ENGLISH
        raise InputError("the second file is broken")

    with pytest.raises(InputError, match="the second file is broken"):
        train(texts(), vocab_size=300)


@pytest.mark.parametrize("kind", MADE)
def test_a_saved_tokenizer_opens_the_same(trained, kind, tmp_path):
    tokenizer = trained[kind]
    tokenizer.save(tmp_path / "a", context=128)
    again = Tokenizer.load(tmp_path / "a")
    again.save(tmp_path / "b")
    assert {file.name for file in (tmp_path / "a").iterdir()} == {
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
    }  # fmt: skip
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert json.loads((tmp_path / "a/tokenizer_config.json").read_text("utf-8"))["model_max_length"] == 128
    assert again.fingerprint == tokenizer.fingerprint
    assert again.encode(CHINESE) == tokenizer.encode(CHINESE)
    assert again.chat_template == tokenizer.chat_template


@pytest.mark.parametrize("kind", MADE)
def test_one_that_ends_closes_prompts_and_changes_nothing_else(trained, kind, tmp_path):
    tokenizer = trained[kind]
    ending = tokenizer.ending
    assert tokenizer.encode_prompt("明月 says") == tokenizer.encode("明月 says")
    assert ending.encode_prompt("明月 says") == [*tokenizer.encode("明月 says"), tokenizer.eos_id]
    assert ending.encode("明月 says") == tokenizer.encode("明月 says")
    ending.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.ending is again
    assert again.fingerprint == ending.fingerprint == tokenizer.fingerprint
    chat = [{"role": "user", "content": "明月"}, {"role": "assistant", "content": "x"}]
    assert again.encode_chat(chat) == tokenizer.encode_chat(chat)


def test_one_that_ends_keeps_what_else_it_puts_around_a_text(trained, tmp_path):
    trained["byte"].save(tmp_path)
    definition = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    begin = {"SpecialToken": {"id": "<|system|>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    definition["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [begin, text],
        "pair": [begin, text, text],
        "special_tokens": {"<|system|>": {"id": "<|system|>", "ids": [2], "tokens": ["<|system|>"]}},
    }
    tokenizer = Tokenizer(json.dumps(definition))
    assert tokenizer.ending.encode_prompt("a") == [2, *tokenizer.encode("a"), tokenizer.eos_id]
    # one that begins a text with the token that ends others does not close it
    both = json.loads(json.dumps(definition).replace("<|system|>", "<|end|>").replace("[2]", "[0]"))
    tokenizer = Tokenizer(json.dumps(definition | {"post_processor": both["post_processor"]}))
    assert not tokenizer.closes
    assert tokenizer.ending.encode_prompt("a") == [0, *tokenizer.encode("a"), 0]


def test_a_missing_or_corrupt_file_is_named(trained, tmp_path):
    with pytest.raises(ModelError, match=r"holds no tokenizer.json; give a tokenizer or model directory"):
        Tokenizer.load(tmp_path)
    (tmp_path / "spiece.model").touch()
    with pytest.raises(
        ModelError, match=r"but spiece.model; let transformers write one: AutoTokenizer.from_"
    ):
        Tokenizer.load(tmp_path)
    (tmp_path / "target.spm").touch()
    with pytest.raises(
        ModelError, match=r"but spiece.model and target.spm; plait reads no tokenizer that is"
    ):
        Tokenizer.load(tmp_path)
    trained["byte"].save(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_text("utf-8")
    for broken in (whole[:-200], "", "[]", '{"model": 3}', "\x00"):
        (tmp_path / "tokenizer.json").write_text(broken, encoding="utf-8")
        with pytest.raises(ModelError, match=r"tokenizer.json' is not a valid tokenizer: .*; restore it"):
            Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match=r"tokenizer.json' cannot be read as UTF-8 text"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(whole, encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer_config.json' is not valid JSON"):
        Tokenizer.load(tmp_path)


def test_pieces_are_readable(trained):
    emoji = ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]
    assert trained["char"].pieces("花 ß\n😀") == ["花", "▁", "<0xC3>", "<0x9F>", "\\n", *emoji]
    assert trained["bpe"].pieces("the the")[-1] == "▁the"
