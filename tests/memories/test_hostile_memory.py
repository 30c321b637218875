"""A memory that a stranger has written: whatever its files say, nothing outside its own place is touched or read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_drafts import make_draft, make_key, manifest_values

from lift.adapters.attach import restore_adapter
from lift.errors import AdapterError, LibraryError, LiftError
from lift.memories.key_index import KeyIndex
from lift.memories.library import MemoryLibrary
from lift.memories.manifest import seal_manifest
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel

VICTIM = "the user's own words\n"
HOSTILE_TEXTS = [
    "../../../victim.txt",
    "../../victim",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a" * 5000,
    "\x1b[2J\x07",
    "null\x00byte",
    "line\nbreak",
    "../other",
    ".lock",
    "http://evil.example/v1",
    "\u2028",
]
hostile = st.one_of(
    st.sampled_from(HOSTILE_TEXTS),
    st.text(max_size=40),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.none(),
    st.booleans(),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3),
)


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def rewrite(memory: StoredMemory, *changes: tuple[str, Any]) -> None:
    """Put these values at these places ("document|sha256") of the manifest."""
    path = memory.directory / "memory.json"
    values = manifest_values(path.read_bytes())
    for place, value in changes:
        *above, last = place.split("|")
        target = values
        for key in above:
            target = target[key]
        target[last] = value
    path.write_bytes(seal_manifest(values))


def put_file(memory: StoredMemory, file: str, content: bytes) -> None:
    """Write a file of the memory with the hash and the size that fit, as a stranger would."""
    (memory.directory / file).write_bytes(content)
    record = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    rewrite(memory, (f"files|{file}", record))
    if file == "document.txt":
        rewrite(memory, ("document|sha256", record["sha256"]))


def everything_else(root: Path, own: set[str]) -> dict[str, bytes]:
    """All files below `root` with their content, but those below the entries `own` of the library."""
    found = {}
    for path in root.rglob("*"):
        relative = path.relative_to(root).as_posix()
        mine = any(relative.startswith(f"library/{name}/") for name in own)
        if path.is_file() and not mine and not relative.startswith(("library/.by-key/", "library/.lock")):
            found[relative] = path.read_bytes()
    return found


PLACES = [
    "absorption_key",
    "name",
    "title",
    "document",
    "document|title",
    "document|source",
    "document|sha256",
    "document|parts",
    "base|id",
    "base|fingerprint",
    "recipe_name",
    "recipe",
    "recipe|name",
    "recipe|training",
    "recipe|adapter",
    "recipe|generator",
    "seeds",
    "versions",
    "sizes|sentences",
    "sizes|document_chars",
    "cost|seconds",
    "cost|device",
    "recall|recalled",
    "recall_history",
    "generation",
    "created_at",
    "files",
    "files|tasks.jsonl",
    "files|../victim.txt",
    "format_version",
    "surprise",
]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), hostile), min_size=1, max_size=3))
def test_no_manifest_writes_outside_its_own_entry(
    tmp_path: Path, no_fsync: None, changes: list[tuple[str, Any]]
) -> None:
    root = tmp_path / "x"
    shutil.rmtree(root, ignore_errors=True)
    library = MemoryLibrary(root / "library")
    (root / "library").mkdir(parents=True)
    (root / "victim.txt").write_text(VICTIM)
    library.put(make_draft("other", "two"))
    foreign = library.put(make_draft("foreign"))
    try:
        rewrite(foreign, *changes)
    except (KeyError, TypeError):
        return  # the first change took away where the second would have gone
    before = everything_else(root, {"foreign", "renamed", "copied"})
    uses: list[Callable[[], object]] = [
        library.summaries,
        lambda: library.find(make_key("one")),
        lambda: library["foreign"].document,
        lambda: library.copy("foreign", "copied"),
        lambda: library.verify("foreign"),
        lambda: library.put(make_draft("foreign", "three"), replace=True) if changes[0][0] == "name" else None,
        lambda: library.rename("foreign", "renamed"),
        lambda: library.remove("renamed" if "renamed" in library else "foreign"),
    ]
    for use in uses:
        try:
            use()
        except LiftError as error:
            assert "\n" not in str(error)
            assert "\x1b" not in str(error)
    assert everything_else(root, {"foreign", "renamed", "copied"}) == before
    assert {entry for entry in os.listdir(root)} == {"library", "victim.txt"}
    assert all(len(entry) >= 8 or entry.startswith(".") for entry in os.listdir(root / "library" / ".by-key"))


@pytest.mark.parametrize(
    "key", ["../../victim.txt", "/tmp/victim-of-a-key", "..", ".whole", "short", "a" * 129, "a/b/c/d/e"]
)
def test_a_key_that_is_a_path_is_refused_by_the_index_and_by_every_use(tmp_path: Path, key: str) -> None:
    library = MemoryLibrary(tmp_path / "library")
    memory = library.put(make_draft())
    (tmp_path / "victim.txt").write_text(VICTIM)
    rewrite(memory, ("absorption_key", key))
    for use in (
        lambda: library.rename("minutes", "other"),
        lambda: library.copy("minutes", "other"),
        lambda: library["minutes"],
    ):
        with pytest.raises(LibraryError, match=r"damaged \(absorption_key"):
            use()
    index = KeyIndex(library.root)
    refused: list[Callable[[], object]] = [
        lambda: index.get(key),
        lambda: index.add(key, "x"),
        lambda: index.remove(key, "x"),
        lambda: index.replace_all({key: ["x"]}),
    ]
    for write in refused:
        with pytest.raises(LibraryError, match="absorption key"):
            write()
    assert (tmp_path / "victim.txt").read_text() == VICTIM
    library.remove("minutes")
    assert library.names() == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("title", "\x1b]0;owned\x07"),
        ("title", "t" * 5000),
        ("document|sha256", "zz" * 32),
        ("base|fingerprint", "not a hash"),
        ("base|id", "a\nb"),
        ("sizes|sentences", -1),
        ("sizes|tasks", 2**70),
        ("cost|seconds", -1.0),
        ("recall|recalled", 99),
        ("recall_history", [{"what": "x", "seconds": 1.0, "probed": 1, "recalled": -1}]),
        ("recipe|training", {"epochs": -1}),
        ("recipe|training", {"no_such_key": 1}),
        ("recipe|adapter", 7),
        ("generation", {"requests": "many"}),
        ("created_at", "0001-01-01T00:00:00Z"),
        ("created_at", "2024-01-01T00:00:00"),
        ("document|parts", [{"start": 5, "title": "a", "source": "b"}]),
        ("files|document.txt", {"sha256": "0" * 64, "size_bytes": -5}),
        ("files|adapter/adapter_config.json", {"sha256": "0" * 64, "size_bytes": 2**40}),
        ("name", "../other"),
    ],
)
def test_a_value_that_no_memory_has_is_refused_by_its_name(tmp_path: Path, place: str, value: Any) -> None:
    memory = MemoryLibrary(tmp_path / "library").put(make_draft())
    rewrite(memory, (place, value))
    with pytest.raises(LibraryError, match="damaged") as caught:
        StoredMemory.open(memory.directory)
    assert place.split("|", maxsplit=1)[0] in str(caught.value)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


ROWS: list[tuple[str, bytes, str]] = [
    ("tasks.jsonl", b'{"question":"q","answer":"a","evidence":[4],"origin":"x"}', "sentence 4 of 4"),
    ("tasks.jsonl", b'{"question":"q","answer":"a","evidence":[-1],"origin":"x"}', "evidence"),
    ("tasks.jsonl", b'{"question":"q","answer":"a","evidence":[],"origin":"x"}', "evidence"),
    ("tasks.jsonl", b'{"question":"q","answer":7,"evidence":[0],"origin":"x"}', "answer"),
    ("tasks.jsonl", b'{"question":"q","answer":"a","evidence":[0],"origin":"x","weight":-1}', "weight"),
    ("tasks.jsonl", b'{"question":"q","answer":"a","evidence":[0],"origin":"x","__class__":"y"}', "__class__"),
    ("tasks.jsonl", b"[1, 2]", "row 1"),
    ("tasks.jsonl", b"[" * 100_000, "row 1"),
    ("recall.jsonl", b'{"sentence":9,"question":"q","expected":"e","answer":"a","recalled":true}', "sentence 9"),
    ("recall.jsonl", b'{"sentence":0,"question":"q","expected":"e","answer":"a","recalled":"yes"}', "recalled"),
    ("training.jsonl", b'{"loss": NaN}', "row 1"),
    ("training.jsonl", b'{"loss": [1]}', "row 1"),
    ("places.jsonl", b'{"start": 1000000}', "behind the end"),
    ("places.jsonl", b'{"start": 5}\n{"start": 2}', "order"),
    ("places.jsonl", b'{"start": 0, "page": -3}', "page"),
    ("document.txt", b"\xff\xfe", "utf-8"),
    ("adapter/adapter_config.json", b"[]", "no JSON object"),
    ("adapter/adapter_config.json", b'{"r": Infinity}', "finite"),
    ("adapter/adapter_config.json", b'{"a":' * 5000 + b"1" + b"}" * 5000, "deeply"),
    ("adapter/adapter_model.safetensors", b"\x00" * 64, "damaged"),
]


def read_all(memory: StoredMemory) -> None:
    _ = memory.document, memory.tasks, memory.training, memory.recall, memory.adapter_config
    memory.load_adapter_state()


@pytest.mark.parametrize(("file", "content", "said"), ROWS)
def test_a_row_that_no_memory_has_is_one_sentence(tmp_path: Path, file: str, content: bytes, said: str) -> None:
    memory = MemoryLibrary(tmp_path / "library").put(make_draft())
    put_file(memory, file, content)
    with pytest.raises(LibraryError, match="is damaged") as caught:
        read_all(StoredMemory.open(memory.directory))
    assert file in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_stranger_wrote_cannot_steer_a_terminal(tmp_path: Path) -> None:
    memory = MemoryLibrary(tmp_path / "library").put(make_draft())
    text = memory.document.text
    put_file(memory, "document.txt", f"\x1b]0;owned\x07\x9b2J{text}".encode())
    put_file(memory, "places.jsonl", b'{"start": 0, "heading": "\\u001b[31mParties"}')
    put_file(memory, "tasks.jsonl", b'{"question":"q\\u001b[2J","answer":"\\u009ba","evidence":[0],"origin":"x"}')
    read = StoredMemory.open(memory.directory)
    place = read.document.place_at(0)
    assert place is not None
    shown = [read.document.text, str(place), read.tasks[0].question, read.tasks[0].answer]
    assert not [code for told in shown for code in "\x1b\x07\x9b" if code in told]
    assert read.document.text.endswith(text)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file=st.sampled_from(
        ["tasks.jsonl", "recall.jsonl", "training.jsonl", "places.jsonl", "adapter/adapter_config.json"]
    ),
    content=st.binary(max_size=60) | hostile.map(lambda value: json.dumps(value).encode()),
)
def test_any_content_of_any_file_is_read_or_refused_in_a_sentence(
    tmp_path: Path, no_fsync: None, file: str, content: bytes
) -> None:
    shutil.rmtree(tmp_path / "library", ignore_errors=True)
    memory = MemoryLibrary(tmp_path / "library").put(make_draft())
    put_file(memory, file, content)
    try:
        read_all(StoredMemory.open(memory.directory))
    except LibraryError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("file", ["memory.json", "document.txt", "adapter/adapter_config.json", "adapter"])
def test_a_link_within_a_memory_is_not_followed(tmp_path: Path, file: str) -> None:
    memory = MemoryLibrary(tmp_path / "library").put(make_draft())
    outside = tmp_path / "outside"
    (memory.directory / file).rename(outside)
    (memory.directory / file).symlink_to(outside)
    with pytest.raises(LibraryError, match="a symbolic link"):
        read_all(StoredMemory.open(memory.directory))
    if file != "memory.json":
        assert any("a symbolic link" in problem.what for problem in memory.problems())


@pytest.mark.parametrize("file", ["memory.json", "document.txt"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path, file: str) -> None:
    memory = MemoryLibrary(tmp_path / "library").put(make_draft())
    (memory.directory / file).unlink()
    os.mkfifo(memory.directory / file)
    with pytest.raises(LibraryError, match="no regular file"):
        read_all(StoredMemory.open(memory.directory))


@pytest.mark.parametrize("file", ["memory.json", "tasks.jsonl"])
def test_a_file_that_is_far_too_large_is_not_read(tmp_path: Path, file: str) -> None:
    memory = MemoryLibrary(tmp_path / "library").put(make_draft())
    os.truncate(memory.directory / file, 1 << 40)  # a hole: a terabyte that takes no room
    with pytest.raises(LibraryError, match=r"1,099,511,627,776 bytes, more than"):
        read_all(StoredMemory.open(memory.directory))
    problems = MemoryLibrary(tmp_path / "library").verify("minutes")
    assert [problem.file for problem in problems] == [file]


def test_weights_that_are_not_finite_are_neither_stored_nor_read(tmp_path: Path) -> None:
    library = MemoryLibrary(tmp_path / "library")
    state = {key: tensor.clone() for key, tensor in make_draft().adapter_state.items()}
    state["model.layers.0.q_proj.lora_A.weight"][1, 2] = float("nan")
    with pytest.raises(LibraryError, match=r"expected finite weights .* 1 of 2 tensors"):
        library.put(make_draft(adapter_state=state))
    assert library.names() == []
    assert not [entry for entry in os.listdir(library.root) if entry.startswith(".lift-")]
    from safetensors.torch import save

    memory = library.put(make_draft())
    put_file(memory, "adapter/adapter_model.safetensors", save({"x": torch.tensor([float("inf")])}))
    with pytest.raises(LibraryError, match="expected finite weights"):
        StoredMemory.open(memory.directory).load_adapter_state()


@pytest.mark.parametrize(
    "change",
    [
        {"megatron_config": {"x": 1}, "megatron_core": "evil_module"},
        {"target_modules": "(a+)+$"},
        {"target_modules": ["(a+)+$"]},
        {"rank_pattern": {"(.*a){30}": 3}},
        {"layers_pattern": "(x*)*"},
        {"exclude_modules": "(a|a)*"},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1]},
        {"r": 2**40},
        {"r": "8"},
        {"lora_alpha": float("inf")},
        {"corda_config": {"cache_file": "/etc/passwd"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_setting_of_peft_that_no_memory_needs_is_refused(tiny_model: BaseModel, change: dict[str, Any]) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], **change}
    with pytest.raises(AdapterError, match="expected"):
        restore_adapter(tiny_model.model, config, {})
