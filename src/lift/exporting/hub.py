"""Memories on a hub: pushed with a model card, pulled and judged like any stranger's files.

A repository holds the files of a memory as they lie in the library, and README.md. What is pulled is bounded by what
its manifest states before it is fetched, and checked against its hashes before it is put into the library.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lift.adapters.lora_config import read_config
from lift.errors import HubError, LibraryError, LiftError, UsageError
from lift.exporting.targets import adapter_form
from lift.memories.library import MemoryLibrary
from lift.memories.manifest import ADAPTER_STATE_FILE, MANIFEST_FILE, MAX_MANIFEST_BYTES, read_manifest
from lift.memories.memory import StoredMemory

_CARD_FILE = "README.md"
_OWN_FILES = {".gitattributes", _CARD_FILE}
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[\w./-]{1,200}", re.ASCII)


def push_memory(
    memory: StoredMemory, repo: str, card: str, *, public: bool = False, endpoint: str | None = None
) -> str:
    """Commit a memory and its model card to the repository "OWNER/NAME", made where there is none; the commit's URL.

    A new repository is private unless `public`. Raises UsageError for a bad name, LibraryError for a damaged memory,
    and HubError where the hub refuses, or keeps something else than a memory there.
    """
    _check_repo(repo)
    if ADAPTER_STATE_FILE not in memory.manifest.files:
        raise UsageError(f"the memory {memory.name!r} is a model at an endpoint and has no weights to push")
    from huggingface_hub import CommitOperationAdd

    files = [CommitOperationAdd(path, content) for path, content in memory.copied_files(memory.name)]
    files.append(CommitOperationAdd(_CARD_FILE, card.encode("utf-8")))
    with _hub_errors(f"push to {repo}"):
        api = _api(endpoint)
        api.create_repo(repo, private=not public, exist_ok=True)
        present = set(api.list_repo_files(repo))
        if present - _OWN_FILES and MANIFEST_FILE not in present:
            raise HubError(
                f"expected a new repository or one with a memory, got {repo} with other files; choose another"
            )
        done = api.create_commit(repo, files, commit_message=f"Memory {memory.name}")
    return str(done.commit_url)


def pull_memory(
    repo: str,
    library: MemoryLibrary,
    name: str | None = None,
    *,
    revision: str = "main",
    replace: bool = False,
    endpoint: str | None = None,
) -> StoredMemory:
    """Fetch the memory in the repository "OWNER/NAME" into the library, under its own name or `name`.

    Raises UsageError for a bad name, HubError where the hub refuses or there is no memory, and LibraryError for one
    that is damaged, too new, or whose name is taken.
    """
    _check_repo(repo)
    if not _REVISION.fullmatch(revision):
        raise UsageError(f"expected a branch, a tag or a commit as --revision, got {revision!r}")
    with tempfile.TemporaryDirectory(prefix="lift-pull-") as temporary:
        place = Path(temporary)
        api = _api(endpoint)
        with _hub_errors(f"pull {repo}"):
            # all files of one commit, whatever is pushed meanwhile
            commit = str(api.model_info(repo, revision=revision).sha)
            size_bytes = _sizes(api, repo, commit, [MANIFEST_FILE]).get(MANIFEST_FILE)
            if size_bytes is None or size_bytes > MAX_MANIFEST_BYTES:
                got = "none" if size_bytes is None else f"one of {size_bytes:,} bytes"
                raise HubError(f"expected a memory with a {MANIFEST_FILE} in {repo}, got {got}; check the name")
            api.hf_hub_download(repo, MANIFEST_FILE, revision=commit, local_dir=place)
        manifest = read_manifest(place)
        if not replace:
            library.check_free(name or manifest.name)
        with _hub_errors(f"pull {repo}"):
            sizes = _sizes(api, repo, commit, list(manifest.files))
            for path, record in manifest.files.items():
                if sizes.get(path) != record.size_bytes:
                    got = f"{sizes[path]:,}" if path in sizes else "no such file"
                    raise HubError(
                        f"expected {path} of {record.size_bytes:,} bytes in {repo}, as its manifest states, got {got}"
                    )
                api.hf_hub_download(repo, path, revision=commit, local_dir=place)
        memory = StoredMemory.open(place, manifest.name)
        _check(memory, repo)
        return library.adopt(memory, name or manifest.name, replace=replace)


def _check(memory: StoredMemory, repo: str) -> None:
    """Raise LibraryError, or AdapterError, for what would fail, or do harm, when it is first used."""
    form = adapter_form(memory.adapter_config)
    if form == "remote" or ADAPTER_STATE_FILE not in memory.manifest.files:
        raise LibraryError(
            f"the memory in {repo} is a model at an endpoint, which would be sent your questions and your key; "
            "it was not pulled"
        )
    if form != "gated-memory":
        read_config(memory.adapter_config)
    _ = memory.document, memory.tasks, memory.training, memory.recall
    memory.load_adapter_state()


def _sizes(api: Any, repo: str, commit: str, paths: list[str]) -> dict[str, int]:
    found = api.get_paths_info(repo, paths, revision=commit)
    return {each.path: int(each.size) for each in found if hasattr(each, "size")}


def _api(endpoint: str | None) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint, library_name="lift")


def _check_repo(repo: str) -> None:
    if not _REPO.fullmatch(repo):
        raise UsageError(f"expected a repository as OWNER/NAME, got {repo!r}")


@contextmanager
def _hub_errors(action: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        yield
    except LiftError:
        raise
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        advice = {
            401: "log in with `hf auth login`",
            403: "use a token that may write there",
            404: "check the name, and log in with `hf auth login` where it is private",
        }.get(status or 0, "try again later")
        raise HubError(f"cannot {action}: the hub answered with status {status}; {advice}") from error
    except Exception as error:  # of the client's own HTTP library, which changes with its version, among others
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise HubError(f"cannot {action} ({cause}); check the network, HF_ENDPOINT and HF_HUB_OFFLINE") from error
