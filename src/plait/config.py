"""YAML and dotted overrides become validated, frozen types. Knows no particular type."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from plait.errors import ConfigError, did_you_mean

T = TypeVar("T", bound="Config")
PAIRS = "give it `key: value` pairs"


class Config(BaseModel):
    """Frozen, keyword-only, unknown keys refused: the base of every configuration type."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice and reads `3e-4` as a number."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            problem = "a key must be a word" if not isinstance(key, Hashable) else ""
            if problem or key in seen:
                problem = problem or f"key {key!r} is written twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _scalar_number(loader: yaml.SafeLoader, node: yaml.Node) -> float:
    return float(loader.construct_scalar(node).replace("_", ""))  # type: ignore[arg-type]


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_EXPONENT = r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"
_Loader.add_implicit_resolver("tag:plait,number", re.compile(_EXPONENT), list("-+0123456789"))
_Loader.add_constructor("tag:plait,number", _scalar_number)


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would read as something else."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    plain = text.isprintable() and not re.match(_EXPONENT, text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _quoted)


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML; errors name `source` and the line.

    Raises:
        ConfigError: on malformed YAML or a repeated key.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError(f"{where} is not valid YAML: {getattr(error, 'problem', error)}") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping from a file."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"recipe {str(path)!r} does not exist")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    value = parse_yaml(text, str(path))
    if value is None:
        raise ConfigError(f"{path} is empty; a recipe holds at least out, data and train")
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, not {type(value).__name__}")
    return value


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`["train.lr=3e-4", "--train.steps", "10"]` → `{"train": {"lr": 3e-4, "steps": 10}}`."""
    result: dict[str, Any] = {}
    words = list(words)
    while words:
        word = words.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            if not word.startswith("--") or not words:
                raise ConfigError(
                    f"override {word!r} has no value; write key=value, for example train.lr=3e-4"
                )
            value = words.pop(0)
        if not all(key.split(".")):
            raise ConfigError(f"override {word!r} names no key; write key=value, for example train.lr=3e-4")
        parsed = value if value == "-" else parse_yaml(value, f"override {key}")  # standard input, not a list
        result = merge(result, nested(key, parsed))
    return result


def nested(dotted: str, value: Any) -> dict[str, Any]:
    """`nested("a.b", 1)` → `{"a": {"b": 1}}`."""
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge of mappings; `over` wins, other values (lists too) are replaced whole."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return result


def build(kind: type[T], value: Mapping[str, Any], *, source: str = "recipe") -> T:
    """Validate a mapping into `kind`. Unknown keys are reported before missing or invalid ones.

    Raises:
        ConfigError: one line naming `source`, the key, the value, and what would be accepted.
    """
    _check_pairs(value, source)
    try:
        return build_part(kind, value)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def build_part(kind: type[T], value: Any, key: str = "") -> T:
    """`build` for the value of `key` within a larger mapping, whose builder names the source."""
    _check_pairs(value, key)
    try:
        return kind.model_validate(dict(value))
    except ValidationError as error:
        unknown = ("extra_forbidden", "invalid_key")
        problems = sorted(error.errors(), key=lambda problem: problem["type"] not in unknown)
        raise ConfigError(_explain(kind, problems[0], key)) from None


def _check_pairs(value: Any, name: str) -> None:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name}={value!r} is not valid: {PAIRS}")


def _explain(kind: type[BaseModel], problem: Any, key: str) -> str:
    # pydantic puts union branches and `function-after` markers into the location: keep real keys only
    *outer, last = problem["loc"] or ("",)
    path = [part for part in outer if isinstance(part, int) or _is_key(str(part))]
    if problem["type"] == "extra_forbidden" or isinstance(last, int) or _is_key(str(last)):
        path.append(last)
    full = [key, *path] if key else path
    where = ".".join(map(str, full)) if full else "the whole"
    if problem["type"] == "invalid_key":
        return f"key {last} is not a name; write it in quotes, or spell the key that was meant"
    if problem["type"] == "extra_forbidden":
        owner = _owner(kind, path[:-1])
        known = [field.alias or name for name, field in owner.model_fields.items()] if owner else []
        hint = did_you_mean(str(path[-1]), known) or (f"; known keys: {', '.join(known)}" if known else "")
        return f"unknown key {where!r}{hint}"
    if problem["type"] == "missing":
        return f"missing key {where!r}"
    if problem["type"] in ("model_type", "dict_type"):
        return f"{where}={problem['input']!r} is not valid: {PAIRS}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message if where == "the whole" else f"{where}: {message}"
    return f"{where}={problem['input']!r} is not valid: {message[0].lower()}{message[1:]}"


def _is_key(part: str) -> bool:
    return part.replace("_", "").replace("-", "").isalnum() and part not in (
        "str",
        "int",
        "float",
        "bool",
        "dict",
        "list",
    )


def _owner(kind: Any, path: Sequence[Any]) -> type[BaseModel] | None:
    for part in path:
        field = kind.model_fields.get(part)
        if field is None:
            continue  # a name of the user's, in a mapping of names to this kind
        kind = _model(field.annotation)
        if kind is None:
            return None
    return kind


def _model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model, get_args(annotation))), None)


def dump_yaml(value: BaseModel | Mapping[str, Any]) -> str:
    """YAML text of a configuration, every default included, in declaration order."""
    data = value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else dict(value)
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )
