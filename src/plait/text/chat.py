"""Conversations to ids and loss masks: plait's own template, and any model's Jinja template."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from plait.errors import InputError, ModelError
from plait.text.tokenizer_config import SPECIAL_TOKENS

if TYPE_CHECKING:
    from plait.text.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
Message = dict[str, str]

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('a role must be system, user or assistant, not ' + message['role']) -}}
{%- endif -%}
{{- '<|' + message['role'] + '|>' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%}
"""


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Messages as `{"role": ..., "content": text}`.

    Raises:
        InputError: naming the message that is not of this form.
    """
    if not messages or isinstance(messages, (str, Mapping)):
        raise InputError('a conversation is a list of one or more {"role": ..., "content": ...} messages')
    return [_checked(message, number) for number, message in enumerate(messages, 1)]


def _checked(message: Any, number: int) -> Message:
    if not isinstance(message, Mapping) or "role" not in message:
        raise InputError(
            f'message {number} is not a {{"role": ..., "content": ...}} mapping: {message!r:.80}'
        )
    role = message["role"]
    if role not in ROLES:
        raise InputError(f"message {number} has the role {role!r}; a role is system, user or assistant")
    return {"role": role, "content": _text_of(message.get("content"), number)}


def _text_of(content: Any, number: int) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and content:
        texts = [part.get("text") for part in content if _is_text(part)]
        if len(texts) == len(content):
            return "".join(texts)
    raise InputError(
        f'message {number} needs a text, or a list of {{"type": "text", "text": ...}} parts, as its content; '
        f"it has {content!r:.80}"
    )


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def encode_own(
    tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool
) -> tuple[list[int], list[int]]:
    """Encode with plait's own template: special tokens by id, contents as plain text.

    Raises:
        ModelError: where the vocabulary lacks the template's tokens.
    """
    index: dict[str, int] = {}
    for token in SPECIAL_TOKENS:
        number = tokenizer.token_id(token)
        if number is None:
            raise ModelError(f"the vocabulary lacks {token}, which plait's chat template needs")
        index[token] = number
    ids: list[int] = []
    mask: list[int] = []
    for message in messages:
        turn = [*tokenizer.encode_plain(message["content"]), index["<|end|>"]]
        ids += [index[f"<|{message['role']}|>"], *turn]
        mask += [0] + [int(message["role"] == "assistant")] * len(turn)
    if add_generation_prompt:
        ids.append(index["<|assistant|>"])
        mask.append(0)
    return ids, mask


@dataclass(frozen=True)
class _Segment:
    text: str
    content: bool = False  # a message's own words, not the template's
    target: bool = False  # belongs to the loss


def encode_with_template(
    tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool
) -> tuple[list[int], list[int]]:
    """Encode with a template that came with a model.

    The ids are those of the rendered text, as `transformers` gives them, unless a content spells a special
    token: then contents and template are encoded apart, so that the spelling stays text. Where the template
    does not repeat contents word for word (it may drop earlier thoughts), nobody can say which ids are whose:
    the mask is zero and the spelling of a special token in a content is refused.
    """
    if not tokenizer.chat_template:
        raise ModelError("this model has no chat template; use completion, or add a chat_template.jinja")
    text = render(tokenizer, messages, add_generation_prompt)
    segments = _segments(tokenizer, messages, add_generation_prompt, text)
    special = [token for token in map(tokenizer.token, sorted(tokenizer.special_ids)) if token]
    spelled = next((t for t in special for message in messages if t in message["content"]), None)
    if segments is None:
        if spelled:
            raise InputError(f"a message spells {spelled}, which ends or begins turns here; remove it")
        ids = tokenizer.encode(text)
        return ids, [0] * len(ids)
    if spelled is None:
        return _encode_whole(tokenizer, segments)
    ids, mask = [], []
    for segment in segments:
        new = tokenizer.encode_plain(segment.text) if segment.content else tokenizer.encode(segment.text)
        ids += new
        mask += [int(segment.target)] * len(new)
    return ids, mask


def _encode_whole(tokenizer: Tokenizer, segments: list[_Segment]) -> tuple[list[int], list[int]]:
    text = "".join(segment.text for segment in segments)
    owner = [segment.target for segment in segments for _ in segment.text]
    encoding = tokenizer.backend.encode(text, add_special_tokens=False)
    # a token that spans two segments belongs to where it ends
    return encoding.ids, [int(end > 0 and owner[end - 1]) for _, end in encoding.offsets]


def _segments(
    tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool, text: str
) -> list[_Segment] | None:
    """Split a rendered text into contents and the template's own words; None if contents are not verbatim."""
    marks = [f"\ue0f0{number}\ue0f1" for number in range(len(messages))]
    marked = [{**message, "content": mark} for message, mark in zip(messages, marks)]
    parts = re.split("\ue0f0(\\d+)\ue0f1", render(tokenizer, marked, add_generation_prompt))
    if [int(number) for number in parts[1::2]] != list(range(len(messages))):
        return None
    filled = _filled(parts, [message["content"] for message in messages], text)
    if filled is None:
        return None
    ends = [re.escape(token) for token in map(tokenizer.token, tokenizer.stop_ids) if token]
    closing = re.compile(r"\s*(?:" + "|".join(ends) + ")") if ends else re.compile("")
    segments = [_Segment(filled[0])]
    for message, content, after in zip(messages, filled[1::2], filled[2::2]):
        assistant = message["role"] == "assistant"
        found = closing.match(after)
        end = found.end() if found else 0
        segments += [
            _Segment(content, True, assistant),
            _Segment(after[:end], False, assistant),
            _Segment(after[end:]),
        ]
    return [segment for segment in segments if segment.text]


def _filled(parts: list[str], contents: list[str], text: str) -> list[str] | None:
    """The template's words with a content between each two: together the text, or None."""
    filled, at = [parts[0]], len(parts[0])
    for content, after in zip(contents, parts[2::2]):
        # some templates trim what some roles say
        said = next((one for one in (content, content.strip()) if text.startswith(one + after, at)), None)
        if said is None:
            return None
        filled += [said, after]
        at += len(said + after)
    return filled if "".join(filled) == text else None


def render(tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool) -> str:
    """The text of a conversation by the tokenizer's Jinja template, in a sandbox.

    Raises:
        ModelError: where the template is not valid or refuses these messages.
    """
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    tokens = {name: tokenizer.special_token(name) for name in names}
    try:
        return _compiled(tokenizer.chat_template).render(
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            tools=None,
            documents=None,
            **{name: token for name, token in tokens.items() if token},
        )
    except Exception as error:  # a template is a program of someone else's: anything may be raised
        raise ModelError(f"the chat template does not take these messages: {error}") from None


class _Generation(Extension):
    """`{% generation %}` marks the assistant's part in some templates; it renders as its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _SafeNamespace(Namespace):
    """A template's variables, without the underscore names that lead out of a sandbox."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"{name!r} is not a name a template may set")
        super().__setitem__(name, value)


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.globals["namespace"] = _SafeNamespace
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes characters that matter in HTML only
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
