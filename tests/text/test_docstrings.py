"""Public names on a small made-up package with every way of re-exporting that real ones use."""

from __future__ import annotations

import pytest

from plait.text.docstrings import Library

FILES = {
    "pack/__init__.py": """
        '''A package.'''
        from .public import visible, _hidden
        from ._core import *
        from . import public
        __all__ = ["visible"]
        __all__.extend(["starred"])
        """,
    "pack/_core.py": """
        from ._deep import starred as _s, Class
        __all__ = ["starred", "Class"]
        starred = _s
        """,
    "pack/_deep.py": """
        def starred():
            '''Found through a star, an alias and a rename.'''
        class Class:
            '''A class.'''
            def method(self):
                '''A method.'''
            def _private(self):
                '''Not this.'''
            def bare(self): pass
        """,
    "pack/public.py": """
        import sys
        class Maker:
            def make(self):
                '''Made by an instance.'''
        _instance = Maker()
        make = _instance.make
        def visible():
            '''Seen from two places.'''
        def _hidden():
            '''Not this.'''
        try:
            from fast import both
        except ImportError:
            def both():
                '''The fallback.'''
        if sys.platform == "win32":
            def windows_only():
                '''Not here.'''
        def gone():
            '''Deleted below.'''
        del gone
        conv = add_docstr(fast.conv, "conv(x)" + r'''

        Attached by assignment.''')
        """,
    "pack/_docs.py": """
        add_docstr(pack.cfunction, '''Attached to a C function {arg}.'''.format(arg=1))
        add_newdoc("pack.public", "other", '''Attached by name.''')
        add_newdoc("pack._deep", "Class", ("cmethod", '''Attached to a method.'''))
        """,
    "pack/tests/test_it.py": "def test(): '''Not this.'''",
    "pack/broken.py": "def broken(:",
    "pack/rare.py": "def rare(): '''Not listed.'''",
}


@pytest.fixture
def library(tmp_path):
    from textwrap import dedent

    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
    result = Library({"pack": tmp_path / "pack"}, obscure=["pack.rare"])
    result.attach("pack._docs")
    return result


def test_every_definition_once_under_its_shortest_public_name(library):
    names = library.public_names()
    assert {name: definition.doc for name, definition in names.items()} == {
        "pack.Class": "A class.",
        "pack.cfunction": "Attached to a C function {arg}.",
        "pack.public.Maker": "",
        "pack.public.both": "The fallback.",
        "pack.public.conv": "conv(x)\n\nAttached by assignment.",
        "pack.public.make": "Made by an instance.",
        "pack.public.other": "Attached by name.",
        "pack.starred": "Found through a star, an alias and a rename.",
        "pack.visible": "Seen from two places.",
    }
    assert names["pack.Class"].members == {"method": "A method.", "cmethod": "Attached to a method."}


def test_modules_are_listed_in_order_without_private_tests_and_obscure(library):
    assert library.public_modules == ["pack", "pack.broken", "pack.public"]
    assert library.load("pack.broken") is None
    assert library.load("pack.absent") is None


def test_circular_imports_end(tmp_path):
    (tmp_path / "a.py").write_text("from b import *\nfrom b import x", encoding="utf-8")
    (tmp_path / "b.py").write_text("from a import *\nfrom a import x", encoding="utf-8")
    library = Library({"": tmp_path})
    assert library.resolve("a", "x") is None
    assert library.public_names() == {}
