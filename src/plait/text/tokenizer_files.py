"""The files beside tokenizer.json: settings and chat template, as `transformers` writes and reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from plait.errors import ModelError
from plait.text.tokenizer_config import SPECIAL_TOKENS

DEFINITION, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"


def own_settings(unknown: str | None = None, more: Sequence[str] = ()) -> dict[str, Any]:
    """tokenizer_config.json of a tokenizer with plait's special tokens, and with more."""
    end, pad, *roles = SPECIAL_TOKENS
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "pad_token": pad,
        "additional_special_tokens": [*roles, *more],
        "clean_up_tokenization_spaces": False,
    }
    return settings | ({"unk_token": unknown} if unknown else {})


def token_text(value: Any) -> str | None:
    """A special token's text, given as a string or as `{"content": ...}`."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def closing(processor: Any, end: str, index: int) -> dict[str, Any]:
    """The `post_processor` of a tokenizer.json that also puts an end token behind each text.

    A template that is there is extended: a second one would take what the first has added for a text.
    """
    parts = [] if processor is None else processor.get("processors", [processor])
    at = next((n for n, part in enumerate(parts) if part["type"] == "TemplateProcessing"), len(parts))
    close = {"SpecialToken": {"id": end, "type_id": 0}}
    template = {"type": "TemplateProcessing", "special_tokens": {}} | dict(*parts[at : at + 1])
    for name, texts in (("single", "A"), ("pair", "AB")):
        plain = [{"Sequence": {"id": text, "type_id": 0}} for text in texts]
        template[name] = [*template.get(name, plain), close]
    template["special_tokens"] |= {end: {"id": end, "ids": [index], "tokens": [end]}}
    parts = [*parts[:at], template, *parts[at + 1 :]]
    return parts[0] if len(parts) == 1 else {"type": "Sequence", "processors": parts}


def settings_tokens(settings: Mapping[str, Any]) -> list[AddedToken]:
    """The added tokens that settings name: those listed with ids, in order, then the named special tokens."""
    listed = settings.get("added_tokens_decoder") or {}
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    tokens = [
        AddedToken(value["content"], **{flag: bool(value[flag]) for flag in flags if flag in value})
        for _, value in sorted(listed.items(), key=lambda item: int(item[0]))
    ]
    names = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    named = [settings.get(name) for name in names]
    more = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or []
    named += more.values() if isinstance(more, dict) else more
    texts = [text for text in map(token_text, named) if text is not None]
    return tokens + [AddedToken(text, special=True, normalized=False) for text in dict.fromkeys(texts)]


def instead(directory: Path) -> str:
    """What to do about a directory without tokenizer.json."""
    pieces = [file.name for file in sorted(directory.glob("*")) if file.suffix in (".spm", ".model")]
    if len(pieces) == 1:
        place = f"from_pretrained({str(directory)!r}).save_pretrained({str(directory)!r})"
        return f" but {pieces[0]}; let transformers write one: AutoTokenizer.{place}"
    if pieces:
        return f" but {' and '.join(pieces)}; plait reads no tokenizer that is made of several"
    return "; give a tokenizer or model directory"


def template_of(settings: Mapping[str, Any]) -> str:
    """The chat template kept in the settings: a string, or the `default` of several named ones."""
    template = settings.get("chat_template") or ""
    if isinstance(template, str):
        return template
    named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
    return named.get("default") or ""


def read_text(path: Path) -> str:
    """A UTF-8 file of a model directory.

    Raises:
        ModelError: naming the file.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{str(path)!r} cannot be read as UTF-8 text: {error}; restore it") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON mapping of a model directory; empty where the file does not exist.

    Raises:
        ModelError: naming the file.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(read_text(path))
    except ValueError as error:
        raise ModelError(f"{str(path)!r} is not valid JSON: {error}; restore it") from None
    if not isinstance(value, dict):
        raise ModelError(f"{str(path)!r} must hold a JSON mapping, not {type(value).__name__}; restore it")
    return value
