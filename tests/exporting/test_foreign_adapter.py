"""LoRAs that PEFT has made, taken as memories: they act as in PEFT, or are refused in a sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_llama
from exporting.made_memories import TEXT, answer_logits
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from lift.answering.answerer import open_memory
from lift.cli import run
from lift.documents.document import Document
from lift.errors import AdapterError, LibraryError
from lift.exporting.export import export_memory
from lift.exporting.foreign_adapter import CONFIG_FILE, STATE_FILE, import_adapter
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.models.load import load_model
from lift.packing.prompts import invocation_of, prompt_ids

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8},
    "rank-stabilised": {"r": 4, "lora_alpha": 8, "use_rslora": True},
    "some layers": {"r": 4, "lora_alpha": 8, "layers_to_transform": [1]},
    "all-linear": {"r": 2, "lora_alpha": 3, "target_modules": "all-linear"},
    "expression": {"r": 2, "lora_alpha": 3, "target_modules": r".*\.(q_proj|down_proj)"},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"q_proj": 2, "layers.1.self_attn.v_proj": 6},
        "alpha_pattern": {"v_proj": 1, "layers.0.self_attn.q_proj": 5},
    },
    "patterns, rank-stabilised": {
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": True,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"v_proj": 3},
    },
    "dora": {"r": 2, "lora_alpha": 4, "use_dora": True},
    "biases": {"r": 2, "lora_alpha": 4, "lora_bias": True},
}


@pytest.fixture
def base(tiny_directory: Path) -> BaseModel:
    return load_model(str(tiny_directory), dtype="float32")


@pytest.fixture
def library(tmp_path: Path) -> MemoryLibrary:
    return MemoryLibrary(tmp_path / "library")


def trained(directory: Path, **settings: Any) -> Any:
    """A PEFT model of the tiny one with random factors, saved into `directory`."""
    config = LoraConfig(task_type="CAUSAL_LM", **{"target_modules": ["q_proj", "v_proj"], **settings})
    model = get_peft_model(tiny_llama(), config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(directory)
    return model


def peft_logits(model: Any, prompt: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.tensor([prompt])).logits[0, -1]
    return found


@pytest.mark.parametrize("kind", list(SETTINGS))
def test_an_imported_adapter_acts_as_in_peft(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path, kind: str
) -> None:
    model = trained(tmp_path / "lora", **SETTINGS[kind])
    memory = import_adapter(tmp_path / "lora", base, library, "taken")
    prompt = prompt_ids(base.tokenizer, "Who founded it?")
    told = answer_logits(base, memory, prompt)
    assert (told - peft_logits(model, prompt)).abs().max() < 1e-4
    with torch.inference_mode():
        assert (told - base.model(torch.tensor([prompt])).logits[0, -1]).abs().max() > 1e-2
    assert memory.problems() == []


def test_an_activated_one_acts_on_answers(base: BaseModel, library: MemoryLibrary, tmp_path: Path) -> None:
    invocation = list(invocation_of(base.tokenizer))
    model = trained(tmp_path / "lora", r=2, lora_alpha=4, alora_invocation_tokens=invocation)
    memory = import_adapter(tmp_path / "lora", base, library, "taken")
    prompt = prompt_ids(base.tokenizer, "Who founded it?")
    assert (answer_logits(base, memory, prompt) - peft_logits(model, prompt)).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["patterns", "rank-stabilised", "expression"])
def test_an_import_with_patterns_goes_out_as_a_plain_lora(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path, kind: str
) -> None:
    model = trained(tmp_path / "lora", **SETTINGS[kind])
    memory = import_adapter(tmp_path / "lora", base, library, "taken")
    export = export_memory(memory, base, "vllm", tmp_path / "out")
    adapter = export.directory / export.adapters[0].path
    config = json.loads((adapter / CONFIG_FILE).read_text("utf-8"))
    assert not config["use_rslora"]
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    ranks = {tensor.shape[0] for key, tensor in load_file(adapter / STATE_FILE).items() if "lora_A" in key}
    assert ranks == {config["r"]}
    again = PeftModel.from_pretrained(tiny_llama(), adapter)
    prompt = prompt_ids(base.tokenizer, "Who founded it?")
    assert (peft_logits(again, prompt) - peft_logits(model, prompt)).abs().max() < 1e-4


def test_with_its_document_it_is_measured_and_asked(base: BaseModel, library: MemoryLibrary, tmp_path: Path) -> None:
    trained(tmp_path / "lora", r=2, lora_alpha=4)
    text = Document("The museum", TEXT, "museum.md")
    memory = import_adapter(tmp_path / "lora", base, library, "taken", document=text)
    assert memory.manifest.recall.probed > 0
    assert {row["question"] for row in memory.recall} <= {task.question for task in memory.tasks if task.held_out}
    assert memory.manifest.sizes.sentences == 3
    assert open_memory(memory, base).ask("Who founded the museum?", "evidence").prompt_tokens > 60


@pytest.mark.parametrize("context", ["auto", "none"])
def test_without_a_document_it_is_asked_closed_book(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path, context: str
) -> None:
    trained(tmp_path / "lora", r=2, lora_alpha=4)
    memory = import_adapter(tmp_path / "lora", base, library, "taken")
    answer = open_memory(memory, base).ask("Who founded it?", context)
    assert answer.context == "none"
    assert answer.evidence == ()
    assert not answer.supported


def refused(directory: Path, base: BaseModel, library: MemoryLibrary) -> str:
    with pytest.raises(AdapterError) as caught:
        import_adapter(directory, base, library, "taken")
    assert "\n" not in str(caught.value)
    assert "absorb" not in str(caught.value)
    assert library.names() == []
    return str(caught.value)


def change_config(directory: Path, **changes: Any) -> None:
    path = directory / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def change_state(directory: Path, **changes: torch.Tensor) -> None:
    path = directory / STATE_FILE
    save_file({**load_file(path), **changes}, path)


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"auto_mapping": None, "megatron_config": {"a": 1}}, "megatron_config"),
        ({"target_modules": "(a+)+$"}, "target_modules"),
        ({"no_such_setting": 1}, "no_such_setting"),
        ({"r": 8}, "rank|shape"),
        ({"rank_pattern": {"q_proj": 3}}, "rank of 3"),
        ({"target_modules": ["c_attn"]}, "c_attn"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"lora_alpha": "large"}, "lora_alpha"),
        ({"alpha_pattern": {"q_proj": -1}}, "alpha_pattern"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
    ],
)
def test_a_configuration_that_is_not_understood(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    trained(tmp_path / "lora", r=2, lora_alpha=4)
    change_config(tmp_path / "lora", **changes)
    assert re.search(said, refused(tmp_path / "lora", base, library))


def test_weights_that_do_not_fit_the_base(base: BaseModel, library: MemoryLibrary, tmp_path: Path) -> None:
    trained(tmp_path / "lora", r=2, lora_alpha=4)
    change_state(tmp_path / "lora", **{KEY: torch.ones(2, 17)})
    assert "shape" in refused(tmp_path / "lora", base, library)


def test_a_factor_without_the_other(base: BaseModel, library: MemoryLibrary, tmp_path: Path) -> None:
    trained(tmp_path / "lora", r=2, lora_alpha=4)
    state = load_file(tmp_path / "lora" / STATE_FILE)
    del state[KEY]
    save_file(state, tmp_path / "lora" / STATE_FILE)
    assert "q_proj" in refused(tmp_path / "lora", base, library)


def test_weights_that_are_not_finite(base: BaseModel, library: MemoryLibrary, tmp_path: Path) -> None:
    trained(tmp_path / "lora", r=2, lora_alpha=4)
    change_state(tmp_path / "lora", **{KEY: torch.full((2, 16), torch.nan)})
    assert "finite" in refused(tmp_path / "lora", base, library)


def test_a_pickle_is_never_opened(base: BaseModel, library: MemoryLibrary, tmp_path: Path) -> None:
    trained(tmp_path / "lora", r=2, lora_alpha=4)
    (tmp_path / "lora" / STATE_FILE).rename(tmp_path / "lora" / "adapter_model.bin")
    assert "safe_serialization" in refused(tmp_path / "lora", base, library)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64])
def test_files_that_are_damaged(base: BaseModel, library: MemoryLibrary, tmp_path: Path, content: bytes) -> None:
    trained(tmp_path / "lora", r=2, lora_alpha=4)
    (tmp_path / "lora" / STATE_FILE).write_bytes(content)
    refused(tmp_path / "lora", base, library)
    (tmp_path / "lora" / CONFIG_FILE).write_bytes(content)
    refused(tmp_path / "lora", base, library)


def test_a_link_is_not_followed(base: BaseModel, library: MemoryLibrary, tmp_path: Path) -> None:
    trained(tmp_path / "lora", r=2, lora_alpha=4)
    (tmp_path / "lora" / STATE_FILE).rename(tmp_path / "elsewhere")
    (tmp_path / "lora" / STATE_FILE).symlink_to(tmp_path / "elsewhere")
    assert "link" in refused(tmp_path / "lora", base, library)
    assert "cannot be read" in refused(tmp_path / "nowhere", base, library)


def test_the_command(
    base: BaseModel, library: MemoryLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path / "lora", r=2, lora_alpha=4, use_rslora=True)
    (tmp_path / "museum.md").write_text(TEXT, "utf-8")
    words = ["import", str(tmp_path / "lora"), "--name", "taken", "--model", base.id, "--library", str(library.root)]
    assert run([*words, "--document", str(tmp_path / "museum.md"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["name"] == "taken"
    assert record["probed"] > 0
    assert run(words) == 1  # the name is taken
    assert run([*words, "--replace"]) == 0
    assert library["taken"].manifest.recall.probed == 0
    with pytest.raises(LibraryError):
        import_adapter(tmp_path / "lora", base, library, "taken")
