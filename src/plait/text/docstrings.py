"""Docstrings and public names of installed packages, read from their source with `ast`, never by importing.

A function's public name is the shortest path by which a public module offers it: `json.JSONEncoder`, though
it is written in `json/encoder.py`; `os.path.join`, though it is written in `posixpath.py`.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from inspect import cleandoc
from pathlib import Path

# not for reading: tests, other projects' code carried along, games, data, other platforms' modules
SKIPPED = {"test", "tests", "testing", "_vendor", "site-packages", "dist-packages", "ensurepip", "pydoc_data"}
SKIPPED |= {
    "idlelib",
    "lib2to3",
    "distutils",
    "tkinter",
    "turtle",
    "turtledemo",
    "antigravity",
    "this",
    "f2py",
}
SKIPPED |= {"genericpath", "ntpath", "nturl2path", "msilib", "windows_events", "windows_utils"}
SKIPPED |= {"popen_spawn_win32", "mbcs", "oem", "_pyrepl"}
FACADES = {"posixpath": "os.path"}  # the names by which platform modules are known


@dataclass(frozen=True)
class Definition:
    """A documented function or class; `members` are a class's public methods and properties by name."""

    home: str  # the module that holds it
    name: str
    doc: str
    members: dict[str, str] = field(default_factory=dict)


@dataclass
class Module:
    """What one source file says: its own definitions, and where its other names come from."""

    name: str
    package: bool
    doc: str = ""
    definitions: dict[str, Definition] = field(default_factory=dict)
    bindings: dict[str, tuple[str, str]] = field(default_factory=dict)  # name → (module, attribute)
    stars: list[str] = field(default_factory=list)
    exports: list[str] = field(default_factory=list)  # __all__, as far as it is written out
    attached: dict[str, str] = field(default_factory=dict)  # docstrings given by call, by dotted name


class Library:
    """The modules below some package roots, parsed when first asked for.

    Args:
        roots: directory of each top-level package, or of the standard library under the name "".
        obscure: modules not to list (with all below them); names are still followed into them.
    """

    def __init__(self, roots: Mapping[str, Path], obscure: Iterable[str] = ()) -> None:
        self._roots = dict(roots)
        self._obscure = tuple(f"{name}." for name in obscure)
        self._parsed: dict[str, Module | None] = {}

    @cached_property
    def files(self) -> dict[str, Path]:
        """Every module's file by module name, sorted, so that the order is the same everywhere."""
        found: dict[str, Path] = {}
        for top, root in self._roots.items():
            for path in root.rglob("*.py"):
                parts = list(path.relative_to(root).with_suffix("").parts)
                if parts[-1] == "__init__":
                    parts.pop()
                name = ".".join([top, *parts] if top else parts)
                if name and SKIPPED.isdisjoint(name.split(".")):
                    found[name] = path
        return dict(sorted(found.items()))

    def load(self, name: str) -> Module | None:
        """The parsed module, or None where there is no readable source for it."""
        if name not in self._parsed:
            path = self.files.get(name)
            self._parsed[name] = read_module(name, path) if path else None
        return self._parsed[name]

    @cached_property
    def public_modules(self) -> list[str]:
        """Names of modules without an underscore in front of any part."""
        names = [name for name in self.files if not f"{name}.".startswith(self._obscure)]
        return [name for name in names if not any(part.startswith("_") for part in name.split("."))]

    def attach(self, module: str) -> None:
        """Give the docstrings that `module` attaches to C functions by calls to where those belong."""
        source = self.load(module)
        for dotted, doc in (source.attached if source else {}).items():
            home, _, name = dotted.rpartition(".")
            if name.startswith("_"):
                continue
            if owner := self.load(home):
                owner.definitions.setdefault(name, Definition(home, name, doc))
                if owner.exports:
                    owner.exports.append(name)
                continue
            home, _, kind = home.rpartition(".")
            if found := self.resolve(home, kind):
                found.members.setdefault(name, doc)

    def resolve(self, module: str, name: str, depth: int = 8) -> Definition | None:
        """Follow `from ... import`, star imports and aliases to where `module.name` is written."""
        source = self.load(module)
        if source is None or depth == 0:
            return None
        if name in source.definitions:
            return source.definitions[name]
        if name in source.bindings:
            home, attribute = source.bindings[name]
            head, _, member = attribute.partition(".")
            found = self.resolve(home, head, depth - 1)
            if found is None or not member:
                return found
            doc = found.members.get(member)
            return Definition(found.home, f"{found.name}.{member}", doc) if doc else None
        for star in source.stars:
            starred = self.load(star)
            visible = starred is not None and (name in starred.exports or not starred.exports)
            if visible and (found := self.resolve(star, name, depth - 1)):
                return found
        return None

    def offered(self, module: str, depth: int = 8) -> list[str]:
        """Public names of a module: `__all__` or what it defines; for a package also what its parts give."""
        source = self.load(module)
        if source is None or depth == 0:
            return []
        names = dict.fromkeys(source.exports or source.definitions)
        if source.package or not source.exports:
            top = module.partition(".")[0]
            names |= {
                name: None for name, (home, _) in source.bindings.items() if home.partition(".")[0] == top
            }
            for star in source.stars:
                names |= dict.fromkeys(self.offered(star, depth - 1))
        return [name for name in names if not name.startswith("_")]

    def public_names(self, on_module: Callable[[], None] = lambda: None) -> dict[str, Definition]:
        """Every documented public function and class under its best public name, sorted by name."""
        best: dict[tuple[str, str], str] = {}
        found: dict[str, Definition] = {}
        for module in self.public_modules:
            for name in self.offered(module):
                definition = self.resolve(module, name)
                if definition is None:
                    continue
                path, key = f"{FACADES.get(module, module)}.{name}", (definition.home, definition.name)
                if key not in best or (path.count("."), path) < (best[key].count("."), best[key]):
                    best[key] = path
                found[path] = definition
            on_module()
        return {path: found[path] for path in sorted(best.values())}


def read_module(name: str, path: Path) -> Module | None:
    """Read one source file; None if it is no valid Python for this interpreter."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    module = Module(name, path.name == "__init__.py", ast.get_docstring(tree) or "")
    instances: dict[str, str] = {}
    for node in _statements(tree.body):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            _read_definition(module, node)
        elif isinstance(node, ast.ImportFrom):
            _read_import(module, node)
        elif isinstance(node, (ast.Assign, ast.AugAssign)):
            _read_assignment(module, node, instances)
        elif isinstance(node, ast.Delete):
            for target in node.targets:
                module.definitions.pop(ast.unparse(target), None)
                module.bindings.pop(ast.unparse(target), None)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            if ast.unparse(node.value.func) in ("__all__.extend", "__all__.append"):
                module.exports += _strings(node.value.args[0])
            module.attached |= _attached(node.value)
    return module


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, also those under `if` and `try`, but not what only some platforms have."""
    for node in body:
        if isinstance(node, ast.If):
            test = ast.unparse(node.test)
            if not any(sign in test for sign in ("win32", "'nt'", "TYPE_CHECKING", "hasattr(")):
                yield from _statements(node.body)
            yield from _statements(node.orelse)
        elif isinstance(node, ast.Try):
            for block in (
                node.body,
                *(handler.body for handler in node.handlers),
                node.orelse,
                node.finalbody,
            ):
                yield from _statements(block)
        else:
            yield node


def _read_definition(module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
    members: dict[str, str] = {}
    for child in node.body if isinstance(node, ast.ClassDef) else []:
        function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        if function and not child.name.startswith("_") and (doc := ast.get_docstring(child)):
            members.setdefault(child.name, doc)
    doc = ast.get_docstring(node) or ""
    known = module.definitions.get(node.name)
    if (doc or members) and (known is None or not known.doc):
        module.definitions[node.name] = Definition(module.name, node.name, doc, members)


def _read_import(module: Module, node: ast.ImportFrom) -> None:
    parts = module.name.split(".")
    base = parts[: len(parts) - node.level + module.package] if node.level else []
    source = ".".join([*base, node.module] if node.module else base)
    for alias in node.names:
        if alias.name == "*":
            module.stars.append(source)
        else:
            module.bindings.setdefault(alias.asname or alias.name, (source, alias.name))


def _read_assignment(module: Module, node: ast.Assign | ast.AugAssign, instances: dict[str, str]) -> None:
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    value = node.value
    if not isinstance(target, ast.Name):
        return
    if target.id == "__all__":
        module.exports += _strings(value)
    elif isinstance(value, ast.Call):
        if isinstance(value.func, ast.Name):
            instances[target.id] = value.func.id
        for doc in _attached(value).values():  # conv1d = add_docstr(torch.conv1d, "...")
            module.definitions[target.id] = Definition(module.name, target.id, doc)
    elif isinstance(value, ast.Name):
        module.bindings.setdefault(target.id, (module.name, value.id))
    elif isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
        owner = instances.get(value.value.id)  # shuffle = _inst.shuffle, where _inst = Random()
        if owner is not None:
            module.bindings.setdefault(target.id, (module.name, f"{owner}.{value.attr}"))


def _attached(call: ast.Call) -> dict[str, str]:
    """The docstring that `add_docstr(torch.abs, "...")` and its like give, by dotted name."""
    function = call.func.id if isinstance(call.func, ast.Name) else ""
    if (
        function == "add_newdoc" and len(call.args) == 3
    ):  # module, name, doc | (member, doc) | [(member, doc)]
        owner = f"{_text(call.args[0])}.{_text(call.args[1])}"
        given = call.args[2]
        found = {}
        for pair in given.elts if isinstance(given, ast.List) else [given]:
            name, doc = pair.elts if isinstance(pair, ast.Tuple) and len(pair.elts) == 2 else (None, pair)
            found[f"{owner}.{_text(name)}" if name else owner] = cleandoc(_text(doc))
        return {name: doc for name, doc in found.items() if doc}
    if function in ("add_docstr", "_add_docstr", "add_docstr_all") and len(call.args) == 2:
        target, doc = call.args
        name = f"torch.Tensor.{_text(target)}" if function == "add_docstr_all" else ast.unparse(target)
        return {name: cleandoc(_text(doc))} if _text(doc) else {}
    return {}


def _strings(node: ast.expr) -> list[str]:
    parts = node.elts if isinstance(node, (ast.List, ast.Tuple)) else [node]
    return [text for part in parts if (text := _text(part))]


def _text(node: ast.expr) -> str:
    """The string an expression spells, as far as it is written out: literals, sums, `.format` left open."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return _text(node.func.value)
    return ""
