"""Cleaning as named steps that can be switched, each `str -> str`: `clean(text)`, `clean(text, steps=[...])`.

Chinese stays as it is written: no step turns Traditional into Simplified or touches 。，、「」！？：；（）
unless it is one that says so (`unicode_nfkc`, `punctuation`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache, lru_cache

from plait.errors import ConfigError, did_you_mean, need

# every character that can take part in mojibake; East Asian text and punctuation lie outside
SUSPECT = re.compile("[\x80-\u2fff\ue000-\uf8ff\ufb00-\ufdff\ufffd]")
LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# controls, marks of direction and invisible separators; joiners (U+200C, U+200D) shape emoji and scripts
CONTROLS = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    "\ufdd0-\ufdef\ufff0-\ufffb\ufffe\uffff\U000e0001]"
)
WIDE = re.compile("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]+")
NARROW_KANA = re.compile("[\uff61-\uff9f]+")
ASCII_URL = r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]"
URL = re.compile(
    rf"(?<![A-Za-z0-9])(?:(?:https?|ftp)://|www\.){ASCII_URL}+(?<![.,;:!?'\")\]])", re.IGNORECASE
)
EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9._%+\-]{1,64}@[A-Za-z0-9\-]{1,63}(?:\.[A-Za-z0-9\-]{1,63})+"
)
APOSTROPHE = re.compile(r"(?<=[^\W\d_])['’](?=[^\W\d_])")
BLANK_LINES = re.compile(r"\n{3,}")
BLOCKS = (
    "address, article, aside, blockquote, dd, div, dl, dt, figcaption, figure, footer, form, h1, h2, h3, h4, "
    "h5, h6, header, hr, li, main, nav, ol, p, pre, section, table, tr, ul"
)
UNSEEN = "script, style, noscript, template, head, svg, iframe, object, select, textarea"
PARAGRAPH, BREAK, SPACE = "\x1e", "\x1f", "\x1d"  # stand in for layout while HTML white space collapses


def mojibake(text: str) -> str:
    """Repair text that was decoded with the wrong encoding (`ftfy`), line by line."""
    if text.isascii() or not SUSPECT.search(text):
        return text
    fix = need("ftfy", "text").fix_encoding
    return "\n".join(fix(line) if SUSPECT.search(line) else line for line in text.split("\n"))


def unicode_nfc(text: str) -> str:
    """Unicode's composed form: one spelling for each accented letter (UAX #15)."""
    return unicodedata.normalize("NFC", text)


def unicode_nfkc(text: str) -> str:
    """Unicode's compatibility form: ligatures, widths, circled digits, also Chinese punctuation (UAX #15)."""
    return unicodedata.normalize("NFKC", text)


def control(text: str) -> str:
    """Remove control and invisible characters; every kind of line end becomes `\\n`."""
    return CONTROLS.sub("", LINE_ENDS.sub("\n", text))


def width(text: str) -> str:
    """Full-width letters and digits to ASCII, half-width kana to full; other full-width forms stay."""
    if text.isascii():
        return text
    text = WIDE.sub(lambda match: match[0].translate(_ascii_of_wide()), text)
    return NARROW_KANA.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)


@cache
def _ascii_of_wide() -> dict[int, int]:
    return {code: code - 0xFEE0 for code in range(0xFF10, 0xFF5B)}


def html_to_text(text: str) -> str:
    """The visible text of HTML: paragraphs apart by a blank line, `<br>` and `<pre>` keep their lines."""
    if "<" not in text and "&" not in text:
        return text
    tree = need("selectolax.lexbor", "text").LexborHTMLParser(text)
    body = tree.body
    if body is None:
        return ""
    for node in body.css(UNSEEN):
        node.decompose()
    for node in body.css("br"):
        node.replace_with(BREAK)
    for node in body.css("td, th"):
        node.insert_after(SPACE)
    for node in body.css("pre"):
        inner = node.text().strip("\n").replace("\n", BREAK).replace(" ", SPACE)
        node.replace_with(PARAGRAPH + inner + PARAGRAPH)
    for node in body.css(BLOCKS):
        mark = BREAK if node.tag in ("li", "tr", "dt", "dd") else PARAGRAPH
        node.insert_before(mark)
        node.insert_after(mark)
    flat = re.sub(rf"[^\S{PARAGRAPH}{BREAK}{SPACE}]+", " ", body.text())
    paragraphs = re.split(rf" ?{PARAGRAPH}[{PARAGRAPH}{BREAK} ]*", flat)
    lines = (re.sub(rf"[ {SPACE}]*{BREAK}+ *", "\n", one).replace(SPACE, " ") for one in paragraphs)
    return "\n\n".join(line.strip("\n").rstrip() for line in lines if line.strip())


def urls(text: str) -> str:
    """Remove web addresses (`https://...`, `www....`)."""
    return URL.sub("", text)


def emails(text: str) -> str:
    """Remove e-mail addresses."""
    return EMAIL.sub("", text) if "@" in text else text


def punctuation(text: str) -> str:
    """Replace punctuation of every script by spaces; an apostrophe inside a word just goes."""
    return _class_of("P").sub(" ", APOSTROPHE.sub("", text))


def special(text: str) -> str:
    """Replace symbols, emoji and private-use characters by spaces; letters, digits, punctuation stay."""
    return _class_of("S", "Co", "Cn").sub(" ", text)


@cache
def _class_of(*categories: str) -> re.Pattern[str]:
    """A pattern of runs of characters whose Unicode category starts with one of `categories`."""
    ranges: list[list[int]] = []
    for code in range(0x20000):
        if unicodedata.category(chr(code)).startswith(categories):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return re.compile("[" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges) + "]+")


def whitespace(text: str) -> str:
    """One space between words, no trailing space, at most one blank line; ASCII indentation stays."""
    text = "\n".join(map(_line, LINE_ENDS.sub("\n", text).split("\n")))
    return BLANK_LINES.sub("\n\n", text).strip("\n")


def _line(line: str) -> str:
    words = " ".join(line.split())
    if line[:1] not in (" ", "\t") or not words:
        return words
    return line[: len(line) - len(line.lstrip(" \t"))] + words


STEPS: dict[str, Callable[[str], str]] = {
    "html": html_to_text,
    "mojibake": mojibake,
    "unicode_nfc": unicode_nfc,
    "unicode_nfkc": unicode_nfkc,
    "control": control,
    "width": width,
    "urls": urls,
    "emails": emails,
    "punctuation": punctuation,
    "special": special,
    "whitespace": whitespace,
}
DEFAULT = ("mojibake", "unicode_nfc", "control", "width", "whitespace")


def clean(text: str, steps: Iterable[str] = DEFAULT) -> str:
    """Apply the named steps, always in the order of `STEPS`.

    Raises:
        ConfigError: an unknown step.
    """
    for name in ordered(tuple(steps)):
        text = STEPS[name](text)
    return text


@lru_cache(maxsize=64)
def ordered(steps: tuple[str, ...]) -> tuple[str, ...]:
    """The names in the order they are applied, checked.

    Raises:
        ConfigError: an unknown step.
    """
    for name in steps:
        if name not in STEPS:
            raise ConfigError(
                f"unknown cleaning step {name!r}{did_you_mean(name, STEPS)}; known: {', '.join(STEPS)}"
            )
    return tuple(name for name in STEPS if name in steps)
