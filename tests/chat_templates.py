"""Small tokenizers of the kinds that models have, each with the chat template of its family."""

from __future__ import annotations

from typing import Any

LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
QWEN = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are Heron, created by Moor Labs. You are a "
    "helpful assistant.<|im_end|>\n' }}{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] "
    "+ '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{% endif %}"
)
# family -> template, special tokens, added tokens that are not special, how it splits
_FAMILIES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], str]] = {
    "chatml": (QWEN, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), ("<think>", "</think>", "<tool>"), "bytes"),
    "llama3": (
        LLAMA3,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        (),
        "bytes",
    ),
    "gemma": (GEMMA, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), ("\n\n", "<table>"), "spaces"),
    "mistral": (MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), (), "prefixed"),
    "phi3": (PHI3, ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"), (), "prefixed"),
    "unigram": (PHI3, ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"), (), "unigram"),
}
_BEGINNINGS = {"chatml": "<|endoftext|>", "llama3": "<|begin_of_text|>", "gemma": "<bos>"}
_ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<eos>"}
FAMILIES = list(_FAMILIES)
_SAID = [
    "The ferry to the island leaves at nine and comes back at noon.",
    "the keeper of the lighthouse was paid 1,250 crowns a year, and the user of the boat nothing",
    "You are the assistant of the user. system user assistant model end start of turn\n\n  two  spaces\n",
]


def control_tokens(family: str) -> tuple[str, ...]:
    """The tokens of that family which only its template may write."""
    template, special, added, _ = _FAMILIES[family]
    return (*special, *(token for token in added if token in template and token.strip()))


def build_tokenizer(family: str) -> Any:
    """A fast tokenizer, trained on a few sentences and able to spell every text, with the family's template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    template, special, added, kind = _FAMILIES[family]
    model_of: Any = models
    byte_level: Any = pre_tokenizers.ByteLevel
    trainer: Any
    if kind == "bytes":
        tokenizer = Tokenizer(model_of.BPE())
        tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=byte_level.alphabet(), show_progress=False)
    elif kind == "unigram":
        # here the special tokens are pieces of the vocabulary, too
        tokenizer = Tokenizer(model_of.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, unk_token="<unk>", special_tokens=["<unk>", *special], show_progress=False
        )
    else:
        tokenizer = Tokenizer(model_of.BPE(unk_token="<unk>", fuse_unk=True))
        if kind == "spaces":
            tokenizer.normalizer = normalizers.Replace(" ", "▁")
        else:
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
        trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(_SAID, trainer)
    # tokens of Phi 3 take the white space behind them
    rstrip = family == "phi3"
    tokenizer.add_special_tokens([AddedToken(each, normalized=False, special=True, rstrip=rstrip) for each in special])
    tokenizer.add_tokens([AddedToken(each, normalized=False, special=False) for each in added])
    build: Any = PreTrainedTokenizerFast
    begin, end = _BEGINNINGS.get(family, "<s>"), _ENDS.get(family, "</s>")
    fast = build(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        pad_token=end,
        unk_token="<unk>" if kind != "bytes" else begin,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    return fast
