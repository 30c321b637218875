"""/v1/files: documents that are to be absorbed, kept until they are deleted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, BackgroundTasks, File, Form, Path, Query, Request, UploadFile
from pydantic import BaseModel
from starlette.responses import FileResponse

from lift.documents.read import HEAD_BYTES, check_readable
from lift.jobs.job import StoredFile
from lift.server.access import key_name, needs, owner_of, parts_of
from lift.server.failures import Refusal, documented
from lift.server.openai_models import Deleted

router = APIRouter(tags=["files"], responses=documented(400, 401, 403, 404, 409, 413, 429))
FileId = Annotated[str, Path(description="The id that the upload returned.")]
_CHUNK_BYTES = 1 << 20
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes as they were uploaded.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class FileObject(BaseModel):
    """An uploaded document."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FileList(BaseModel):
    """A page of the files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


@router.post("/v1/files", dependencies=[needs("absorb")])
def upload(
    request: Request,
    after: BackgroundTasks,
    file: Annotated[UploadFile, File(description="A txt, md, html, pdf, docx or epub file.")],
    purpose: Annotated[Literal["fine-tune", "user_data", "assistants"], Form(description="fine-tune, usually.")],
) -> FileObject:
    """Upload a document. Its first 64 KB say what it is, not its name; no part of the name becomes a path.

    It goes to the disk piece by piece, and is read whole by the job that absorbs it alone.
    """
    name = file.filename or "file"
    content = file.file
    settings = parts_of(request).settings
    largest = settings.max_upload_bytes
    size_bytes = content.seek(0, os.SEEK_END)
    content.seek(0)
    if size_bytes > largest:
        raise Refusal(
            413, f"expected a file of at most {largest:,} bytes, got {size_bytes:,}; split it", code="too_large"
        )
    check_readable(content.read(HEAD_BYTES), name, size_bytes)
    content.seek(0)
    store = parts_of(request).store
    stored = store.add_file(
        name, purpose, _chunks(content), largest, settings.max_stored_bytes, owner=key_name(request)
    )
    # who uploads a document mostly asks next what absorbing it would take
    after.add_task(request.app.state.planner.start)
    return _object(stored)


@router.get("/v1/files", dependencies=[needs("read")])
def list_files(
    request: Request,
    after: Annotated[str | None, Query(description="The id that the last page ended with.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> FileList:
    """The caller's files, the newest first; an admin sees all."""
    found = parts_of(request).store.files(owner_of(request))
    if order == "asc":
        found.reverse()
    found = [file for file in found if purpose is None or file.purpose == purpose]
    if after is not None:
        ids = [file.id for file in found]
        if after not in ids:
            raise Refusal(404, f"there is no file {after[:100]!r} to go on after", code="not_found", param="after")
        found = found[ids.index(after) + 1 :]
    page = [_object(file) for file in found[:limit]]
    return FileList(
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(found) > limit,
    )


@router.get("/v1/files/{file_id}", dependencies=[needs("read")])
def get_file(request: Request, file_id: FileId) -> FileObject:
    """One file's record."""
    return _object(parts_of(request).store.file(file_id, owner_of(request)))


@router.get(
    "/v1/files/{file_id}/content", dependencies=[needs("read")], response_class=FileResponse, responses=_CONTENT
)
def get_content(request: Request, file_id: FileId) -> FileResponse:
    """The bytes, to be saved and never shown: they are somebody's document."""
    store = parts_of(request).store
    file = store.file(file_id, owner_of(request))
    return FileResponse(store.file_path(file.id), media_type="application/octet-stream", filename=file.name)


@router.delete("/v1/files/{file_id}", dependencies=[needs("absorb")])
def delete_file(request: Request, file_id: FileId) -> Deleted:
    """Delete a file that no unfinished job needs."""
    store = parts_of(request).store
    store.remove_file(store.file(file_id, owner_of(request)).id)
    return Deleted(id=file_id, object="file")


def _chunks(content: BinaryIO) -> Iterator[bytes]:
    while chunk := content.read(_CHUNK_BYTES):
        yield chunk


def _object(file: StoredFile) -> FileObject:
    return FileObject(
        id=file.id, bytes=file.bytes, created_at=int(file.created_at), filename=file.name, purpose=file.purpose
    )
