"""The embedded default corpus: the reference text found on every machine that can run plait.

It is the Python language reference (`pydoc_data`) and the docstrings of the standard library, numpy and
torch: several megabytes of English, and thousands of names with the sentence that says what each does.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from plait.errors import InputError
from plait.log import progress
from plait.text.docstrings import Library
from plait.text.document import Document

QUESTIONS = ("What does {} do?", "What is {}?", "Explain {}.", "Tell me about {}.")
PACKAGES = ("numpy", "torch")
ATTACHING = ("numpy._core._add_newdocs", "torch._torch_docs", "torch._tensor_docs")
# Modules written in C, whose docstrings are in no source file; importing them is quick and harmless.
COMPILED = """
    builtins os sys math cmath time itertools functools collections operator random re io struct array
    binascii zlib bisect heapq datetime unicodedata gc select socket threading marshal errno
"""
BUILTIN_TYPES = "str list dict set tuple int float bytes bytearray frozenset complex range slice property"
# The most familiar first: questions are taught in this order. Some classes stand among the modules.
FAMILIAR = """
    os os.path json re math random time datetime datetime.datetime pathlib pathlib.Path collections
    collections.Counter collections.deque itertools functools string shutil subprocess logging csv argparse
    sys io glob tempfile threading typing copy operator statistics numpy numpy.linalg torch.nn torch.optim
    torch.nn.functional torch torch.utils.data heapq bisect contextlib dataclasses enum urllib.parse
    urllib.request socket asyncio queue pickle hashlib base64 zipfile tarfile gzip textwrap pprint traceback
    inspect unittest decimal fractions uuid secrets calendar html http.client http.server email configparser
    sqlite3 struct types weakref abc ast warnings concurrent.futures multiprocessing signal platform getpass
    fnmatch difflib locale codecs unicodedata xml.etree.ElementTree numpy.fft torch.linalg torch.nn.init
    torch.optim.lr_scheduler torch.fft torch.Tensor numpy.ndarray torch.autograd torch.distributions
"""
# Not read: removed in later versions of Python, or hardly ever met; their bulk would drown the rest.
OBSCURE = """
    aifc asynchat asyncore audioop binhex cgi cgitb chunk crypt encodings imghdr imp mailcap nis nntplib
    ossaudiodev pipes smtpd sndhdr spwd sre_compile sre_constants sre_parse sunau telnetlib uu xdrlib opcode
    pydoc curses torch.distributed torch.onnx torch.ao torch.fx torch.export torch.package torch.cuda
    torch.xpu torch.mtia torch.jit torch.quantization torch.accelerator torch.backends torch.compiler
    torch.contrib torch.monitor torch.masked torch.serialization torch.storage torch.utils.benchmark
    torch.utils.tensorboard torch.utils.hipify torch.utils.data.datapipes torch.signal torch.overrides
    torch.library torch.types torch.cpu torch.mps numpy.distutils numpy.ctypeslib numpy.typing numpy.conftest
"""

# Marks of code, mathematics, links, unfinished sentences, and of answers that only point elsewhere.
JUNK = re.compile(
    r"[{}\\|<>=]|->|:\w+:|https?:|\.\. |^\S+\(|[:,;]$|^\W*(Deprecated|See|Alias|Same|Like|TODO)\b"
)


@dataclass(frozen=True)
class QA:
    """A public name, questions about it, and the first sentence of its docstring."""

    name: str
    questions: tuple[str, ...]
    answer: str


def reference_documents() -> Iterator[Document]:
    """The corpus: topics of the language reference, then every docstring under its name.

    Raises:
        InputError: this Python came without its source files.
    """
    yield from (Document(f"topic#{name}", text) for name, text in _topics().items())
    for name, doc in _docstrings().items():
        text = re.sub(r"^\s*\{\w+\}\n", "", doc, flags=re.MULTILINE)  # what `.format` would have filled in
        yield Document(f"docstring#{name}", f"{name}\n\n{text.strip()}\n")


def question_answers() -> list[QA]:
    """Names with questions and answers, the most familiar first; the same order on every machine.

    Raises:
        InputError: this Python came without its source files.
    """
    result: list[QA] = []
    answers: set[str] = set()
    for name in sorted(_docstrings(), key=familiarity):
        answer = first_sentence(_docstrings()[name])
        if (
            answer is None
            or answer in answers
            or _within(name, OBSCURE.split()) is not None
            or name in _modules()
        ):
            continue
        answers.add(answer)
        result.append(QA(name, tuple(question.format(name) for question in QUESTIONS), answer))
    return result


def familiarity(name: str) -> tuple[bool, bool, int, bool, str]:
    """Sort key of a name: familiar modules before others, functions before methods, classes last."""
    owner, _, last = name.rpartition(".")
    order = ["", *BUILTIN_TYPES.split(), *FAMILIAR.split()]
    module = owner if owner in order else _within(name, order)
    rank = len(order) if module is None else order.index(module)
    return (module is None, owner != module, rank, last[0].isupper(), name)


def first_sentence(doc: str) -> str | None:
    """The docstring's first sentence as plain text, or None where there is none fit to be an answer."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", doc.strip())]
    while paragraphs and _is_signature(paragraphs[0]):
        paragraphs.pop(0)
    if not paragraphs:
        return None
    text = plain(paragraphs[0])
    sentence = re.split(r"(?<=[^.][.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!vs\.)(?<!cf\.)\s+", text)[0]
    fit = 15 < len(sentence) < 160 and sentence[0].isupper() and sentence.count(" ") >= 2
    junk = JUNK.search(sentence)
    return sentence if fit and not junk and sentence.isascii() else None


def plain(text: str) -> str:
    """Without reStructuredText's marks: roles such as `:func:`, double backticks, emphasis."""
    text = re.sub(r":(?!math:)\w+(?::\w+)*:`~?([^`<]+?)(?:\s*<[^`]*>)?`", r"\1", text)
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"\1", text.replace("``", "`"))
    return re.sub(r"(?<!\w)\*{1,2}(\w[\w ]*)\*{1,2}(?!\w)", r"\1", text)


def _is_signature(paragraph: str) -> bool:
    """`name(arguments) -> result`, a heading's underline or a directive: not a sentence about the thing."""
    return bool(re.match(r"[\w.]+\s?\(.*\)( ?->.*)?$|[\w.]+\(.*->|\.\. |[\w.]+ ?[-=~]{3,}$", paragraph))


def _within(name: str, modules: Sequence[str]) -> str | None:
    """The longest of `modules` that `name` lies in."""
    parts = name.split(".")
    heads = (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
    return next((head for head in heads if head in modules), None)


@lru_cache(maxsize=1)
def _libraries() -> tuple[Library, Library]:
    stdlib = Path(sysconfig.get_path("stdlib"))
    if not (stdlib / "os.py").is_file():
        raise InputError(
            f"the reference text is missing: {stdlib} holds no Python source; name your own with --text PATH"
        )
    found = {name: find_spec(name) for name in PACKAGES}
    roots = {
        name: Path(spec.submodule_search_locations[0])
        for name, spec in found.items()
        if spec is not None and spec.submodule_search_locations
    }
    return Library({"": stdlib}, OBSCURE.split()), Library(roots, OBSCURE.split())


@lru_cache(maxsize=1)
def _modules() -> frozenset[str]:
    names = {name for library in _libraries() for name in library.public_modules}
    return frozenset({*names, *COMPILED.split(), "os.path"})


@lru_cache(maxsize=1)
def _docstrings() -> dict[str, str]:
    """Every public docstring by public name: what source files say first, then what C modules tell."""
    result: dict[str, str] = {}
    total = sum(len(library.public_modules) for library in _libraries())
    with progress("collect: modules read", total) as bar:
        for library in _libraries():
            for module in ATTACHING:
                library.attach(module)
            for name, definition in library.public_names(bar.advance).items():
                result[name] = definition.doc
                result |= {f"{name}.{member}": doc for member, doc in definition.members.items()}
            for name in library.public_modules:
                module = library.load(name)
                result.setdefault(name, module.doc if module else "")
    for name, doc in _compiled().items():
        result.setdefault(name, doc)
    return {name: result[name] for name in sorted(result) if result[name].strip()}


def _compiled() -> dict[str, str]:
    """Docstrings of C functions and classes, for which there is no source, by public name."""
    result: dict[str, str] = {}
    for module_name in COMPILED.split():
        module = importlib.import_module(module_name)
        prefix = "" if module_name == "builtins" else f"{module_name}."
        for name, value in sorted(vars(module).items()):
            home = getattr(value, "__module__", None) or ""
            own = home.lstrip("_") in (module_name, "posix", "nt") or (not prefix and home == "builtins")
            own = own or getattr(value, "__self__", None) is module
            if name.startswith("_") or not own or inspect.isfunction(value) or not callable(value):
                continue
            result[prefix + name] = inspect.getdoc(value) or ""
            for member, method in sorted(vars(value).items()) if isinstance(value, type) else []:
                if not member.startswith("_") and inspect.ismethoddescriptor(method) and method.__doc__:
                    result[f"{prefix}{name}.{member}"] = inspect.cleandoc(method.__doc__)
    return result


def _topics() -> dict[str, str]:
    """The language reference by topic, as the interactive help shows it."""
    path = Path(sysconfig.get_path("stdlib")) / "pydoc_data" / "topics.py"
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError):
        return {}  # some distributions leave it out; the docstrings remain
    values = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    topics = ast.literal_eval(values[0]) if values else {}
    return dict(sorted(topics.items()))
