"""Memories exported for other programs, and replayed there."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_llama
from exporting.made_memories import QUESTIONS, answer_logits, export_files, make_memory
from models.test_gguf_conversion import write_gguf
from transformers import AutoModelForCausalLM

from lift.cli import run
from lift.errors import ExportError
from lift.exporting.export import Export, export_memory
from lift.exporting.replay import Replayer
from lift.exporting.targets import TARGETS
from lift.exporting.verify import Verification, verify_export
from lift.memories.library import MemoryLibrary
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.models.load import load_model
from lift.packing.prompts import invocation_of, prompt_ids


@pytest.fixture
def base(tiny_directory: Path) -> BaseModel:
    return load_model(str(tiny_directory), dtype="float32")


@pytest.fixture
def library(tmp_path: Path) -> MemoryLibrary:
    return MemoryLibrary(tmp_path / "library")


def verified(export: Export, memory: StoredMemory, base: BaseModel) -> Verification:
    return verify_export(export, Replayer(memory, base))


@pytest.mark.parametrize("form", ["activated", "plain", "dora"])
def test_peft_answers_as_lift_does(base: BaseModel, library: MemoryLibrary, tmp_path: Path, form: str) -> None:
    memory = make_memory(library, base, form)
    export = export_memory(memory, base, "peft", tmp_path / "out")
    (told,) = verified(export, memory, base).adapters
    assert (told.questions, told.same, told.prompts) == (3, 3, 3)
    assert told.largest_logit_difference is not None
    assert told.largest_logit_difference < 1e-4
    assert told.largest_judged_difference < 1e-3


@pytest.mark.parametrize("form", ["plain", "dora"])
def test_a_merged_model_answers_as_the_memory_does(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path, form: str
) -> None:
    memory = make_memory(library, base, form)
    export = export_memory(memory, base, "merged", tmp_path / "out")
    (told,) = verified(export, memory, base).adapters
    assert told.same == told.questions == 3
    assert told.largest_logit_difference is not None
    assert told.largest_logit_difference < 1e-4


def test_an_export_that_was_changed_is_found_out(base: BaseModel, library: MemoryLibrary, tmp_path: Path) -> None:
    memory, other = make_memory(library, base, "plain"), make_memory(library, base, "plain", seed=1, name="other")
    export = export_memory(memory, base, "peft", tmp_path / "out")
    wrong = export_memory(other, base, "peft", tmp_path / "wrong")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        content = (wrong.directory / wrong.adapters[0].path / name).read_bytes()
        (export.directory / export.adapters[0].path / name).write_bytes(content)
    (told,) = verified(export, memory, base).adapters
    assert told.same < told.questions
    assert len(told.different) == told.questions - told.same
    assert told.largest_judged_difference > 0.05


def test_what_a_memory_is_exported_with(base: BaseModel, library: MemoryLibrary, tmp_path: Path) -> None:
    memory = make_memory(library, base, "activated")
    export = export_memory(memory, base, "peft", tmp_path / "out", questions=2)
    path = export.adapters[0].path
    assert export_files(export.directory) == sorted(
        [
            *(f"{path}/adapter_config.json", f"{path}/adapter_model.safetensors"),
            *("README.md", "chat_template.jinja", "export.json", "prompt.json", "replay.jsonl"),
        ]
    )
    rows = [json.loads(line) for line in (export.directory / "replay.jsonl").read_text("utf-8").splitlines()]
    assert [tuple(row["prompt_ids"]) for row in rows] == [
        tuple(prompt_ids(base.tokenizer, row["question"])) for row in rows
    ]
    assert {row["question"] for row in rows} < set(QUESTIONS)
    prompt = json.loads((export.directory / "prompt.json").read_text("utf-8"))
    text = prompt["closed_book"].replace("{question}", "Who was it?")
    assert base.tokenizer(text, add_special_tokens=False)["input_ids"] == prompt_ids(base.tokenizer, "Who was it?")
    text = prompt["reading"].replace("{question}", "Who?").replace("{context}", "She was.")
    assert base.tokenizer(text, add_special_tokens=False)["input_ids"] == prompt_ids(base.tokenizer, "Who?", "She was.")
    assert prompt["invocation_token_ids"] == list(invocation_of(base.tokenizer))
    assert path in (export.directory / "README.md").read_text("utf-8")


def test_paths_change_with_the_content_and_with_nothing_else(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path
) -> None:
    def path_of(seed: int, target: Any, place: str) -> str:
        memory = make_memory(MemoryLibrary(tmp_path / place), base, "plain", seed=seed)
        return export_memory(memory, base, target, tmp_path / f"{place}-out").adapters[0].path

    assert path_of(0, "vllm", "a") == path_of(0, "vllm", "b") != path_of(1, "vllm", "c")
    assert path_of(0, "gguf", "d") == path_of(0, "gguf", "e") != path_of(1, "gguf", "f")


@pytest.mark.parametrize(
    ("form", "targets", "way_out"),
    [
        ("activated", ["merged", "vllm", "sglang"], "--convert"),
        ("dora", ["gguf", "vllm", "sglang"], "--to merged"),
        ("gated", list(TARGETS), "--recipe portable"),
    ],
)
def test_what_a_program_cannot_take_is_refused_with_the_way_out(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path, form: str, targets: list[Any], way_out: str
) -> None:
    memory = make_memory(library, base, form)
    for target in targets:
        with pytest.raises(ExportError) as caught:
            export_memory(memory, base, target, tmp_path / "out")
        assert way_out in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_directory_that_holds_something_is_left_alone(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path
) -> None:
    memory = make_memory(library, base, "plain")
    (tmp_path / "out").mkdir()
    export_memory(memory, base, "vllm", tmp_path / "out")
    before = export_files(tmp_path / "out")
    with pytest.raises(ExportError, match="empty directory"):
        export_memory(memory, base, "peft", tmp_path / "out")
    assert export_files(tmp_path / "out") == before


def test_an_export_that_fails_half_way_leaves_nothing(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = make_memory(library, base, "plain")
    place = tmp_path / "exports"
    monkeypatch.setattr(os, "rename", _full_disk)
    with pytest.raises(ExportError, match="no space left"):
        export_memory(memory, base, "peft", place / "out")
    assert list(place.iterdir()) == []


def _full_disk(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_gguf_has_the_factors_in_llama_cpps_order(base: BaseModel, library: MemoryLibrary, tmp_path: Path) -> None:
    import gguf
    from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

    memory = make_memory(library, base, "activated")
    export = export_memory(memory, base, "gguf", tmp_path / "out")
    reader = gguf.GGUFReader(export.directory / export.adapters[0].path)
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["adapter.type"].contents() == "lora"
    assert reader.fields["adapter.lora.alpha"].contents() == 6.0
    invocation = list(invocation_of(base.tokenizer))
    assert list(reader.fields["adapter.alora.invocation_tokens"].contents()) == invocation
    state = memory.load_adapter_state()
    found = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    assert len(found) == len(state)
    attention = "model.layers.1.self_attn"
    assert torch.equal(found["blk.1.attn_v.weight.lora_b"], state[f"{attention}.v_proj.lora_B.weight"].float())
    assert torch.equal(found["blk.1.attn_q.weight.lora_a"], state[f"{attention}.q_proj.lora_A.weight"].float())
    # transformers puts rows of llama.cpp's files into its own order
    processor: Any = LlamaTensorProcessor(config={})
    for leaf, heads in (("q", 4), ("k", 2)):
        wanted = state[f"{attention}.{leaf}_proj.lora_B.weight"].float()
        own = processor._reverse_permute_weights(found[f"blk.1.attn_{leaf}.weight.lora_b"].numpy(), 4, heads)
        assert torch.equal(torch.tensor(own), wanted)
        assert not torch.equal(found[f"blk.1.attn_{leaf}.weight.lora_b"], wanted)


def test_a_merged_gguf_is_the_base_with_the_memory_in_it(library: MemoryLibrary, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    base = load_model(str(path), dtype="float32")
    memory = make_memory(library, base, "plain")
    export = export_memory(memory, base, "merged", tmp_path / "out", as_gguf=True)
    assert export.model is not None
    merged = load_model(str(export.directory / export.model), dtype="float32")
    prompt = prompt_ids(base.tokenizer, QUESTIONS[0])
    expected = answer_logits(base, memory, prompt)
    with torch.inference_mode():
        told = merged.model(torch.tensor([prompt])).logits[0, -1]
        alone = base.model(torch.tensor([prompt])).logits[0, -1]
    assert (told - expected).abs().max() < 1e-4
    assert (alone - expected).abs().max() > 1e-2
    assert merged.tokenizer.chat_template == base.tokenizer.chat_template


def test_a_merged_model_keeps_the_type_of_the_base(library: MemoryLibrary, tmp_path: Path, tiny_tokenizer: Any) -> None:
    directory = tmp_path / "half"
    tiny_llama().to(torch.bfloat16).save_pretrained(directory)
    tiny_tokenizer.save_pretrained(directory)
    base = load_model(str(directory), dtype="float32")
    export = export_memory(make_memory(library, base, "plain"), base, "merged", tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(export.directory / "model", dtype="auto")
    assert loaded.dtype == torch.bfloat16


def test_vllm_is_started_with_room_for_the_rank(base: BaseModel, library: MemoryLibrary, tmp_path: Path) -> None:
    export = export_memory(make_memory(library, base, "plain"), base, "vllm", tmp_path / "out")
    readme = (export.directory / "README.md").read_text("utf-8")
    assert "--max-lora-rank 8 " in readme  # the memory has 4
    assert f"--lora-modules plain={export.adapters[0].path}" in readme
    sglang = export_memory(make_memory(library, base, "plain", name="s"), base, "sglang", tmp_path / "sglang")
    assert "--lora-target-modules down_proj gate_proj" in (sglang.directory / "README.md").read_text("utf-8")


# A program in place of llama-server and vllm: it answers from the export's replay.jsonl, but for one question.
_PROGRAM = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
if "--version" in sys.argv:
    print("version: 7 (scripted)")
    sys.exit()
rows = [json.loads(line) for line in open({replay!r})]
port = int(sys.argv[sys.argv.index("--port") + 1])

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass
    def reply(self, value):
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def do_GET(self):
        self.reply({{"version": "7"}})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            text = body.get("content", body.get("prompt"))
            return self.reply({{"tokens": next(r["prompt_ids"] for r in rows if r["prompt"] == text)}})
        prompt = body["prompt"]
        row = next(r for r in rows if prompt[:len(r["prompt_ids"])] == r["prompt_ids"])
        rest = prompt[len(row["prompt_ids"]):]
        token = row["target_ids"][min(len(rest), len(row["target_ids"]) - 1)]
        share = row["log_probability"] / len(row["target_ids"])
        said = row["answer_ids"] if row is not rows[0] else [5]
        # the tokens of both programs hold the one that ends the answer
        ended = len(row["target_ids"]) > len(row["answer_ids"])
        said = said + ([2] if ended else [])
        if self.path == "/completion":
            assert body["lora"] == [{{"id": 0, "scale": 1.0}}]
            named = [{{"id": -1, "logprob": -9.0}}, {{"id": token, "logprob": share}}]
            return self.reply({{"tokens": said, "completion_probabilities": [{{"top_logprobs": named}}]}})
        assert body["model"] == "memory"
        told = [None] + [{{str(t): {{"logprob": share}}}} for t in prompt[1:]]
        self.reply({{"choices": [{{
            "token_ids": said,
            "finish_reason": "stop" if ended else "length",
            "prompt_logprobs": told,
        }}]}})

HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def scripted_program(path: Path, export: Export) -> Path:
    path.write_text(_PROGRAM.format(python=sys.executable, replay=str(export.directory / "replay.jsonl")), "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize("target", ["gguf", "vllm"])
def test_a_server_is_started_asked_and_stopped(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path, target: Any
) -> None:
    memory = make_memory(library, base, "plain")
    (tmp_path / "base.gguf").write_bytes(b"read by the program alone")
    export = export_memory(memory, base, target, tmp_path / "out", gguf=tmp_path / "base.gguf")
    program = scripted_program(tmp_path / "program", export)
    told = verify_export(export, Replayer(memory, base), program)
    assert told.version.startswith("7")
    (own,) = told.adapters
    assert (own.questions, own.same, own.prompts) == (3, 2, 3)
    assert [each.question for each in own.different] == [export.replay[0].question]
    assert own.largest_judged_difference < 1e-5
    assert own.largest_logit_difference is None


def test_a_program_that_does_not_start_is_quoted(base: BaseModel, library: MemoryLibrary, tmp_path: Path) -> None:
    memory = make_memory(library, base, "plain")
    export = export_memory(memory, base, "vllm", tmp_path / "out")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho 'RuntimeError: no room for keys and values'\nexit 3\n", "utf-8")
    program.chmod(0o755)
    with pytest.raises(ExportError, match=r"status 3 .*no room for keys and values"):
        verify_export(export, Replayer(memory, base), program)


def test_a_program_that_is_not_installed_costs_the_replay_alone(
    base: BaseModel,
    library: MemoryLibrary,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_memory(library, base, "plain")
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "out"
    words = ["export", "plain", "--to", "vllm", str(out), "--verify", "--library", str(library.root)]
    assert run(words) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "vllm is not installed here" in told
    assert (out / "README.md").is_file()


def test_the_command_tells_how_many_answers_are_the_same(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_memory(library, base, "activated")
    at = ["--library", str(library.root)]
    assert run(["export", "activated", "--to", "peft", str(tmp_path / "a"), "--verify", *at]) == 0
    assert "3 of 3 answers are the same" in " ".join(capsys.readouterr().out.split())
    assert run(["export", "activated", "--to", "peft", str(tmp_path / "b"), "--verify", "--json", *at]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["verification"]["adapters"][0]["same"] == 3
    assert run(["export", "activated", "--to", "vllm", str(tmp_path / "c"), *at]) == 1
    assert "--convert" in capsys.readouterr().err
