"""Reads what a request carries: its JSON, the messages of a chat, prompts, the texts of a task."""

from __future__ import annotations

import json
from typing import Any

from plait.serve.problems import ApiError

ROLES = ("system", "developer", "user", "assistant")
# Fields that messages from OpenAI's own client carry; here they must be empty.
MESSAGE_NEUTRAL = (
    "annotations",
    "audio",
    "function_call",
    "name",
    "reasoning_content",
    "refusal",
    "tool_calls",
)


def parse_json(content: bytes) -> dict[str, Any]:
    """A JSON object from the bytes of a body.

    Raises:
        ApiError: status 400, saying where the JSON breaks.
    """
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ApiError(f"the body is not UTF-8 (byte {error.start})", code="invalid_json") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ApiError(f"the body is not valid JSON: {error.msg} ({where})", code="invalid_json") from None
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(f"the body must be a JSON object, not {_json_name(value)}", code="invalid_json")
    return value


def read_messages(messages: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Messages as `{role, content}` with plain text contents; `developer` is another word for `system`.

    Raises:
        ApiError: status 400 with the path of what is wrong, such as `messages[0].content`.
    """
    if not messages:
        raise ApiError("messages must hold at least one message", param="messages", code="invalid_value")
    result = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role = message.get("role")
        if role not in ROLES:
            raise ApiError(
                f"{where}.role must be one of {', '.join(ROLES)}, not {role!r}",
                param=f"{where}.role",
                code="invalid_value",
            )
        for name, value in message.items():
            if name in ("role", "content") or (name in MESSAGE_NEUTRAL and not value):
                continue
            raise ApiError(
                f"{where}.{name} is not supported; leave it out",
                param=f"{where}.{name}",
                code="unsupported_parameter",
            )
        content = _content(message.get("content"), f"{where}.content")
        result.append({"role": "system" if role == "developer" else role, "content": content})
    return result


def read_prompts(prompt: Any) -> list[str | list[int]]:
    """The prompts of a completion: a string, a list of strings, a list of token ids, or a list of those.

    Raises:
        ApiError: status 400 with `param: prompt`.
    """
    if isinstance(prompt, str) or _token_ids(prompt):
        prompt = [prompt]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(item, str) for item in prompt):
            return [whole_characters(item, "prompt") for item in prompt]
        if all(_token_ids(item) for item in prompt):
            return prompt
    raise ApiError(
        "prompt must be a string, a list of strings, a list of token ids, or a list of such lists; "
        "none may be an empty list",
        param="prompt",
        code="invalid_type",
    )


def read_texts(given: Any, most: int) -> list[str]:
    """The texts of a task: a string, or a list of at most `most`.

    Raises:
        ApiError: status 400 with `param: input`, or `input[1]` where that text is empty.
    """
    texts = [given] if isinstance(given, str) else given
    if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
        message = "input must be a string or a list of strings, at least one"
        raise ApiError(message, param="input", code="invalid_type")
    if len(texts) > most:
        message = f"input holds {len(texts)} texts, more than {most} at once; send fewer"
        raise ApiError(message, param="input", code="invalid_value")
    for number, text in enumerate(texts):
        where = f"input[{number}]"
        if not whole_characters(text, where).strip():
            message = f"{where} is empty; write at least one word"
            raise ApiError(message, param=where, code="invalid_value")
    return texts


def whole_characters(text: str, where: str) -> str:
    """The text itself, unless JSON spelled what UTF-8 cannot.

    Raises:
        ApiError: status 400 with `param: where`.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ApiError(
            f"{where} holds half of a surrogate pair at character {error.start}; send whole characters",
            param=where,
            code="invalid_value",
        ) from None
    return text


def _content(content: Any, where: str) -> str:
    if not isinstance(content, list):
        return _text(content, where, "text or a list of text parts")
    texts = []
    for number, part in enumerate(content):
        if not (isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text"):
            raise ApiError(
                f'{where}[{number}] must be {{"type": "text", "text": ...}}: this model reads text only',
                param=f"{where}[{number}]",
                code="unsupported_content",
            )
        texts.append(_text(part["text"], f"{where}[{number}].text"))
    return "".join(texts)


def _text(value: Any, where: str, kind: str = "text") -> str:
    if not isinstance(value, str):
        raise ApiError(f"{where} must be {kind}, not {_json_name(value)}", param=where, code="invalid_type")
    return whole_characters(value, where)


def _token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _json_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
