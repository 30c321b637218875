"""Shared fixtures: private data and cache directories, a tiny random model, and the real default model."""

from __future__ import annotations

import gc
import os
from pathlib import Path

# Read by huggingface_hub when it is imported, so it must stand before any import of transformers.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tiny models are quickest on one thread, here and in the processes that a test starts. Read as torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test speaks TLS, yet each HTTP client reads the certificates that it would trust: one in place of all the system's.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("data") / "certificate.pem")

from collections.abc import Generator, Iterator, Sequence
from typing import Any

import hypothesis
import pytest

from lift.documents.sentences import Sentence
from lift.errors import ModelError
from lift.models.base_model import BaseModel
from lift.tasks.task import Task

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# CI tries the same examples every time: what it says is about the change. New ones are found at the desk, a few a run.
hypothesis.settings.register_profile("ci", derandomize=True, max_examples=20)
hypothesis.settings.register_profile("desk", max_examples=20)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "desk")
_USERS_CACHE = os.environ.get("LIFT_CACHE")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """What is imported stays to the end, so no search for garbage need go through it, here or in a forked child."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def private_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's library or cache."""
    monkeypatch.setenv("LIFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LIFT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session", autouse=True)
def private_directories_of_fixtures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nor does what is made for several tests."""
    root = tmp_path_factory.mktemp("private")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFT_HOME", str(root / "home"))
        patch.setenv("LIFT_CACHE", str(root / "cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny models are quickest on one thread, and leave the other cores to whatever else runs."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def questions_asked_once() -> Iterator[None]:
    """The questions of the rules about a text are kept for the next test that absorbs it: they are the same again."""
    from lift.tasks.rules import rule_generator

    ask = rule_generator._questions
    kept: dict[tuple[str, tuple[Sentence, ...]], list[list[Task]]] = {}

    def asked(title: str, sentences: Sequence[Sentence]) -> Iterator[list[Task]]:
        key = (title, tuple(sentences))
        if key in kept:
            yield from map(list, kept[key])
            return
        found: list[list[Task]] = []
        for questions in ask(title, sentences):
            found.append(list(questions))
            yield questions
        kept[key] = found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rule_generator, "_questions", asked)
        yield


def byte_vocabulary() -> dict[str, int]:
    """Special tokens first, as in SmolLM2, then one token a byte: token 3 + b stands for byte b."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    read_alphabet: Any = bytes_to_unicode
    spelling = read_alphabet()
    tokens = [*SPECIAL_TOKENS, *(spelling[byte] for byte in range(256))]
    return {token: index for index, token in enumerate(tokens)}


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """As build_tiny_tokenizer."""
    return build_tiny_tokenizer()


def build_tiny_tokenizer() -> Any:
    """A byte-level tokenizer of 259 tokens with a ChatML template; <|im_end|> ends an answer."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(vocab=byte_vocabulary(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    build: Any = PreTrainedTokenizerFast
    fast = build(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHATML
    return fast


def tiny_llama(seed: int = 0) -> Any:
    """A random Llama of 2 layers, width 16, 4 heads over 2 key-value heads, and a window of 1024 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=3 + 256,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


@pytest.fixture
def tiny_model(tiny_tokenizer: Any) -> BaseModel:
    """A fresh tiny base model, the same weights every time; a test may attach to it what it likes."""
    return BaseModel(model=tiny_llama(), tokenizer=tiny_tokenizer, id="tiny", fingerprint="0" * 64)


@pytest.fixture
def tiny_directory(tiny_tokenizer: Any, tmp_path: Path) -> Path:
    """The tiny model as a transformers directory, for what loads by name."""
    directory = tmp_path / "tiny-model"
    tiny_llama().save_pretrained(directory)
    tiny_tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """The real default model, loaded once a session; converted into LIFT_CACHE where the caller has set it.

    Tests that attach an adapter to it must remove it again.
    """
    import torch

    from lift.models.load import load_model

    torch.set_num_threads(os.cpu_count() or 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFT_CACHE", _USERS_CACHE or str(tmp_path_factory.mktemp("cache")))
        return load_model("smollm2", device="cpu", dtype="float32")


def logits(model: Any, tokens: list[int]) -> Any:
    """Next-token logits of a transformers model at every position. [seq, vocabulary]"""
    import torch

    with torch.inference_mode():
        result: Any = model(torch.tensor([tokens])).logits[0]
    return result


def refusal(*arguments: str, **options: str) -> str:
    """The message that load_model refuses with: one line, whatever the cause."""
    from lift.models.load import load_model

    with pytest.raises(ModelError) as caught:
        load_model(*arguments, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)
