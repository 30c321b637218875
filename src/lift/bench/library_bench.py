"""How a library grows: seconds to list it, to open a memory, to be ready to answer, to search, to put another."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lift.adapters.attach import create_adapter
from lift.adapters.resident import attach_stored, release
from lift.documents.document import Document
from lift.errors import cleaning_up
from lift.memories.document_search import SEARCH_DIRECTORY, DocumentSearch
from lift.memories.library import MemoryLibrary
from lift.memories.manifest import DOCUMENT_FILE, MANIFEST_FILE, Cost, FileRecord, RecallSummary
from lift.memories.memory import MemoryDraft, StoredMemory
from lift.models.base_model import BaseModel
from lift.models.device import stopwatch
from lift.recipes.recipe import Recipe
from lift.tasks.task import Task

NOTE = (
    "memories of two sentences with a LoRA of rank 1 on one layer, so that thousands of them fit; medians, with the "
    "files in the system's cache; the first memory is put by the library, the others are copied into its directory"
)
_TEXT = "The keeper of the tower lights the lamp at dusk. On the chart it is light number {}."


@dataclass(frozen=True)
class LibrarySize:
    """Of a library of so many memories: bytes of all files, and seconds.

    `list_s`: every memory with its manifest. `open_s`: one by its name. `ask_s`: open, compare with the base model,
    read the adapter from its file and attach it, after which an answer is generated. `index_s`: all texts made ready to
    be searched, once; `search_s`: the documents found that a question is about, of which every one has words, and the
    library looked through for changes before. `put_s`: one more memory.
    """

    memories: int
    directory_bytes: int
    list_s: float
    open_s: float
    ask_s: float
    index_s: float
    search_s: float
    put_s: float


def bench_library(
    base: BaseModel, recipe: Recipe, counts: Sequence[int], say: Callable[[str], None], repeats: int = 5
) -> list[dict[str, Any]]:
    """A LibrarySize as a dictionary for each of the `counts`, in a temporary library that is deleted afterwards.

    The model has no stored adapter attached afterwards. Raises LibraryError where the disk is too small.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="lift-bench-") as directory:
        library = MemoryLibrary(Path(directory))
        draft = _draft(base, recipe)
        first = library.put(draft)
        made = 1
        with cleaning_up(lambda: release(base.model)):
            for count in sorted(counts):
                say(f"a library of {count:,} memories")
                _fill(first, made, count)
                made = max(made, count)
                rows.append(asdict(_measured(base, library, draft, count, repeats)))
    return rows


def _measured(base: BaseModel, library: MemoryLibrary, draft: MemoryDraft, count: int, repeats: int) -> LibrarySize:
    now = stopwatch(base.device)
    names = [_name(turn * count // (repeats + 1)) for turn in range(repeats + 1)]

    def seconds(work: Callable[[str], object]) -> float:
        taken = []
        for name in names:
            begun = now()
            work(name)
            taken.append(now() - begun)
        return median(taken[1:])  # the first fills the system's cache

    def ask(name: str) -> None:
        memory = library[name]
        memory.check_base(base.id, base.fingerprint, base.identity)
        attach_stored(base.model, f"lift-bench-{name}", lambda: (memory.adapter_config, memory.load_adapter_state()))
        release(base.model)

    def put(_: str) -> None:
        library.put(draft_of_one_more)
        library.remove(draft_of_one_more.name)

    shutil.rmtree(library.root / SEARCH_DIRECTORY, ignore_errors=True)
    directory_bytes = sum(path.stat().st_size for path in library.root.rglob("*") if path.is_file())
    search = DocumentSearch(library)
    begun = now()
    search.search("dusk", 1)
    index_s = now() - begun

    def find(name: str) -> None:
        search.search(f"Who lights the lamp of light number {name.removeprefix('memory-')}?", 4)

    draft_of_one_more = MemoryDraft(**{**vars(draft), "name": "one-more", "absorption_key": "one-more-of-them"})
    return LibrarySize(
        memories=count,
        directory_bytes=directory_bytes,
        list_s=seconds(lambda _: library.summaries()),
        open_s=seconds(library.__getitem__),
        ask_s=seconds(ask),
        index_s=index_s,
        search_s=seconds(find),
        put_s=seconds(put),
    )


def _name(number: int) -> str:
    return f"memory-{number:06d}"


def _fill(first: StoredMemory, made: int, count: int) -> None:
    """Copies of the first memory, made by hand under their own names and keys: putting them would sync every file."""
    contents = {path: (first.directory / path).read_bytes() for path in first.manifest.files}
    for number in range(made, count):
        directory = first.directory.with_name(_name(number))
        for path, content in contents.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes(content)
        text = _TEXT.format(_name(number).removeprefix("memory-")).encode()
        (directory / DOCUMENT_FILE).write_bytes(text)
        sha256 = hashlib.sha256(text).hexdigest()
        manifest = first.manifest.model_copy(
            update={
                "name": _name(number),
                "absorption_key": f"{number:064d}",
                "document": first.manifest.document.model_copy(update={"sha256": sha256}),
                "files": {**first.manifest.files, DOCUMENT_FILE: FileRecord(sha256=sha256, size_bytes=len(text))},
            }
        )
        (directory / MANIFEST_FILE).write_bytes(manifest.to_json())


def _draft(base: BaseModel, recipe: Recipe) -> MemoryDraft:
    smallest = recipe.adapter.model_copy(update={"kind": "lora", "layers": (0,), "rank": 1})
    adapter = create_adapter(base.model, smallest, 0)
    config, state = adapter.stored()
    adapter.detach()
    text = _TEXT.format("000000")
    return MemoryDraft(
        name=_name(0),
        document=Document("The tower", text, "made by lift bench"),
        base_id=base.id,
        base_fingerprint=base.fingerprint,
        recipe_name=recipe.name,
        recipe=recipe.model_dump(mode="json"),
        seeds={"training": 0},
        absorption_key=f"{0:064d}",
        adapter_config=config,
        adapter_state={key: value.to(torch.bfloat16) for key, value in state.items()},
        tasks=[Task("Who lights the lamp at dusk?", "The keeper of the tower", (0,), "lift bench")],
        training=[],
        recall=[],
        recall_summary=RecallSummary(sentences=1, probed=0, recalled=0),
        document_tokens=len(base.tokenizer(text, add_special_tokens=False)["input_ids"]),
        sentences=1,
        cost=Cost(seconds=0.0, steps=0, tokens=0, device=str(base.device)),
    )
