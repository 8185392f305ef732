"""Tokenizer directories, ours and foreign, give the same ids in plait and in transformers."""

import json
import random
from pydoc_data import topics

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from plait.text.tokenizer import Tokenizer
from plait.text.train_tokenizer import train

transformers = pytest.importorskip("transformers", reason="the parity tests need transformers")
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX  # noqa: E402

ENGLISH = topics.topics["assignment"] + topics.topics["formatstrings"]
CHINESE = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少？他说：“你好，世界！”如果存在，则返回（值）；否则\n"
EMOJI = ["😀", "👩‍👩‍👧‍👦", "❤️", "🇨🇳", "👍🏽", "\u0301", "\x00", "\ufeff", "ﬁ", "Å", "가"]
KINDS = {
    "bpe": {"vocab_size": 600},
    "unigram": {"kind": "unigram", "vocab_size": 500},
    "char": {"kind": "char"},
    "byte": {"kind": "byte"},
    "words": {"style": "words", "merges": 200},
}
CHAT = [
    {"role": "system", "content": "Be brief. 请用中文。"},
    {"role": "user", "content": "  What is 1+1?\n"},
    {"role": "assistant", "content": "It is 2 😀"},
    {"role": "user", "content": [{"type": "text", "text": "谢"}, {"type": "text", "text": "谢!"}]},
]


def mixed(count: int) -> list[str]:
    """Strings of English, Chinese, emoji, odd characters and spelled special tokens."""
    chance = random.Random(7)
    words = [*ENGLISH.split(" "), *CHINESE[::3], "<|end|>", "<|user|>", "\r\n", "\t", "   "]
    odd = ["", " ", *EMOJI]
    return [
        "".join(
            chance.choice(words) + chance.choice(odd) + chance.choice(["", " ", " "])
            for _ in range(chance.randrange(12))
        )
        for _ in range(count)
    ]


def auto(directory):
    return transformers.AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("kind", KINDS)
def test_auto_tokenizer_gives_our_ids(kind, tmp_path):
    ours = train([ENGLISH, CHINESE * 9], **KINDS[kind])
    ours.save(tmp_path, context=256)
    theirs = auto(tmp_path)
    strings = mixed(10_000 if kind in ("bpe", "words") else 2_000)
    assert theirs(strings).input_ids == ours.encode_batch(strings, plain=False)
    assert theirs(strings[5]).input_ids == ours.encode_prompt(strings[5])
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 0, 1)
    assert (len(theirs), theirs.model_max_length) == (ours.vocab_size, 256)
    assert set(theirs.all_special_ids) == ours.special_ids
    if kind != "words":
        rows = ours.encode_batch(strings[:500], plain=False)
        assert theirs.batch_decode(rows) == strings[:500] == [ours.decode(row) for row in rows]


@pytest.mark.parametrize("model_type", ["qwen3", "llama", "gpt2", "qwen3_moe"])
def test_auto_tokenizer_keeps_our_rules_beside_a_models_configuration(model_type, tmp_path):
    ours = train([ENGLISH, CHINESE * 9], vocab_size=600)
    ours.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    strings = mixed(300)
    assert auto(tmp_path)(strings).input_ids == ours.encode_batch(strings, plain=False)


@pytest.mark.parametrize("kind", ["bpe", "char"])
@pytest.mark.parametrize("prompt", [False, True])
def test_chat_template_gives_our_ids(kind, prompt, tmp_path):
    ours = train([ENGLISH, CHINESE * 9], **KINDS[kind])
    ours.save(tmp_path)
    ids, _ = ours.encode_chat(CHAT, add_generation_prompt=prompt)
    assert auto(tmp_path).apply_chat_template(CHAT, add_generation_prompt=prompt, return_dict=False) == ids


# --- directories as other models ship them -------------------------------------------------------------

CHATML = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\n\n' ~ m.content | trim ~ '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %}{% generation %} {{ m.content }} {{ eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('no ' ~ m | tojson) }}{% endif %}{% endfor %}"
)


def byte_level(specials: list[str]) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([ENGLISH, CHINESE * 9], trainer)
    backend.add_special_tokens(specials)
    return backend


def qwen(directory) -> None:
    backend = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    backend.normalizer = normalizers.NFC()
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": CHATML}
    write(directory, backend, settings | {"tokenizer_class": "Qwen2Tokenizer"})


def llama3(directory) -> None:
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    backend = byte_level(names)
    begin = (names[0], backend.token_to_id(names[0]))
    backend.post_processor = processors.TemplateProcessing(single=f"{names[0]} $A", special_tokens=[begin])
    settings = {
        "bos_token": names[0],
        "eos_token": {"__type": "AddedToken", "content": names[1], "special": True},
    }
    write(directory, backend, settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
    ends = [backend.token_to_id(names[1]), backend.token_to_id(names[4])]
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}), encoding="utf-8")
    (directory / "chat_template.jinja").write_text(HEADERS, encoding="utf-8")


def llama2(directory) -> None:
    letters = sorted({*ENGLISH, *CHINESE[:20], "▁"} - {" "})
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "a"), ("i", "n"), ("in", "g"), ("▁", "▁")]
    tokens += [first + second for first, second in merges]
    vocab = {token: index for index, token in enumerate(tokens)}
    backend = Backend(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    named = [{"name": "tools", "template": "-"}, {"name": "default", "template": BRACKETS}]
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write(
        directory,
        backend,
        {"add_bos_token": True, "chat_template": named, "tokenizer_class": "LlamaTokenizer"},
    )
    (directory / "special_tokens_map.json").write_text(json.dumps(tokens), encoding="utf-8")


def gpt2(directory) -> None:
    backend = byte_level(["<|endoftext|>"])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    end = "<|endoftext|>"
    settings = dict.fromkeys(("bos_token", "eos_token", "unk_token"), end)
    write(directory, backend, settings | {"tokenizer_class": "GPT2Tokenizer"})


def write(directory, backend: Backend, settings: dict) -> None:
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


@pytest.mark.parametrize("make", [qwen, llama3, llama2, gpt2])
def test_foreign_directories_give_the_ids_of_transformers(make, tmp_path):
    make(tmp_path)
    ours, theirs = Tokenizer.load(tmp_path), auto(tmp_path)
    strings = [*mixed(300), "<s>hi</s>", "a<|im_end|>b <think>", "<|begin_of_text|>"]
    assert [ours.encode_prompt(text) for text in strings] == theirs(strings).input_ids
    rows = theirs(strings, add_special_tokens=False).input_ids
    assert [ours.encode(text) for text in strings] == rows
    assert [ours.decode(row) for row in rows] == theirs.batch_decode(rows)
    assert [ours.decode(row, skip_special=True) for row in rows] == theirs.batch_decode(
        rows, skip_special_tokens=True
    )
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (
        theirs.bos_token_id,
        theirs.eos_token_id,
        theirs.pad_token_id,
    )
    assert ours.vocab_size == len(theirs)
    for row in rows[:30]:
        decoder = ours.decoder()
        assert "".join(map(decoder.push, row)) + decoder.flush() == ours.decode(row)


@pytest.mark.parametrize("make", [qwen, llama3, llama2])
@pytest.mark.parametrize("prompt", [False, True])
def test_foreign_chat_templates_give_the_ids_of_transformers(make, prompt, tmp_path):
    make(tmp_path)
    ours, theirs = Tokenizer.load(tmp_path), auto(tmp_path)
    chat = [*CHAT[1:3], {"role": "user", "content": "谢谢!"}]
    ids, mask = ours.encode_chat(chat, add_generation_prompt=prompt)
    assert ids == theirs.apply_chat_template(chat, add_generation_prompt=prompt, return_dict=False)
    taught = ours.decode([index for index, on in zip(ids, mask) if on])
    assert taught.strip() in ("It is 2 😀<|im_end|>", "It is 2 😀<|eot_id|>", "It is 2 😀 </s>")


def test_stop_ids_come_from_the_generation_configuration(tmp_path):
    llama3(tmp_path)
    ours = Tokenizer.load(tmp_path)
    assert [ours.token(index) for index in ours.stop_ids] == ["<|end_of_text|>", "<|eot_id|>"]
