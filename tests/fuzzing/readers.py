"""Everything that reads bytes of a stranger's, as functions of bytes: what they may raise is what they say they raise.

Of an archive the bytes are one member: the first byte says which, the others are its new content, so that what is tried
is the reader and not the unpacking. `zip` has the archive's own bytes.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lift.documents.parse import parse_document
from lift.errors import DataError, DocumentError, LibraryError, LiftError, ModelError, RecipeError, UsageError

DATA = Path(__file__).resolve().parents[1] / "data"
CORPORA = DATA / "fuzzing"
Reader = Callable[[bytes], object]
_MEMBER_ENDINGS = (".xml", ".rels", ".opf", ".xhtml", ".ncx", ".html")


def _document(name: str, data: bytes) -> None:
    try:
        parse_document(data, name)
    except DocumentError:
        return


@cache
def archive_members(name: str) -> Mapping[str, bytes]:
    """The members of a whole archive of that kind; those that a reader parses stand first."""
    with zipfile.ZipFile(DATA / "formats" / name) as archive:
        found = {each: archive.read(each) for each in archive.namelist()}
    return dict(sorted(found.items(), key=lambda each: not each[0].endswith(_MEMBER_ENDINGS)))


def _archive(name: str, data: bytes) -> None:
    if not data:
        return
    members = dict(archive_members(name))
    parsed = [each for each in members if each.endswith(_MEMBER_ENDINGS)]
    members[parsed[data[0] % len(parsed)]] = data[1:]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for each, content in members.items():
            archive.writestr(each, content)
    _document(name, packed.getvalue())


def _in_file(ending: str, read: Callable[[Path], object], allowed: tuple[type[Exception], ...], data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=ending) as file:
        file.write(data)
        file.flush()
        try:
            read(Path(file.name))
        except allowed:
            return


def _manifest(data: bytes) -> None:
    from lift.memories.manifest import MANIFEST_FILE, read_manifest

    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / MANIFEST_FILE).write_bytes(data)
        try:
            read_manifest(Path(directory))
        except LibraryError:
            return


def _rows(data: bytes) -> None:
    from lift.memories import row_validation
    from lift.memories.manifest import Sizes

    sizes = Sizes(document_chars=100, document_tokens=20, sentences=5, tasks=3, adapter_parameters=10)
    for read in (
        partial(row_validation.read_tasks, sizes=sizes),
        partial(row_validation.read_probes, sizes=sizes),
        row_validation.read_steps,
        row_validation.read_adapter_config,
        partial(row_validation.read_places, text_chars=100),
    ):
        try:
            read(data)
        except ValueError:
            continue


def _safetensors(data: bytes) -> None:
    from lift.memories.memory import _bytes_to_tensors

    try:
        _bytes_to_tensors(data)
    except ValueError:
        return


def _gguf(data: bytes) -> None:
    from lift.models.gguf_conversion import read_header

    _in_file(".gguf", read_header, (ModelError,), data)


def _recipe(data: bytes) -> None:
    from lift.recipes.recipe import load_recipe

    _in_file(".toml", lambda path: load_recipe(str(path)), (RecipeError,), data)


def _plan(data: bytes) -> None:
    from lift.evaluation.suite_plan import load_plan

    _in_file(".toml", load_plan, (LiftError,), data)


def _records(data: bytes) -> None:
    from lift.evaluation.data_files import BadData
    from lift.evaluation.suites.qa import read
    from lift.evaluation.suites.suite import Reading, SuiteSettings

    def read_all(path: Path) -> None:
        list(read(Reading(SuiteSettings(data=path), lambda _text: [], BadData(skip=True))))

    _in_file(".jsonl", read_all, (DataError,), data)


def _questions(data: bytes) -> None:
    from lift.cli.ask_command import read_questions

    _in_file(".jsonl", read_questions, (UsageError,), data)


def _keys(data: bytes) -> None:
    from lift.server.keys import read_keys

    _in_file(".jsonl", read_keys, (UsageError,), data)


def _bodies() -> list[type[BaseModel]]:
    from lift.server.compare_api import CompareBody
    from lift.server.library_api import Renaming
    from lift.server.openai_jobs import JobBody
    from lift.server.openai_shapes import ChatBody, CompletionBody
    from lift.server.plan_api import PlanBody

    return [ChatBody, CompletionBody, JobBody, PlanBody, CompareBody, Renaming]


def _http_body(data: bytes) -> None:
    """As the server does it: JSON, the route's body, and a sentence for what is wrong with it."""
    from lift.server.invalid import describe_invalid

    try:
        value: Any = json.loads(data[1:])
    except (ValueError, RecursionError):
        return
    bodies = _bodies()
    body = bodies[data[0] % len(bodies)]
    try:
        asked = body.model_validate(value)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        said = describe_invalid(faults, value)
        assert said.message and "\n" not in said.message
        return
    request = getattr(asked, "request", None)
    if request is not None:
        from lift.serving.request import check_request

        try:
            check_request(request("memory", 300.0))
        except UsageError:
            return


_TEXTS = ("txt", "md", "html", "rtf", "eml", "mbox", "mhtml", "csv", "ipynb", "srt", "vtt", "pdf")
READERS: dict[str, Reader] = {
    **{ending: partial(_document, f"file.{ending}") for ending in _TEXTS},
    **{
        name.rpartition(".")[2]: partial(_archive, name)
        for name in ("lock.docx", "boats.xlsx", "lock.pptx", "lock.odt", "boats.ods", "lock.odp", "lock.epub")
    },
    "zip": partial(_document, "file.docx"),
    "manifest": _manifest,
    "rows": _rows,
    "safetensors": _safetensors,
    "gguf": _gguf,
    "recipe": _recipe,
    "plan": _plan,
    "records": _records,
    "questions": _questions,
    "keys": _keys,
    "http-body": _http_body,
}
