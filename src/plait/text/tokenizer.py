"""The tokenizer: text to ids and back, saved in the files that `transformers.AutoTokenizer` opens."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from plait.errors import InputError, ModelError
from plait.files import write_text
from plait.text import chat
from plait.text.stream import ReplayDecoder, Spelling, StreamDecoder, spelling, visible
from plait.text.tokenizer_files import (
    DEFINITION,
    SETTINGS,
    TEMPLATE,
    closing,
    instead,
    own_settings,
    read_json,
    read_text,
    settings_tokens,
    template_of,
    token_text,
)


class Tokenizer:
    """A trained tokenizer: ours, or one that came with a model from elsewhere.

    Attributes:
        vocab_size: number of ids, special tokens included.
        bos_id, eos_id, pad_id: the tokens of these names; None where there is none.
        special_ids: ids of all special tokens.
        stop_ids: ids that end a generation.
        chat_template: the Jinja template of a conversation; empty where there is none.
    """

    def __init__(
        self,
        definition: str,
        settings: Mapping[str, Any] | None = None,
        chat_template: str = chat.CHAT_TEMPLATE,
        stop_ids: Sequence[int] | None = None,
    ) -> None:
        """Args:
        definition: the text of a tokenizer.json.
        settings: the content of a tokenizer_config.json; plait's own special tokens unless given.
        chat_template: Jinja template of a conversation.
        stop_ids: ids that end a generation; the end token unless given.
        """
        self._definition = definition
        self._settings = dict(own_settings() if settings is None else settings)
        self.chat_template = chat_template
        self._backend = self._open()
        vocab = self._backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values(), default=-1) + 1
        self.bos_id, self.eos_id, self.pad_id = map(self._named, ("bos_token", "eos_token", "pad_token"))
        added = self._backend.get_added_tokens_decoder()
        self.special_ids = frozenset(index for index, token in added.items() if token.special)
        ends = () if self.eos_id is None else (self.eos_id,)
        self.stop_ids = ends if stop_ids is None else tuple(stop_ids)

    def _open(self) -> Backend:
        backend = Backend.from_str(self._definition)
        backend.no_padding()
        backend.no_truncation()
        known = {token.content for token in backend.get_added_tokens_decoder().values()}
        missing = [token for token in settings_tokens(self._settings) if token.content not in known]
        backend.add_tokens(missing)  # as transformers does: tokens that only the settings know
        return backend

    def _named(self, name: str) -> int | None:
        token = self.special_token(name)
        return None if token is None else self._backend.token_to_id(token)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of tokenizer.json, but for what it puts around a text: that changes no encoded data."""
        definition = json.loads(self._definition) | {"post_processor": None}
        return hashlib.sha256(Backend.from_str(json.dumps(definition)).to_str().encode()).hexdigest()

    @cached_property
    def _plain(self) -> Backend:
        backend = self._open()
        backend.encode_special_tokens = True  # the library's name for "do not look for special tokens"
        return backend

    @cached_property
    def _spelling(self) -> Spelling | None:
        added = {index: token.content for index, token in self._backend.get_added_tokens_decoder().items()}
        decoder = json.loads(self._definition).get("decoder")
        return spelling(self._backend.get_vocab(with_added_tokens=True), added, decoder)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Tokenizer:
        """Open a tokenizer or model directory, ours or anyone's.

        Raises:
            ModelError: where tokenizer.json is missing, or one of the files is not valid.
        """
        path = Path(directory).expanduser()
        definition = path / DEFINITION
        if not definition.is_file():
            raise ModelError(f"{str(path)!r} holds no {DEFINITION}{instead(path)}")
        settings = read_json(path / SETTINGS)
        named = read_json(path / "special_tokens_map.json")
        stop = read_json(path / "generation_config.json").get("eos_token_id")
        template = path / TEMPLATE
        text = read_text(template) if template.is_file() else template_of(settings)
        stop_ids = [stop] if isinstance(stop, int) else stop
        try:
            return cls(read_text(definition), named | settings, text, stop_ids)
        except ModelError:
            raise
        except Exception as error:  # the library raises plain Exception
            raise ModelError(f"{str(definition)!r} is not a valid tokenizer: {error}; restore it") from None

    def save(self, directory: str | os.PathLike[str], *, context: int | None = None) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja into `directory`.

        Args:
            directory: made if it does not exist.
            context: the model's context in tokens, stored as `model_max_length`.
        """
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        settings = {key: value for key, value in self._settings.items() if key != "chat_template"}
        settings |= {} if context is None else {"model_max_length": context}
        write_text(path / DEFINITION, self._definition)
        write_text(path / SETTINGS, json.dumps(settings, ensure_ascii=False, indent=2) + "\n")
        if self.chat_template:
            write_text(path / TEMPLATE, self.chat_template)

    @cached_property
    def ending(self) -> Tokenizer:
        """The same, whose `encode_prompt` closes a text with the end token, as an encoder is to read it.

        Itself where it does so, or has no such token.
        """
        if self.eos_id is None or self.closes:
            return self
        definition = json.loads(self._definition)
        end = self.special_token("eos_token") or ""
        definition["post_processor"] = closing(definition.get("post_processor"), end, self.eos_id)
        text = json.dumps(definition, ensure_ascii=False, indent=2)
        return Tokenizer(text, self._settings, self.chat_template, self.stop_ids)

    def but_with(self, chat_template: str, stop_ids: Sequence[int]) -> Tokenizer:
        """The same with another chat template and other ids that end a generation."""
        return Tokenizer(self._definition, self._settings, chat_template, stop_ids)

    @property
    def closes(self) -> bool:
        """Whether `encode_prompt` puts the end token behind a text."""
        return self.eos_id in self.around[1]

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """The ids that `encode_prompt` puts before and behind a text."""
        alone, framed = self.encode("a"), self.encode_prompt("a")
        first = next((at for at in range(len(framed)) if framed[at : at + len(alone)] == alone), 0)
        return framed[:first], framed[first + len(alone) :]

    def unlearned(self, start: int | None) -> frozenset[int]:
        """Ids that no target holds: the padding, and what targets begin with, unless it ends them too."""
        return frozenset(id for id in (self.pad_id, start) if id is not None) - {*self.stop_ids}

    def encode(self, text: str) -> list[int]:
        """Ids of a text, nothing added; a special token spelled in it becomes that token.

        Raises:
            InputError: where the text is not valid Unicode (a lone surrogate).
        """
        return self._encode(self._backend, text).ids

    def encode_plain(self, text: str) -> list[int]:
        """Ids of a text in which the spelling of a special token is text like any other."""
        return self._encode(self._plain, text).ids

    def encode_prompt(self, text: str) -> list[int]:
        """What `transformers` gives for `tokenizer(text).input_ids`: `encode`, and what the model needs."""
        return self._encode(self._backend, text, around=True).ids

    def encode_batch(self, texts: Sequence[str], plain: bool = True) -> list[list[int]]:
        """Ids of many texts, on all cores."""
        backend = self._plain if plain else self._backend
        try:
            return [one.ids for one in backend.encode_batch_fast(texts, add_special_tokens=False)]
        except TypeError:
            for text in texts:
                self._encode(backend, text)
            raise

    def _encode(self, backend: Backend, text: str, around: bool = False) -> Any:
        try:
            return backend.encode(text, add_special_tokens=around)
        except TypeError:
            if not isinstance(text, str):
                raise
            at = next(i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff")
            name = f"U+{ord(text[at]):04X}"
            raise InputError(
                f"a text must be valid Unicode: character {at} is the lone surrogate {name}; remove it"
            ) from None

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD, ids outside the vocabulary spell nothing."""
        kept = [index for index in ids if not (skip_special and index in self.special_ids)]
        if self._spelling:
            return self._spelling.text(kept)
        return self._backend.decode(kept, skip_special_tokens=False)

    def token_bytes(self, token: int) -> bytes:
        """The bytes one token stands for; a character may be spread over several."""
        return self._spelling.bytes_of.get(token, b"") if self._spelling else self.decode([token]).encode()

    def decoder(self, skip_special: bool = False) -> StreamDecoder | ReplayDecoder:
        """A decoder for ids that come one by one."""
        skip = self.special_ids if skip_special else frozenset()
        return StreamDecoder(self._spelling, skip) if self._spelling else ReplayDecoder(self.decode, skip)

    def pieces(self, text: str) -> list[str]:
        """The tokens of `encode(text)` to look at, one string each.

        In the `words` style a piece that does not end its word ends in `@@`, as subword-nmt prints it, and
        unknown characters are shown as they are. Otherwise a space shows as `▁`, other invisible characters
        escaped, and bytes that are only part of a character as `<0xE4>`.
        """
        encoding = self._encode(self._backend, text)
        if not (self._spelling and self._spelling.words):
            return [visible(self.token_bytes(index)) for index in encoding.ids]
        words = encoding.word_ids  # None for a special token
        ends = [word is None or word != after for word, after in zip(words, [*words[1:], None])]
        return [text[a:b] + ("" if end else "@@") for (a, b), end in zip(encoding.offsets, ends)]

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False
    ) -> tuple[list[int], list[int]]:
        """Ids of a conversation and its loss mask.

        Args:
            messages: `{"role": "system" | "user" | "assistant", "content": text}`; the content may also be a
                list of `{"type": "text", "text": text}`. A special token spelled in it stays text.
            add_generation_prompt: end where the assistant begins to speak.

        Returns:
            ids, and 1 for each id that belongs to an assistant's content or ends it, else 0.

        Raises:
            InputError: where a message is not of this form.
            ModelError: where there is no chat template, or it fails.
        """
        checked = chat.check_messages(messages)
        if self.chat_template == chat.CHAT_TEMPLATE:
            return chat.encode_own(self, checked, add_generation_prompt)
        return chat.encode_with_template(self, checked, add_generation_prompt)

    def token_id(self, token: str) -> int | None:
        """The id of a token by its spelling in the vocabulary."""
        return self._backend.token_to_id(token)

    def special_token(self, name: str) -> str | None:
        """The text of a named special token such as `eos_token`."""
        return token_text(self._settings.get(name))

    def token(self, index: int) -> str | None:
        """The spelling in the vocabulary of an id."""
        return self._backend.id_to_token(index)

    @property
    def settings(self) -> dict[str, Any]:
        """The content of tokenizer_config.json."""
        return dict(self._settings)

    @property
    def backend(self) -> Backend:
        """The `tokenizers.Tokenizer` underneath (for llguidance and the like); do not change it."""
        return self._backend
