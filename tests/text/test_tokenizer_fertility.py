import pytest

from plait.text.fertility import Sample, by_language, fertility, script
from plait.text.train_tokenizer import train


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The quick brown fox, naïve café", "Latin"),
        ("春眠不觉晓，处处闻啼鸟。", "Han"),
        ("调用 print 函数，返回值。", "Han"),
        ("吾輩は猫である。名前はまだ無い。", "Kana"),
        ("안녕하세요 세계", "Hangul"),
        ("Привет, мир", "Cyrillic"),
        ("नमस्ते दुनिया", "Devanagari"),
        ("مرحبا بالعالم", "Arabic"),
        ("Καλημέρα", "Greek"),
        ("𠮷野家", "Han"),
        ("123 + 456 😀", "other"),
        ("", "other"),
    ],
)
def test_script_of_a_text(text, expected):
    assert script(text) == expected


def test_bytes_per_token_are_counted_for_each_language():
    tokenizer = train(["hello world " * 20 + "春眠不觉晓" * 20], kind="char")
    rows = fertility(tokenizer, by_language(["hello world", "世春", "春"]))
    assert [(row.language, row.texts, row.bytes, row.tokens) for row in rows] == [
        ("Latin", 1, 11, 11),
        ("Han", 2, 9, 5),  # 世 is spelled in three bytes
    ]
    assert rows[1].bytes_per_token == 1.8
    assert fertility(tokenizer, {"none": [""]})[0].bytes_per_token == 0


def test_a_sample_passes_everything_on_and_is_uniform():
    texts = ["a" * 10_000] + [str(number) for number in range(2000)]
    sample = Sample(100)
    assert list(sample.tee(texts)) == texts
    assert len(sample.texts) == 100
    assert sample.seen == 2002
    late = sum(text.isdigit() and int(text) >= 1000 for text in sample.texts)
    assert 30 < late < 70
    again = Sample(100)
    list(again.tee(texts))
    assert again.texts == sample.texts
