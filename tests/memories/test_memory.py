"""What a memory keeps, how it is read again, and what happens when a file of it has changed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from memory_drafts import FINGERPRINT, make_draft, manifest_values, version_of

from lift.documents.document import Document, Omission
from lift.errors import LibraryError, WrongBaseModelError
from lift.memories.library import MemoryLibrary
from lift.memories.manifest import FORMAT_VERSION, installed_versions, seal_manifest
from lift.memories.memory import StoredMemory

FILES = [
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "document.txt",
    "places.jsonl",
    "tasks.jsonl",
    "training.jsonl",
    "recall.jsonl",
]


@pytest.fixture
def memory(tmp_path: Path) -> StoredMemory:
    return MemoryLibrary(tmp_path / "library").put(make_draft())


def rewrite_manifest(memory: StoredMemory, **changes: object) -> None:
    path = memory.directory / "memory.json"
    path.write_bytes(seal_manifest({**manifest_values(path.read_bytes()), **changes}))


def test_everything_comes_back_as_it_was_put(memory: StoredMemory) -> None:
    draft = make_draft()
    assert memory.name == "minutes"
    assert memory.document == draft.document
    assert memory.document.sha256 == memory.manifest.document.sha256
    assert str(memory.document.place_at(10)) == "page 2, “Votes”"
    assert memory.tasks == list(draft.tasks)
    assert memory.training == list(draft.training)
    assert memory.recall == list(draft.recall)
    assert memory.adapter_config == draft.adapter_config
    state = memory.load_adapter_state()
    assert state.keys() == draft.adapter_state.keys()
    for key, tensor in draft.adapter_state.items():
        assert state[key].dtype == tensor.dtype
        assert torch.equal(state[key], tensor)


def test_manifest_says_what_the_memory_is_made_of(memory: StoredMemory) -> None:
    manifest = memory.manifest
    assert manifest.format_version == FORMAT_VERSION == 3
    assert (manifest.name, manifest.title, manifest.recipe_name) == ("minutes", "Minutes one", "default")
    assert manifest.recipe == make_draft().recipe
    assert manifest.sizes.adapter_parameters == 16
    assert manifest.sizes.document_chars == len(make_draft().document.text)
    assert manifest.recall.share == 0.5
    assert torch.__version__.startswith(manifest.versions["torch"])
    assert abs(datetime.now(UTC) - manifest.created_at) < timedelta(minutes=1)
    assert sorted(manifest.files) == sorted(FILES)
    assert manifest.size_bytes == sum((memory.directory / file).stat().st_size for file in FILES)


def test_document_text_is_kept_byte_for_byte(memory: StoredMemory) -> None:
    assert (memory.directory / "document.txt").read_bytes() == make_draft().document.text.encode("utf-8")


def test_title_and_source_of_undecodable_file_names_are_kept_readable(tmp_path: Path) -> None:
    from lift.documents.document import Document

    document = Document("caf\udce9", "text", "caf\udce9.txt")
    memory = MemoryLibrary(tmp_path / "library").put(make_draft(document=document))
    assert memory.document.title == "caf?"


def test_adapter_on_disk_is_what_peft_loads(tmp_path: Path) -> None:
    from conftest import tiny_llama
    from peft import PeftModel

    from lift.adapters.lora import LoraAdapter
    from lift.recipes.recipe import AdapterSettings

    ids = torch.arange(3, 20)[None]
    model = tiny_llama()
    adapter = LoraAdapter.create(model, AdapterSettings(rank=2, alpha=4.0), seed=0)
    with torch.no_grad():
        for index, parameter in enumerate(adapter.parameters()):
            parameter.copy_(torch.linspace(-0.3, 0.3 + index / 100, parameter.numel()).view_as(parameter))
        expected = model(input_ids=ids).logits
    config, state = adapter.stored()
    memory = MemoryLibrary(tmp_path / "library").put(make_draft(adapter_config=config, adapter_state=state))
    with torch.no_grad():
        fresh = tiny_llama()
        before = fresh(input_ids=ids).logits
        got = PeftModel.from_pretrained(fresh, memory.directory / "adapter")(input_ids=ids).logits
    assert not torch.allclose(before, expected, atol=1e-3)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert memory.load_adapter_state().keys() == state.keys()


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_noticed_when_the_file_is_read(memory: StoredMemory, file: str) -> None:
    path = memory.directory / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    readers: list[Callable[[StoredMemory], object]] = [
        lambda opened: opened.document,
        lambda opened: opened.tasks,
        lambda opened: opened.training,
        lambda opened: opened.recall,
        lambda opened: opened.adapter_config,
        lambda opened: opened.load_adapter_state(),
    ]
    messages = []
    for read in readers:
        try:
            read(StoredMemory.open(memory.directory))
        except LibraryError as error:
            messages.append(str(error))
    assert len(messages) == 1
    assert file in messages[0]
    assert "lift verify" in messages[0]
    assert [problem.file for problem in memory.problems()] == [file]


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_noticed(memory: StoredMemory, file: str) -> None:
    (memory.directory / file).unlink()
    assert [(problem.file, problem.what) for problem in memory.problems()] == [(file, "missing")]


def test_a_shortened_and_a_surplus_file_are_noticed(memory: StoredMemory) -> None:
    (memory.directory / "tasks.jsonl").write_text("")
    (memory.directory / "adapter" / "extra.bin").write_text("x")
    (memory.directory / ".DS_Store").write_text("left by a file manager")
    problems = {problem.file: problem.what for problem in memory.problems()}
    assert sorted(problems) == ["adapter/extra.bin", "tasks.jsonl"]
    assert "got 0" in problems["tasks.jsonl"]


def test_a_newer_format_is_refused_and_says_what_to_do(memory: StoredMemory) -> None:
    rewrite_manifest(memory, format_version=FORMAT_VERSION + 1, something_new=True)
    with pytest.raises(LibraryError, match=r"format version 4, this Lift reads up to 3; upgrade Lift"):
        StoredMemory.open(memory.directory)


def test_an_older_format_is_refused_and_says_what_to_do(memory: StoredMemory) -> None:
    rewrite_manifest(memory, format_version=FORMAT_VERSION - 1)
    with pytest.raises(LibraryError, match=r"format version 2, this Lift reads 3; absorb its text again"):
        StoredMemory.open(memory.directory)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"null", b'{"format_version": "1"}', b'{"format_version": 3}']
)
def test_a_damaged_manifest_is_one_clear_error(memory: StoredMemory, content: bytes) -> None:
    (memory.directory / "memory.json").write_bytes(content)
    with pytest.raises(LibraryError, match="damaged"):
        StoredMemory.open(memory.directory)


def test_an_unknown_key_in_the_manifest_is_refused(memory: StoredMemory) -> None:
    rewrite_manifest(memory, surprise=1)
    with pytest.raises(LibraryError, match="surprise"):
        StoredMemory.open(memory.directory)


def test_a_flipped_bit_anywhere_in_the_manifest_is_noticed(memory: StoredMemory) -> None:
    path = memory.directory / "memory.json"
    whole = path.read_bytes()
    pick = random.Random(0)
    # all of the last line, which states the hash itself, and some of every line before it
    offsets = [*range(0, len(whole) - 120, 7), *range(len(whole) - 120, len(whole))]
    for offset in offsets:
        changed = bytearray(whole)
        changed[offset] ^= 1 << pick.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(LibraryError) as caught:
            StoredMemory.open(memory.directory)
        assert "\n" not in str(caught.value)
    library = MemoryLibrary(memory.directory.parent)
    assert [problem.file for problem in library.verify()] == ["memory.json"]
    for content in (whole[:-1], whole + b"\n", whole.replace(b"\n", b"\r\n")):
        path.write_bytes(content)
        with pytest.raises(LibraryError, match="damaged"):
            StoredMemory.open(memory.directory)
    path.write_bytes(whole)
    assert library.verify() == []


@pytest.mark.parametrize("change", ["leave out", "reach out"])
def test_a_manifest_cannot_leave_out_a_file_or_name_one_elsewhere(memory: StoredMemory, change: str) -> None:
    files = json.loads((memory.directory / "memory.json").read_text("utf-8"))["files"]
    record = files["tasks.jsonl"]
    if change == "leave out":
        del files["tasks.jsonl"]
    else:
        files["../../secret"] = record
    rewrite_manifest(memory, files=files)
    with pytest.raises(LibraryError, match="files"):
        StoredMemory.open(memory.directory)


def test_only_the_weights_decide_whether_the_base_model_is_right(memory: StoredMemory) -> None:
    memory.check_base("/elsewhere/smollm2", FINGERPRINT)
    with pytest.raises(
        WrongBaseModelError, match=r"smollm2 \(weights abababababab\), got other \(weights 000000000000"
    ):
        memory.check_base("other", "0" * 64)


def test_a_directory_copied_by_hand_goes_by_its_new_name(memory: StoredMemory) -> None:
    renamed = memory.directory.with_name("by hand")
    memory.directory.rename(renamed)
    opened = StoredMemory.open(renamed)
    assert (opened.name, opened.manifest.name) == ("by hand", "by hand")
    assert version_of(opened) == "one"


def test_reading_what_was_replaced_meanwhile_says_so(memory: StoredMemory) -> None:
    MemoryLibrary(memory.directory.parent).put(make_draft(version="two"), replace=True)
    with pytest.raises(LibraryError, match="while it was open; open it again"):
        _ = memory.tasks


def test_reading_what_was_removed_meanwhile_says_so(memory: StoredMemory) -> None:
    MemoryLibrary(memory.directory.parent).remove("minutes")
    with pytest.raises(LibraryError, match="while it was open; open it again"):
        memory.load_adapter_state()


def test_versions_are_found_without_importing_anything_heavy() -> None:
    assert set(installed_versions()) == {"lift", "torch", "transformers", "peft"}
    heavy = "('torch', 'transformers', 'peft')"
    code = f"import sys, lift.memories.library; sys.exit(any(name in sys.modules for name in {heavy}))"
    environment = {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_what_was_left_out_and_the_language_come_back_with_the_document(tmp_path: Path) -> None:
    omissions = (Omission("page without text", 2), Omission("image", 3, count=4), Omission("image", 3))
    document = Document("T", "Es regnet.", "t.pdf", omissions=omissions, language="de")
    memory = MemoryLibrary(tmp_path).put(make_draft("left-out", document=document))
    opened = StoredMemory.open(memory.directory).document
    assert opened.language == "de"
    assert opened.omissions == (Omission("page without text", 2), Omission("image", 3, count=5))
    assert opened.warnings == ("1 page without text was left out (page 2).", "5 images were left out (page 3).")
    assert memory.manifest.document.warnings == opened.warnings


def test_of_very_many_things_left_out_the_number_stays(tmp_path: Path) -> None:
    omissions = tuple(Omission("image", page) for page in range(30_000))
    document = Document("T", "It rains.", "t.pdf", omissions=omissions, language="en")
    memory = MemoryLibrary(tmp_path).put(make_draft("many", document=document))
    assert sum(each.count for each in memory.document.omissions) == 30_000
    assert memory.document.warnings[0].startswith("30000 images were left out")
