"""The embedded corpus as found on this machine, read once in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig

import pytest

from plait.errors import InputError
from plait.text import reference
from plait.text.reference import first_sentence

READ_EVERYTHING = """
import builtins, functools, importlib, json, sys, warnings
from plait.text import reference

documents = list(reference.reference_documents())
pairs = reference.question_answers()
imported = [name for name in ("torch", "numpy") if name in sys.modules]

def find(name):
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:count]))
            return functools.reduce(getattr, parts[count:], module)
        except (ImportError, AttributeError):
            continue
    return functools.reduce(getattr, parts, builtins)

warnings.simplefilter("ignore")
taught = [pair.name for pair in pairs[:1500] if not pair.name.startswith("torch.")]
unknown = []
for name in taught:
    try:
        find(name)
    except AttributeError:
        unknown.append(name)
json.dump({
    "documents": [[document.id, document.text] for document in documents],
    "pairs": [[pair.name, pair.questions, pair.answer] for pair in pairs],
    "imported": imported, "unknown": unknown, "checked": len(taught),
}, sys.stdout)
"""


@pytest.fixture(scope="module")
def found():
    run = subprocess.run([sys.executable, "-c", READ_EVERYTHING], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def test_several_megabytes_with_unique_ids_and_nothing_imported(found):
    ids = [number for number, _ in found["documents"]]
    assert len(set(ids)) == len(ids) > 5000
    assert 3e6 < sum(len(text) for _, text in found["documents"]) < 12e6
    assert {"topic#assignment", "docstring#json.dumps", "docstring#torch.nn.Linear"} < set(ids)
    assert found["imported"] == []


def test_names_are_public_and_import(found):
    names = [name for name, _, _ in found["pairs"]]
    assert len(names) == len(set(names)) > 4000
    assert not [name for name in names if any(part.startswith("_") for part in name.split("."))]
    assert not [
        name for name in names if name.startswith(("posixpath.", "tkinter.", "turtle.", "distutils."))
    ]
    assert {"json.JSONEncoder.default", "os.path.join"} < set(names)
    assert not {"json.encoder.JSONEncoder.default", "posixpath.join"} & set(names)
    assert found["checked"] > 1000
    assert found["unknown"] == []


def test_the_familiar_come_first_with_their_docstrings_first_sentence(found):
    pairs = {name: (place, answer) for place, (name, _, answer) in enumerate(found["pairs"])}
    expected = {
        "len": "Return the number of items in a container.",
        "str.capitalize": "Return a capitalized version of the string.",
        "os.path.join": "Join two or more pathname components, inserting '/' as needed.",
        "json.dumps": "Serialize obj to a JSON formatted str.",
        "math.gcd": "Greatest Common Divisor.",
        "random.shuffle": "Shuffle list x in place, and return None.",
        "numpy.mean": "Compute the arithmetic mean along the specified axis.",
        "torch.abs": "Computes the absolute value of each element in input.",
    }
    assert {name: pairs[name][1] for name in expected} == expected
    assert pairs["len"][0] < pairs["os.path.join"][0] < pairs["json.dumps"][0] < pairs["numpy.mean"][0] < 1500


def test_questions_name_the_name(found):
    name, questions, _ = found["pairs"][0]
    assert questions == [
        f"What does {name} do?",
        f"What is {name}?",
        f"Explain {name}.",
        f"Tell me about {name}.",
    ]


def test_answers_are_single_short_plain_sentences(found):
    answers = [answer for _, _, answer in found["pairs"]]
    assert len(set(answers)) == len(answers)
    for answer in answers:
        assert 15 < len(answer) < 160
        assert answer.isascii()
        assert answer[0].isupper()
        assert not set(answer) & set("{}|\\<>")


@pytest.mark.parametrize(
    ("doc", "sentence"),
    [
        ("Return a string. More about it.", "Return a string."),
        ("Return a string,\n    joined.\n\n    Details.", "Return a string, joined."),
        ("add(a, b) -> Tensor\n\nAdds :attr:`a` to :func:`~torch.b`.", "Adds a to torch.b."),
        ("Takes ``x``, e.g. a number, and *returns* it.", "Takes `x`, e.g. a number, and returns it."),
        ("Call sys.hook first. sys.hook must exist.", "Call sys.hook first."),
        ("Too short.", None),
        ("lower case sentences are no answers.", None),
        ("Deprecated alias of another function.", None),
        ("See :func:`torch.abs` for what this does.", None),
        ("Compute :math:`x^2` of every element.", None),
        ("The arguments of this function are:", None),
        ("D.keys() -> a set-like object providing a view on D's keys", None),
        ("word " * 60, None),
        ("", None),
    ],
)
def test_first_sentence(doc, sentence):
    expected = sentence.replace("`x`", "x") if sentence else None
    assert first_sentence(doc) == expected


def test_a_python_without_source_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    reference._libraries.cache_clear()
    try:
        with pytest.raises(InputError, match=r"holds no Python source; name your own with --text PATH"):
            reference._libraries()
    finally:
        reference._libraries.cache_clear()
