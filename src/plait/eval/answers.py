"""Exact match and F1 of answers to questions: SQuAD 1.1 and 2.0, CMRC 2018, and any short text."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from plait.errors import need
from plait.eval.inputs import References, Texts, check
from plait.eval.means import mean_score
from plait.eval.scores import Score

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
# the list of the CMRC 2018 script; its "……" is two characters and so never removed
CMRC_SIGNS = "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』"
HAN = re.compile("[\u4e00-\u9fa5]")


def exact_match(*, hypotheses: Texts, references: References) -> Score:
    """Share of answers equal, once `normalized`, to one of their references, in percent.

    Raises:
        InputError: what `check` refuses.
    """
    values = exact_values(hypotheses=hypotheses, references=references)
    return mean_score(
        "answers", "exact_match", values, right_or_wrong=True, normalization="lower case, no final full stop"
    )


def verbatim(*, hypotheses: Texts, references: References) -> Score:
    """Share of texts equal to one of their references to the letter, in percent; spaces at the end aside.

    Raises:
        InputError: what `check` refuses.
    """
    values = verbatim_values(hypotheses=hypotheses, references=references)
    return mean_score("answers", "verbatim", values, right_or_wrong=True, normalization="none")


def squad(*, hypotheses: Texts, references: References, no_answer: bool = False) -> list[Score]:
    """`squad_em` and `squad_f1` in percent (Rajpurkar et al. 2016), the best reference of each question.

    Args:
        hypotheses, references: see `plait.eval.inputs.check`.
        no_answer: SQuAD 2.0 (Rajpurkar et al. 2018): a question without reference asks for an empty answer.

    Raises:
        InputError: what `check` refuses; a question without reference where `no_answer` is false.
    """
    values = squad_values(hypotheses=hypotheses, references=references, no_answer=no_answer)
    kind = "2.0" if no_answer else "1.1"
    return [
        mean_score("answers", name, values[name], right_or_wrong=name == "squad_em", squad=kind)
        for name in values
    ]


def cmrc(*, hypotheses: Texts, references: References) -> list[Score]:
    """`cmrc_em` and `cmrc_f1` in percent (Cui et al. 2019), the best reference of each question.

    Raises:
        InputError: what `check` refuses.
        MissingExtra: where answers hold Latin words, which nltk (of the extra `eval`) splits.
    """
    values = cmrc_values(hypotheses=hypotheses, references=references)
    return [
        mean_score("answers", name, values[name], right_or_wrong=name == "cmrc_em", cmrc="2018")
        for name in values
    ]


def exact_values(*, hypotheses: Texts, references: References) -> list[float]:
    """1 for every answer that equals one of its references, else 0."""
    samples = check(hypotheses, references)
    return [float(normalized(text) in map(normalized, answers)) for text, answers in zip(hypotheses, samples)]


def verbatim_values(*, hypotheses: Texts, references: References) -> list[float]:
    """1 for every text that is one of its references, else 0."""
    samples = check(hypotheses, references)
    return [
        float(text.rstrip() in (answer.rstrip() for answer in answers))
        for text, answers in zip(hypotheses, samples)
    ]


def squad_values(
    *, hypotheses: Texts, references: References, no_answer: bool = False
) -> dict[str, list[float]]:
    """Exact match and F1 of every answer, 0 to 1; arguments and errors as in `squad`."""
    samples = check(hypotheses, references, none=no_answer)
    if no_answer:  # as the script of SQuAD 2.0: references that vanish are none
        samples = [[text for text in answers if squad_normalized(text)] or [""] for answers in samples]
    pairs = list(zip(hypotheses, samples))
    return {
        "squad_em": [float(max(_squad_em(text, answer) for answer in answers)) for text, answers in pairs],
        "squad_f1": [
            max(_squad_f1(text, answer, no_answer) for answer in answers) for text, answers in pairs
        ],
    }


def cmrc_values(*, hypotheses: Texts, references: References) -> dict[str, list[float]]:
    """Exact match and F1 of every answer, 0 to 1."""
    pairs = list(zip(hypotheses, check(hypotheses, references)))
    return {
        "cmrc_em": [float(cmrc_normalized(text) in map(cmrc_normalized, answers)) for text, answers in pairs],
        "cmrc_f1": [max(_cmrc_f1(text, answer) for answer in answers) for text, answers in pairs],
    }


def normalized(text: str) -> str:
    """Lower case, without spaces around and without one final full stop (`.` or `。`)."""
    text = text.strip().lower()
    return text[:-1].rstrip() if text.endswith((".", "。")) else text


def squad_normalized(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces, in the order of the official script."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def cmrc_normalized(text: str) -> str:
    """Lower case, without the punctuation of CMRC's list."""
    return "".join(letter for letter in text.lower().strip() if letter not in CMRC_SIGNS)


def cmrc_segments(text: str) -> list[str]:
    """Han characters one by one, the rest in words of nltk's Penn Treebank tokenizer; signs are left out.

    The official script also splits the rest into sentences first, which answers of a few words do not have.
    """
    pieces = re.split("([\u4e00-\u9fa5])", cmrc_normalized(text))
    segments = []
    for piece in pieces:
        if HAN.fullmatch(piece):
            segments.append(piece)
        elif piece.strip():
            segments += need("nltk.tokenize", "eval").NLTKWordTokenizer().tokenize(piece)
    return segments


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest run of segments that both hold (a substring, not a subsequence)."""
    longest, before = 0, [0] * (len(second) + 1)
    for segment in first:
        row = [0] * (len(second) + 1)
        for place, other in enumerate(second, 1):
            if segment == other:
                row[place] = before[place - 1] + 1
                longest = max(longest, row[place])
        before = row
    return longest


def _squad_em(text: str, answer: str) -> bool:
    return squad_normalized(text) == squad_normalized(answer)


def _squad_f1(text: str, answer: str, no_answer: bool) -> float:
    found, wanted = squad_normalized(text).split(), squad_normalized(answer).split()
    if no_answer and not (found and wanted):
        return float(found == wanted)
    return _f1((Counter(found) & Counter(wanted)).total(), len(found), len(wanted))


def _cmrc_f1(text: str, answer: str) -> float:
    found, wanted = cmrc_segments(text), cmrc_segments(answer)
    if not answer:  # no answer is the right one
        return float(not found)
    return _f1(longest_common(wanted, found), len(found), len(wanted))


def _f1(common: int, found: int, wanted: int) -> float:
    if not common:
        return 0.0
    precision, recall = common / found, common / wanted
    return 2 * precision * recall / (precision + recall)
