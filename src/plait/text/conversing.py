"""A tokenizer made ready for a model that is to be taught conversations, whatever it knew before."""

from __future__ import annotations

from plait.text.chat import render
from plait.text.tokenizer import Tokenizer

# without tokens of its own: for models that come with no template
PLAIN_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{- message['content'] + '\\n\\n' -}}
{%- elif message['role'] == 'user' -%}
{{- 'User:\\n' + message['content'] + '\\n\\n' -}}
{%- else -%}
{{- 'Assistant:\\n' + message['content'] + eos_token -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'Assistant:\\n' -}}
{%- endif -%}
"""
MARK = "\ue0f0"


def conversing(tokenizer: Tokenizer) -> Tokenizer:
    """The same with a chat template, a plain one if it has none; what ends an answer ends a generation.

    Itself where it has no template and no end token.

    Raises:
        ModelError: a template that fails.
    """
    template = tokenizer.chat_template or _plain_template(tokenizer)
    if not template:
        return tokenizer
    made = tokenizer.but_with(template, tokenizer.stop_ids)
    end = _turn_end(made)
    return made if end in (None, *made.stop_ids) else made.but_with(template, (*made.stop_ids, end))


def _plain_template(tokenizer: Tokenizer) -> str:
    if tokenizer.eos_id is None:
        return ""
    begins = tokenizer.bos_id is not None and tokenizer.bos_id in tokenizer.around[0]
    return ("{{- bos_token -}}\n" if begins else "") + PLAIN_TEMPLATE


def _turn_end(tokenizer: Tokenizer) -> int | None:
    """The special token that the template puts behind what an assistant says; None where there is none."""
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": MARK}]
    behind = render(tokenizer, talk, False).rpartition(MARK)[2].lstrip()
    known = ((tokenizer.token(index) or "", index) for index in tokenizer.special_ids)
    found = [(len(token), index) for token, index in known if token and behind.startswith(token)]
    return max(found)[1] if found else None
