import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plait.errors import ConfigError
from plait.text.clean import DEFAULT, STEPS, SUSPECT, clean, mojibake

HAN = st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF)
ZH_TEXT = st.text(HAN | st.sampled_from("。，、；：「」『』《》！？（）…—·“”‘’"), max_size=60)


@pytest.mark.parametrize(
    ("steps", "before", "after"),
    [
        ("mojibake", "voilÃ\xa0 le cafÃ©", "voilà le café"),
        ("mojibake", "ä½\xa0å¥½\n你好", "你好\n你好"),
        ("unicode_nfc", "e\u0301", "é"),
        ("unicode_nfkc", "①ﬁ，", "1fi,"),
        ("control", "a\x00b\u200bc\ufeff\r\nd\x85e\u202e", "abc\nd\ne"),
        ("control", "👨\u200d👩", "👨\u200d👩"),
        ("width", "ＡＢＣ１２３，。！ｶﾞｷﾞ", "ABC123，。！ガギ"),
        ("urls", "见https://a.com/x?y=1。好 (see www.b.org).", "见。好 (see )."),
        ("emails", "写信到a.b+c@d-e.com.cn吧 @home", "写信到吧 @home"),
        ("punctuation", "“Don't”, 他说：好！(ok)", " Dont  他说 好 ok "),
        ("special", "a★b€ c😀，d", "a b  c ，d"),
        ("whitespace", "  a   b \t c\r\n\n\n\nd　　e \n\n", "  a b c\n\nd e"),
        ("whitespace", "　　段落\n\tif x:\n", "段落\n\tif x:"),
        ("html", "a < b", "a < b"),
        ("html", "<p>A\n b<br>c</p><ul><li>x<li>y</ul><td>1</td>", "A b\nc\n\nx\ny\n\n1"),
        ("html", "<pre>def f():\n    return 1</pre>after", "def f():\n    return 1\n\nafter"),
        ("html", "<head><title>t</title></head><style>p{}</style>好<script>x</script>", "好"),
    ],
)
def test_steps(steps, before, after):
    assert STEPS[steps](before) == after


@given(ZH_TEXT)
@example("“……”——《诗》")
def test_default_leaves_chinese_as_it_is(text):
    assert clean(text) == text


@given(st.text(max_size=200))
@example("a\x1c\n\nb")
def test_default_is_idempotent_and_tidy(text):
    steps = [step for step in DEFAULT if step != "mojibake"]  # needs the control characters still there
    once = clean(text, steps)
    assert clean(once, steps) == once
    assert "\n\n\n" not in once
    assert not once.endswith((" ", "\n"))


@given(st.text(max_size=80))
def test_mojibake_shortcut_agrees_with_ftfy(text):
    import ftfy

    assert mojibake(text) == "\n".join(map(ftfy.fix_encoding, text.split("\n")))


def test_every_character_ftfy_suspects_is_suspected():
    from ftfy.badness import BADNESS_RE

    beyond = set(re.findall(r"[^\x00-\x7f]", BADNESS_RE.pattern))
    assert not [character for character in beyond if not SUSPECT.match(character)]


def test_traditional_and_simplified_stay():
    assert clean("漢字繁體與汉字简体") == "漢字繁體與汉字简体"


def test_order_is_ours_and_unknown_steps_are_refused():
    assert clean("ｈｔｔｐ：//x ", ["whitespace", "width"]) == "http：//x"
    with pytest.raises(ConfigError, match=r"unknown cleaning step 'url'; did you mean 'urls'.*known: html,"):
        clean("x", [*DEFAULT, "url"])


@pytest.mark.parametrize("step", STEPS)
def test_hostile_input_takes_linear_time(step):
    for piece in ("a", " ", "<", "www.", "a@", "．", "\n", "'"):
        STEPS[step](piece * 100_000)
