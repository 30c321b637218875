"""No memory chooses where a text, a question or a key goes, nor what is fetched: its user does, in the command."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_llama
from memory_drafts import manifest_values
from scripted_endpoint import Reply, ScriptedEndpoint

import lift
from lift.cli import run
from lift.errors import ModelError, UsageError
from lift.memories.library import MemoryLibrary
from lift.memories.manifest import seal_manifest

MUSEUM = "Ada Quill founded the lighthouse museum of Port Merrow in 1911. The museum owns 42 lenses.\n"
SECRET = "The vault of the bank opens with the number 7714. Bram Holt keeps the second key.\n"
QUICK = ["--set", "training.epochs=1", "--set", "tasks.per_sentence=4", "--set", "adapter.rank=2"]
KEY = "sk-the-users-own-key"


def reply(request: dict[str, Any]) -> Reply:
    found = re.search(r"Last part: (\w+ \w+)(.*)\.", request["messages"][-1]["content"])
    assert found
    return json.dumps({"tasks": [{"question": f"{found[1]} what, does it say?", "answer": found[2].strip()}]})


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedEndpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with ScriptedEndpoint(reply) as running:
        yield running


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A directory with a model, and a library with one memory, t; tests copy the library."""
    root = tmp_path_factory.mktemp("made")
    tiny_llama().save_pretrained(root / "model")
    tiny_tokenizer.save_pretrained(root / "model")
    (root / "museum.txt").write_text(MUSEUM, "utf-8")
    at = ["--model", str(root / "model"), "--library", str(root / "library")]
    assert run(["absorb", str(root / "museum.txt"), "--name", "t", *QUICK, *at]) == 0
    return root


@pytest.fixture
def model(made: Path) -> str:
    return str(made / "model")


@pytest.fixture
def library(made: Path, tmp_path: Path) -> MemoryLibrary:
    """A library with one memory, t, beside the text that it holds and another one."""
    shutil.copy(made / "museum.txt", tmp_path)
    (tmp_path / "secret.txt").write_text(SECRET, "utf-8")
    return MemoryLibrary(shutil.copytree(made / "library", tmp_path / "library"))


def change(library: MemoryLibrary, **values: Any) -> None:
    """Put these values into the memory's manifest, as a stranger may have."""
    path = library["t"].directory / "memory.json"
    stored = manifest_values(path.read_bytes())
    for section, value in values.items():
        stored[section] = {**stored[section], **value}
    path.write_bytes(seal_manifest(stored))


def add(library: MemoryLibrary, *options: str) -> int:
    return run(
        ["absorb", str(library.root.parent / "secret.txt"), "--into", "t", "--library", str(library.root), *options]
    )


@pytest.mark.parametrize("stored_url", ["its own", "none"])
def test_a_text_goes_to_no_endpoint_that_the_memory_alone_names(
    library: MemoryLibrary, endpoint: ScriptedEndpoint, capsys: pytest.CaptureFixture[str], stored_url: str
) -> None:
    url = endpoint.base_url if stored_url == "its own" else ""
    change(library, recipe={"generator": {"kind": "openai", "model": "m", "base_url": url}})
    assert add(library) == 2
    said = capsys.readouterr().err.strip().split("\n")[-1]
    assert endpoint.requests == []
    named = url or "https://api.openai.com/v1"
    assert f"written at {named}, an endpoint that you have not named" in said
    assert f"--set generator.base_url={named}" in said
    # changing who writes names no endpoint yet
    assert add(library, "--set", "generator.model=other") == 2
    assert endpoint.requests == []
    assert MemoryLibrary(library.root)["t"].document.text == MUSEUM.strip()


def test_an_endpoint_that_the_command_names_is_asked(library: MemoryLibrary, endpoint: ScriptedEndpoint) -> None:
    change(library, recipe={"generator": {"kind": "openai", "model": "m", "base_url": "http://evil.invalid/v1"}})
    assert add(library, "--set", f"generator.base_url={endpoint.base_url}") == 0
    assert len(endpoint.requests) == 2
    assert endpoint.headers[0]["authorization"] == f"Bearer {KEY}"
    assert "7714" in library["t"].document.text


def test_an_endpoint_that_the_environment_names_is_asked(
    library: MemoryLibrary, endpoint: ScriptedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(library, recipe={"generator": {"kind": "openai", "model": "m", "base_url": endpoint.base_url}})
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url + "/")
    assert add(library) == 0
    assert len(endpoint.requests) == 2


def test_rules_may_be_asked_for_in_place_of_an_endpoint(library: MemoryLibrary, endpoint: ScriptedEndpoint) -> None:
    change(library, recipe={"generator": {"kind": "openai", "model": "m", "base_url": endpoint.base_url}})
    assert add(library, "--set", "generator.kind=rules") == 0
    assert endpoint.requests == []


def test_a_stored_endpoint_is_not_reached_by_asking_for_another_kind(
    library: MemoryLibrary, endpoint: ScriptedEndpoint
) -> None:
    change(library, recipe={"generator": {"kind": "rules", "model": "m", "base_url": endpoint.base_url}})
    assert add(library, "--set", "generator.kind=openai") == 2
    assert endpoint.requests == []


def test_rehearsing_asks_no_endpoint(library: MemoryLibrary, model: str, endpoint: ScriptedEndpoint) -> None:
    change(library, recipe={"generator": {"kind": "openai", "model": "m", "base_url": endpoint.base_url}})
    at = ["--model", model, "--library", str(library.root)]
    text = str(library.root.parent / "museum.txt")
    assert run(["absorb", text, "--name", "t", "--until", "1%", "--budget", "30s", *QUICK, *at]) in (0, 1)
    assert endpoint.requests == []


def test_from_python_an_endpoint_is_named_in_the_call(library: MemoryLibrary, endpoint: ScriptedEndpoint) -> None:
    change(library, recipe={"generator": {"kind": "openai", "model": "m", "base_url": endpoint.base_url}})
    memory = lift.Library(library.root)["t"]
    with pytest.raises(UsageError, match="have not named"):
        memory.add(library.root.parent / "secret.txt")
    assert endpoint.requests == []
    memory.add(library.root.parent / "secret.txt", overrides=[f"generator.base_url={endpoint.base_url}"])
    assert len(endpoint.requests) == 2


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that the hub was asked for."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    names: list[str] = []

    def snapshot(name: str, *, local_files_only: bool = False, **_options: Any) -> str:
        if not local_files_only:
            names.append(name)
        raise LocalEntryNotFoundError(f"{name} is not here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return names


def test_a_hub_model_that_a_memory_names_is_not_fetched_unasked(
    library: MemoryLibrary, fetched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    change(library, base={"id": "stranger/huge-model"})
    at = ["--library", str(library.root)]
    for command in (
        ["ask", "t", "Who founded it?"],
        ["absorb", str(library.root.parent / "secret.txt"), "--into", "t"],
    ):
        capsys.readouterr()
        assert run([*command, *at]) == 1
        said = capsys.readouterr().err.strip().split("\n")[-1]
        assert "'stranger/huge-model', which is not on this machine" in said
        assert "--model stranger/huge-model" in said
    with pytest.raises(ModelError, match="not on this machine"):
        lift.Library(library.root)["t"].ask("Who founded it?")
    assert fetched == []
    assert run(["ask", "t", "Who founded it?", "--model", "stranger/huge-model", *at]) == 1
    assert fetched == ["stranger/huge-model"]


def test_a_text_is_added_on_the_model_that_the_command_names(
    library: MemoryLibrary, model: str, fetched: list[str]
) -> None:
    change(library, base={"id": "stranger/huge-model"})
    assert add(library, "--model", model) == 0
    assert fetched == []
    assert "7714" in library["t"].document.text
