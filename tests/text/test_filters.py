import pytest

from plait.text.document import Document
from plait.text.filters import Rules, filter, language_of, repeated_share, symbol_ratio, too_long, too_short

EN = "The committee met on Tuesday to discuss the harbour, and nobody could agree about the bridge."
ZH = "委员会星期二开会讨论港口的事情，没有人能就那座桥达成一致意见。"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (EN, None),
        (ZH, None),
        ("  ", "empty"),
        ("好", "too_short"),
        ("哈哈" * 40, "repeated_text"),
        ("buy now " * 40, "repeated_text"),
        ("同一行字\n" * 9 + ZH[:9], "repeated_lines"),
        ("<|>{}#$%^&*" * 3, "symbol_ratio"),
        ("「床前明月光，疑是地上霜。」", None),
    ],
)
def test_default_rules(text, reason):
    assert filter(Document("x", text), Rules()) == reason


def test_rules_can_be_set_and_switched_off():
    assert filter(Document("x", EN), Rules(max_chars=10)) == "too_long"
    off = Rules(min_chars=None, max_symbols=None, max_repetition=None)
    assert filter(Document("x", "#" * 99), off) is None
    assert filter(Document("x", EN), Rules(languages=("zh",))) == "language"
    assert filter(Document("x", ZH), Rules(languages=("zh",))) is None


def test_records_are_not_judged_as_running_text():
    pair = Document("x", "", {"source": "jump", "target": "I_TURN_LEFT I_JUMP " * 20})
    assert filter(pair, Rules()) is None
    assert filter(Document("x", "", {"source": " ", "target": ""}), Rules()) == "empty"


@pytest.mark.parametrize(
    ("text", "language"),
    [(EN, "en"), (ZH, "zh"), ("秦川雄帝宅，函谷壯皇居。", "zh"), ("これは日本語の文章です。", "ja"),
     ("나는 학교에 갑니다", "ko"), ("", "und"), ("123 !!", "und")],
)  # fmt: skip
def test_language(text, language):
    assert language_of(text)[0] == language


def test_limits_are_inclusive():
    assert too_short("四个字呀", 4) is None
    assert too_long("abc", 3) is None
    assert symbol_ratio("a#", 0.5) is None


def test_repetition_does_not_grow_with_length():
    prose = "".join(f"{EN} {number} {ZH[number % 20 :]}" for number in range(200))
    assert repeated_share("x") == 0
    assert repeated_share("恭喜发财大家好才是真的好" * 50) > 0.9
    assert repeated_share(prose[:4000]) == pytest.approx(repeated_share(prose * 3), abs=0.2)
