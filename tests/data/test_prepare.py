import json
import shutil
from pathlib import Path

import pytest

from plait.config import build
from plait.data import encode
from plait.data.batch import evaluation_batches
from plait.data.config import DataConfig
from plait.data.inputs import Intake
from plait.data.loader import Loader
from plait.data.prepare import open_data, prepare_data
from plait.errors import ConfigError, InputError, ModelError
from plait.text.document import Document
from plait.text.train_tokenizer import train

SHAKESPEARE = Path(__file__).parents[3] / "shared" / "data" / "tinyshakespeare" / "input.txt"


@pytest.fixture(scope="module")
def tokenizer():
    return train(["x"], kind="byte")


def prepare(tokenizer, out, given, context=16, seed=1):
    return prepare_data(build(DataConfig, given), tokenizer, out, context, seed)


def texts(source, tokenizer):
    documents = sorted({int(n) for row in range(source.rows.count) for n in source.rows.pieces(row)[:, 0]})
    return [tokenizer.decode(source.shards.read(n).tolist(), skip_special=True) for n in documents]


def write_poems(path, count=40):
    lines = [
        json.dumps({"text": f"第{n}首：春眠不觉晓，处处闻啼鸟。"}, ensure_ascii=False) for n in range(count)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_one_text_is_cut_at_its_tail_and_not_altered(tmp_path, tokenizer):
    text = "  Two  spaces,\r\n\ttabs and ﬁgures: 床前明月光\n" * 20 + "<|end|> is text here"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    data = prepare(tokenizer, tmp_path / "run", {"text": str(tmp_path / "a.txt")})
    cut = int(len(text) * 0.9)
    store = data.train[0].shards
    assert [tokenizer.decode(store.read(n)[1:-1].tolist()) for n in range(2)] == [text[:cut], text[cut:]]
    assert store.read(0)[[0, -1]].tolist() == [tokenizer.bos_id, tokenizer.eos_id]
    assert texts(data.train[0], tokenizer) == [text[:cut].replace("<|end|>", "<|end|>")]
    assert data.validation[0].text_bytes == len(text[cut:].encode())
    assert data.report["sources"]["text"]["documents"] == 1


@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="the tinyshakespeare text is not here")
def test_tinyshakespeare_is_split_where_everyone_splits_it(tmp_path):
    text = SHAKESPEARE.read_text(encoding="utf-8")
    characters = train([text], kind="char")
    data = prepare(characters, tmp_path / "run", {"text": str(SHAKESPEARE)}, context=64)
    assert data.train[0].text_bytes == int(len(text) * 0.9) == 1_003_854
    assert data.validation[0].target_tokens == len(text) - 1_003_854 + 1
    assert characters.decode(data.train[0].shards.read(0)[1:-1].tolist()) == text[:1_003_854]


def test_many_documents_are_split_whole(tmp_path, tokenizer):
    data = prepare(tokenizer, tmp_path / "run", {"text": write_poems(tmp_path / "poems.jsonl")}, context=128)
    train_texts, held = texts(data.train[0], tokenizer), texts(data.validation[0], tokenizer)
    assert (len(train_texts), len(held)) == (36, 4)
    assert not set(train_texts) & set(held)
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report == data.report
    assert report["sources"]["text"]["train"]["documents"] == 36


def test_what_is_skipped_is_counted_with_its_reason(tmp_path, tokenizer, capsys):
    lines = [{"text": "a long enough text to train on"}, {"text": ""}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    data = prepare(tokenizer, tmp_path / "run", {"text": str(tmp_path / "a.jsonl"), "validation": 0})
    assert data.report["sources"]["text"]["skipped"] == {"empty text": 1}
    assert data.validation == []
    assert "1 skipped: empty text (first: " in capsys.readouterr().err


def test_a_mixture_and_a_validation_path(tmp_path, tokenizer):
    (tmp_path / "en.txt").write_text("A text in English. " * 9, encoding="utf-8")
    (tmp_path / "held.txt").write_text("Held out.", encoding="utf-8")
    given = {
        "text": {
            "en": {"path": str(tmp_path / "en.txt"), "weight": 3},
            "zh": {"path": write_poems(tmp_path / "zh.jsonl")},
        },
        "validation": str(tmp_path / "held.txt"),
    }
    data = prepare(tokenizer, tmp_path / "run", given)
    assert [(source.name, source.weight) for source in data.train] == [("en", 3), ("zh", 1)]
    assert [source.name for source in data.validation] == ["validation"]
    assert texts(data.validation[0], tokenizer) == ["Held out."]
    assert len(texts(data.train[1], tokenizer)) == 40
    by_source = prepare(tokenizer, tmp_path / "other", given | {"validation": 0.2})
    assert [source.name for source in by_source.validation] == ["en", "zh"]


def write_conversations(path, rows):
    path.write_text("\n".join(json.dumps({"messages": row}) for row in rows), encoding="utf-8")
    return str(path)


def test_conversations_learn_the_assistant_only(tmp_path, tokenizer):
    def talk(n):
        return [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n}!"}]

    silent = [{"role": "user", "content": "Anyone there?"}]
    path = write_conversations(tmp_path / "a.jsonl", [*map(talk, range(10, 30)), silent])
    data = prepare(tokenizer, tmp_path / "run", {"messages": path, "validation": 0}, context=32)
    learned = [
        target
        for batch in evaluation_batches(data.train[0], 4)
        for target in batch.targets[batch.targets >= 0].tolist()
    ]
    assert sorted(tokenizer.decode(learned).split("<|end|>")) == ["", *(f"{n}!" for n in range(10, 30))]
    assert data.train[0].text_bytes == 20 * 3
    assert data.report["sources"]["messages"]["skipped"] == {"without a word of the assistant": 1}


@pytest.mark.parametrize(
    ("text", "given", "error", "message"),
    [
        (
            "short",
            {"validation": 0},
            ConfigError,
            "'text' has 6 tokens to train on, fewer than model.context=16.*6",
        ),
        (
            "short",
            {"validation": 0.9},
            ConfigError,
            "'text' has .* tokens to train on, fewer than model.context=16",
        ),
        ("one document", {"split": "document"}, ConfigError, "leaves nothing to train on in 'text'"),
        (None, {}, InputError, "does not exist"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(tmp_path, tokenizer, text, given, error, message):
    if text is not None:
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    with pytest.raises(error, match=message):
        prepare(tokenizer, tmp_path / "run", {"text": str(tmp_path / "a.txt")} | given)
    assert not (tmp_path / "run" / "data.json").exists()


def test_records_of_another_kind_say_what_they_hold(tmp_path, tokenizer):
    path = write_conversations(tmp_path / "a.jsonl", [[{"role": "user", "content": "Hi"}]])
    with pytest.raises(
        InputError, match=r"nothing to learn from; skipped: 1 without text, but with messages"
    ):
        prepare(tokenizer, tmp_path / "run", {"text": path, "validation": 0})


def test_encoded_data_is_reused_until_something_changes(tmp_path, tokenizer):
    poems = write_poems(tmp_path / "poems.jsonl")
    first = prepare(tokenizer, tmp_path / "run", {"text": poems})
    stamp = (tmp_path / "run" / "text" / "index.json").stat().st_mtime_ns
    prepare(tokenizer, tmp_path / "run", {"text": poems})
    assert (tmp_path / "run" / "text" / "index.json").stat().st_mtime_ns == stamp
    longer = prepare(tokenizer, tmp_path / "run", {"text": poems}, context=32)
    assert (longer.context, longer.train[0].rows.context) == (32, 32)
    write_poems(tmp_path / "poems.jsonl", 50)
    assert prepare(tokenizer, tmp_path / "run", {"text": poems}).train[0].digest != first.train[0].digest


def test_encoding_twice_gives_the_same_bytes(tmp_path, tokenizer):
    poems = write_poems(tmp_path / "poems.jsonl")
    one, two = (prepare(tokenizer, tmp_path / name, {"text": poems}) for name in ("a", "b"))
    assert one.train[0].digest == two.train[0].digest
    state = Loader(one.train, batch_size=4, seed=1).state(3)
    Loader(two.train, batch_size=4, seed=1).check(state)


def test_encoded_data_opens_without_its_inputs(tmp_path, tokenizer):
    (tmp_path / "in").mkdir()
    made = prepare(tokenizer, tmp_path / "run", {"text": write_poems(tmp_path / "in" / "poems.jsonl")})
    shutil.rmtree(tmp_path / "in")
    shutil.move(tmp_path / "run", tmp_path / "moved")
    data = open_data(tmp_path / "moved", tokenizer)
    assert data.train[0].digest == made.train[0].digest
    data.verify()
    with pytest.raises(ConfigError, match="was encoded with another tokenizer"):
        open_data(tmp_path / "moved", train(["abc"], kind="char"))
    tokens = tmp_path / "moved" / "text" / "tokens-00000.bin"
    tokens.write_bytes(tokens.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"tokens-00000.bin is truncated"):
        open_data(tmp_path / "moved")


def test_a_long_text_is_encoded_in_slices_at_line_starts(monkeypatch):
    monkeypatch.setattr(encode, "LONGEST_PIECE", 25)
    poem = "白日依山尽，\n\n  黄河入海流。\n欲穷千里目，更上一层楼。\n" * 3 + "一" * 70
    slices = encode._slices(poem)
    assert "".join(slices) == poem
    assert all(0 < len(one) <= 25 for one in slices)
    assert slices[1].startswith("欲")
    tokenizer = train([poem], kind="bpe", vocab_size=290)
    found, held_out = next(encode.encode_texts([(Document("a", poem), True)], tokenizer, Intake()))
    assert held_out
    assert tokenizer.decode(found.ids, skip_special=True) == poem
    lines = poem[: poem.rfind("\n") + 1]
    same = len(tokenizer.encode_plain(lines)) + 1
    assert found.ids[:same] == [0, *tokenizer.encode_plain(lines)]
    assert found.text_bytes == len(poem.encode())


def test_a_conversation_the_template_refuses_is_named(tokenizer):
    documents = [(Document("a#7", record={"messages": [{"role": "wizard", "content": "Hm"}]}), False)]
    with pytest.raises(InputError, match="a#7: "):
        list(encode.encode_conversations(documents, tokenizer, Intake()))
    strict = tokenizer.but_with("{{ raise_exception('no system') }}", tokenizer.stop_ids)
    said = {"messages": [{"role": "user", "content": "Hm"}, {"role": "assistant", "content": "Hm"}]}
    with pytest.raises(ModelError, match="a#8: the chat template does not take these messages: no system"):
        list(encode.encode_conversations([(Document("a#8", record=said), False)], strict, Intake()))
