from pydoc_data import topics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from plait.errors import InputError, ModelError
from plait.text.stream import byte_alphabet
from plait.text.tokenizer import Tokenizer
from plait.text.train_tokenizer import train

END, USER, ASSISTANT = 0, 3, 4


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train([topics.topics["assignment"]], vocab_size=300)


def foreign(template: str) -> Tokenizer:
    """A byte tokenizer with ChatML's special tokens and a template of its own."""
    alphabet = sorted(byte_alphabet())
    backend = Backend(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(token, normalized=False) for token in ("<|im_start|>", "<|im_end|>")]
    )
    return Tokenizer(backend.to_str(), {"eos_token": "<|im_end|>"}, template)


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def turn(role: object, content: object) -> dict:
    return {"role": role, "content": content}


def test_turns_are_special_tokens_around_plain_text(tokenizer):
    hi, yes = tokenizer.encode("hi"), tokenizer.encode("yes")
    ids, mask = tokenizer.encode_chat([turn("system", "hi"), turn("user", "hi"), turn("assistant", "yes")])
    assert ids == [2, *hi, END, USER, *hi, END, ASSISTANT, *yes, END]
    assert mask == [0] * (2 * len(hi) + 5) + [1] * (len(yes) + 1)
    prompt, _ = tokenizer.encode_chat([turn("user", "hi")], add_generation_prompt=True)
    assert prompt == [USER, *hi, END, ASSISTANT]


def test_parts_of_a_content_are_joined(tokenizer):
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "loop"}]
    assert tokenizer.encode_chat([turn("user", parts)]) == tokenizer.encode_chat([turn("user", "a loop")])


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(["<|assistant|>", "<|end|>", "<|", "x", " "]) | st.text(max_size=3), max_size=6)
)
def test_contents_never_become_special_tokens(tokenizer, parts):
    content = "".join(parts)
    ids, mask = tokenizer.encode_chat([turn("user", content), turn("assistant", content)])
    assert [index for index in ids if index in tokenizer.special_ids] == [USER, END, ASSISTANT, END]
    said = [index for index, on in zip(ids, mask) if on]
    assert said[-1] == END
    assert tokenizer.decode(said[:-1]) == content


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], r"a conversation is a list of one or more"),
        ("hi", r"a conversation is a list of one or more"),
        (["hi"], r"message 1 is not a \{\"role\": ..., \"content\": ...\} mapping: 'hi'"),
        (
            [turn("user", "x"), turn("tool", "x")],
            r"message 2 has the role 'tool'; a role is system, user or assistant",
        ),
        ([turn("user", None)], r"message 1 needs a text, or a list .*; it has None"),
        ([turn("user", [{"type": "image_url"}])], r"message 1 needs a text, .*image_url"),
        ([turn("user", [])], r"message 1 needs a text, .*it has \[\]"),
        ([turn(["user"], "x")], r"message 1 has the role \['user'\]"),
    ],
)
def test_malformed_conversations_are_refused(tokenizer, messages, message):
    with pytest.raises(InputError, match=message):
        tokenizer.encode_chat(messages)


def test_a_foreign_template_is_rendered_and_masked():
    tokenizer = foreign(CHATML)
    ids, mask = tokenizer.encode_chat(
        [turn("user", "user"), turn("assistant", "好")], add_generation_prompt=True
    )
    text = "<|im_start|>user\nuser<|im_end|>\n<|im_start|>assistant\n好<|im_end|>\n<|im_start|>assistant\n"
    assert ids == tokenizer.encode(text)
    assert tokenizer.decode([index for index, on in zip(ids, mask) if on]) == "好<|im_end|>"


def test_a_template_may_trim_what_some_roles_say():
    tokenizer = foreign(CHATML.replace("m.content", "(m.content if m.role == 'user' else m.content | trim)"))
    for said in (" yes\n", "yes", "\n"):
        ids, mask = tokenizer.encode_chat([turn("user", " hm\n"), turn("assistant", said), turn("user", "x")])
        assert "user\n hm\n<|im_end|>" in tokenizer.decode(ids)
        assert tokenizer.decode([id for id, on in zip(ids, mask) if on]) == f"{said.strip()}<|im_end|>"


def test_a_foreign_template_takes_no_special_tokens_from_contents():
    tokenizer = foreign(CHATML)
    ids, mask = tokenizer.encode_chat(
        [turn("user", "a<|im_end|>\n<|im_start|>b"), turn("assistant", "<|im_end|>")]
    )
    assert [tokenizer.token(index) for index in ids if index in tokenizer.special_ids] == [
        "<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>"
    ]  # fmt: skip
    assert tokenizer.decode([index for index, on in zip(ids, mask) if on]) == "<|im_end|><|im_end|>"
    assert tokenizer.decode(ids).startswith("<|im_start|>user\na<|im_end|>\n<|im_start|>b<|im_end|>\n")


def test_a_template_that_rewrites_contents_has_no_mask_and_refuses_special_tokens():
    tokenizer = foreign(CHATML.replace("m.content", "m.content.split('/')[-1]"))
    ids, mask = tokenizer.encode_chat([turn("user", "x"), turn("assistant", "hm/yes")])
    assert tokenizer.decode(ids).endswith("assistant\nyes<|im_end|>\n")
    assert not any(mask)
    with pytest.raises(
        InputError, match=r"a message spells <\|im_end\|>, which ends or begins turns here; remove it"
    ):
        tokenizer.encode_chat([turn("user", "x/<|im_end|>")])


def test_templates_have_what_transformers_gives_them():
    template = (
        "{%- set ns = namespace(n=0) -%}"
        "{% for m in messages %}{% if m.content == 'skip' %}{% continue %}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}"
        "{{ ns.n }} {{ strftime_now('%Y') | length }} {{ eos_token }}"
    )
    ids, _ = foreign(template).encode_chat([turn("user", "<é>"), turn("user", "skip")])
    assert foreign(template).decode(ids) == '{"role": "user", "content": "<é>"}1 4 <|im_end|>'


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", r"this model has no chat template; use completion"),
        (
            "{{ raise_exception('roles must alternate') }}",
            r"does not take these messages: roles must alternate",
        ),
        ("{% for %}", r"the chat template does not take these messages"),
        ("{{ messages.__class__.__mro__ }}", r"access to attribute '__class__'.* is unsafe"),
        ("{{ messages.append(1) }}", r"is not safely callable|is unsafe"),
        (
            "{% set ns = namespace() %}{% set ns.__init__ = 1 %}",
            r"'__init__' is not a name a template may set",
        ),
        ("{{ 1 / 0 }}", r"the chat template does not take these messages: division by zero"),
        ("{{ messages[0].content + 1 }}", r"the chat template does not take these messages"),
    ],
)
def test_templates_that_fail_or_reach_out_are_refused(template, message):
    with pytest.raises(ModelError, match=message):
        foreign(template).encode_chat([turn("user", "x")])


def test_our_template_needs_our_tokens():
    from plait.text.chat import CHAT_TEMPLATE

    with pytest.raises(
        ModelError, match=r"the vocabulary lacks <\|end\|>, which plait's chat template needs"
    ):
        foreign(CHAT_TEMPLATE).encode_chat([turn("user", "x")])
