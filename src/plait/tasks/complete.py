"""Free continuation of a prompt or a conversation: what a line of input asks for."""

from __future__ import annotations

from plait.errors import InputError
from plait.infer.engine import Engine
from plait.text.document import Document


def prompt_of(engine: Engine, document: Document) -> list[int]:
    """The prompt's tokens: of `messages` (the assistant answers), of `prompt`, or of running text.

    Raises:
        InputError: a record with none of them.
    """
    record = document.record
    if "messages" in record:
        return engine.tokenizer.encode_chat(record["messages"], add_generation_prompt=True)[0]
    if "prompt" in record or document.text:
        return engine.encode(record.get("prompt") or document.text)
    found = ", ".join(record) or "nothing"
    raise InputError(f"{document.id} holds {found}; a line to complete needs prompt, messages or text")
