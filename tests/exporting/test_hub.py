"""Memories pushed to and pulled from a hub on loopback."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from memory_drafts import make_draft, manifest_values
from scripted_hub import ScriptedHub, scripted_hub

from lift.errors import HubError, LibraryError, LiftError, UsageError
from lift.exporting.hub import pull_memory, push_memory
from lift.exporting.model_card import TextHarm, write_card
from lift.memories.library import MemoryLibrary
from lift.memories.manifest import ADAPTER_CONFIG_FILE, ADAPTER_STATE_FILE, DOCUMENT_FILE, MANIFEST_FILE, seal_manifest
from lift.memories.memory import StoredMemory

REPO = "ada/minutes"
_KEPT = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedHub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # its own protocol for large files is not spoken here; the client then uses Git LFS
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with scripted_hub() as running:
        yield running


@pytest.fixture
def memory(tmp_path: Path) -> StoredMemory:
    return MemoryLibrary(tmp_path / "mine").put(make_draft(adapter_config=_KEPT))


def push(memory: StoredMemory, hub: ScriptedHub, **options: bool) -> str:
    card = write_card(memory, "cc-by-4.0", TextHarm(20.0, 21.5))
    return push_memory(memory, REPO, card, endpoint=hub.url, **options)


def refused(hub: ScriptedHub, tmp_path: Path, kind: type[LiftError], repo: str = REPO) -> str:
    """What pulling is refused with: one line, and nothing is in the library."""
    library = MemoryLibrary(tmp_path / "theirs")
    with pytest.raises(kind) as caught:
        pull_memory(repo, library, endpoint=hub.url)
    assert "\n" not in str(caught.value)
    assert library.names() == []
    return str(caught.value)


def forge(hub: ScriptedHub, path: str, content: bytes) -> None:
    """A stranger's file, which the stranger's manifest states the hash and the size of."""
    files = hub.repositories[REPO]
    files[path] = content
    manifest = manifest_values(files[MANIFEST_FILE])
    manifest["files"][path] = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    files[MANIFEST_FILE] = seal_manifest(manifest)


def test_what_is_pushed_is_pulled(hub: ScriptedHub, memory: StoredMemory, tmp_path: Path) -> None:
    url = push(memory, hub)
    assert url.startswith(hub.url)
    pulled = pull_memory(REPO, MemoryLibrary(tmp_path / "theirs"), "theirs", endpoint=hub.url)
    assert pulled.problems() == []
    assert pulled.name == "theirs"
    assert pulled.document == memory.document
    assert pulled.tasks == memory.tasks
    assert pulled.recall == memory.recall
    assert pulled.manifest.adapter_id == memory.manifest.adapter_id


def test_a_new_repository_is_private_unless_asked_otherwise(hub: ScriptedHub, memory: StoredMemory) -> None:
    push(memory, hub)
    assert REPO in hub.private
    hub.repositories.clear()
    hub.private.clear()
    push(memory, hub, public=True)
    assert REPO in hub.repositories
    assert REPO not in hub.private


def test_the_model_card_tells_recall_licence_and_harm(hub: ScriptedHub, memory: StoredMemory) -> None:
    push(memory, hub)
    card = hub.repositories[REPO]["README.md"].decode()
    front, page = card.split("---\n")[1:3]
    assert json.loads(front.split("license: ")[1].split("\n")[0]) == "cc-by-4.0"
    assert "1 of 2 (50%)" in page
    assert "20.00" in page
    assert "21.50" in page


def test_a_title_cannot_write_the_card(memory: StoredMemory, tmp_path: Path) -> None:
    draft = make_draft(name="other", adapter_config=_KEPT)
    title = 'x"\nlicense: mit\n---\n# <script>|'
    object.__setattr__(draft.document, "title", title)
    written = MemoryLibrary(tmp_path / "mine").put(draft)
    card = write_card(written, "other", TextHarm(1.0, 1.0))
    assert card.count("\nlicense:") == 1
    assert "<script>" not in card.replace("\\<script", "")


def test_another_version_is_a_commit_of_the_same_repository(
    hub: ScriptedHub, memory: StoredMemory, tmp_path: Path
) -> None:
    push(memory, hub)
    newer = MemoryLibrary(tmp_path / "mine").put(make_draft(version="two", adapter_config=_KEPT), replace=True)
    push(newer, hub)
    assert len(hub.commits) == 2
    assert pull_memory(REPO, MemoryLibrary(tmp_path / "theirs"), endpoint=hub.url).document == newer.document


def test_a_repository_with_other_files_is_left_alone(hub: ScriptedHub, memory: StoredMemory) -> None:
    hub.repositories[REPO] = {"model.safetensors": b"weights"}
    with pytest.raises(HubError, match="other files"):
        push(memory, hub)
    assert hub.repositories[REPO] == {"model.safetensors": b"weights"}


@pytest.mark.parametrize("path", [DOCUMENT_FILE, ADAPTER_STATE_FILE])
def test_a_changed_file_is_refused(hub: ScriptedHub, memory: StoredMemory, tmp_path: Path, path: str) -> None:
    push(memory, hub)
    content = hub.repositories[REPO][path]
    hub.repositories[REPO][path] = content[:-1] + bytes([content[-1] ^ 1])
    assert path in refused(hub, tmp_path, LibraryError)


def test_a_file_larger_than_its_manifest_states_is_not_fetched(
    hub: ScriptedHub, memory: StoredMemory, tmp_path: Path
) -> None:
    push(memory, hub)
    hub.repositories[REPO][DOCUMENT_FILE] += b"x" * 1000
    hub.downloaded.clear()
    assert DOCUMENT_FILE in refused(hub, tmp_path, HubError)
    assert DOCUMENT_FILE not in hub.downloaded


def test_a_file_that_is_missing_is_named(hub: ScriptedHub, memory: StoredMemory, tmp_path: Path) -> None:
    push(memory, hub)
    del hub.repositories[REPO][DOCUMENT_FILE]
    assert DOCUMENT_FILE in refused(hub, tmp_path, HubError)


def test_an_adapter_that_imports_code_is_refused(hub: ScriptedHub, memory: StoredMemory, tmp_path: Path) -> None:
    push(memory, hub)
    forge(hub, ADAPTER_CONFIG_FILE, json.dumps({**_KEPT, "auto_mapping": None, "megatron_core": "os"}).encode())
    assert "megatron_core" in refused(hub, tmp_path, LiftError)


def test_a_model_at_a_strangers_endpoint_is_refused(hub: ScriptedHub, memory: StoredMemory, tmp_path: Path) -> None:
    push(memory, hub)
    forge(hub, ADAPTER_CONFIG_FILE, json.dumps({"adapter": "remote", "base_url": "http://evil.invalid"}).encode())
    assert "endpoint" in refused(hub, tmp_path, LibraryError)


def test_no_memory_under_that_name(hub: ScriptedHub, tmp_path: Path) -> None:
    assert "404" in refused(hub, tmp_path, HubError)
    hub.repositories[REPO] = {"README.md": b"hello"}
    assert MANIFEST_FILE in refused(hub, tmp_path, HubError)


@pytest.mark.parametrize("repo", ["minutes", "a/b/c", "../x", "ada/minutes --force", ""])
def test_a_name_that_is_no_repository(hub: ScriptedHub, tmp_path: Path, repo: str) -> None:
    assert "OWNER/NAME" in refused(hub, tmp_path, UsageError, repo)


def test_a_hub_that_is_not_there(memory: StoredMemory, hub: ScriptedHub, tmp_path: Path) -> None:
    with pytest.raises(HubError) as caught:
        pull_memory(REPO, MemoryLibrary(tmp_path / "theirs"), endpoint="http://127.0.0.1:9")
    assert "\n" not in str(caught.value)


def test_a_taken_name_is_refused_before_anything_large_is_fetched(
    hub: ScriptedHub, memory: StoredMemory, tmp_path: Path
) -> None:
    push(memory, hub)
    library = MemoryLibrary(tmp_path / "mine")
    hub.downloaded.clear()
    with pytest.raises(LibraryError, match="already"):
        pull_memory(REPO, library, endpoint=hub.url)
    assert hub.downloaded == [MANIFEST_FILE]
    assert library.names() == ["minutes"]
