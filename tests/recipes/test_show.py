import pytest

from plait.errors import BusyError, ConfigError
from plait.recipes.recipe import shipped_recipes
from plait.recipes.show import copy, list_recipes, show


def origins(text: str) -> dict[str, tuple[str, str]]:
    """Key → (value, where it came from), from a printed table."""
    cells = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if "│" in line
    ]
    return {row[0]: (row[1], row[2]) for row in cells if len(row) == 3}


def test_every_value_is_shown_with_where_it_came_from(capsys):
    show("tiny", ["train.lr=3e-4"])
    found = origins(capsys.readouterr().out)
    assert found["train.lr"] == ("0.0003", "command line")
    assert found["model.width"] == ("64", "tiny.yaml")
    assert found["model.ffn"] == ("192", "derived")
    assert found["model.vocab"] == ("0", "the tokenizer")
    assert found["train.dtype"] == ("auto", "measured at start")
    assert found["data.split"] == ("auto", "default")
    assert found["seed"] == ("1337", "default")
    assert {"out", "tokenizer.kind", "layout.tp", "train.weight_decay"} <= set(found)


def test_a_broken_recipe_is_not_shown(capsys):
    with pytest.raises(ConfigError, match=r"unknown key 'train.leer'"):
        show("tiny", ["train.leer=1"])
    assert capsys.readouterr().out == ""


def test_the_list_says_what_each_recipe_is(capsys):
    list_recipes()
    out = capsys.readouterr().out
    assert all(name in out for name in shipped_recipes())
    assert "Characters of Shakespeare" in out


def test_a_copy_is_the_file_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = copy("tiny")
    assert path.read_bytes() == shipped_recipes()["tiny"].read_bytes()
    assert capsys.readouterr().err == "wrote tiny.yaml\n"
    with pytest.raises(BusyError, match=r"tiny.yaml exists; name another file: plait config copy tiny FILE"):
        copy("tiny")
    assert copy("tiny", tmp_path / "new" / "mine.yaml").is_file()
    (tmp_path / "folder").mkdir()
    assert copy("tiny", tmp_path / "folder") == tmp_path / "folder" / "tiny.yaml"


def test_an_unknown_recipe_is_not_copied(tmp_path):
    with pytest.raises(ConfigError, match=r"no shipped recipe is called 'tny'; did you mean 'tiny'\?"):
        copy("tny", tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match=r"'zzzz'; there are .*tiny"):
        copy("zzzz", tmp_path / "x.yaml")
