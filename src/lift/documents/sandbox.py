"""A file of unknown origin is parsed in a child process, which can do no more harm than to be ended.

A few bytes can be made to keep a parser busy for years, to fill the memory, or to break a library written in C. So the
child gets the file as its standard input and nothing else: no environment, no further files to write, and limits of
memory, processor time and waiting that grow with the file. It hands back the text, never objects of Python. On systems
without such limits (Windows) it has the deadline alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from lift.documents.document import Document, Omission, Place
from lift.errors import DocumentError

ORDER_VARIABLE = "LIFT_READING"
_MIB = 1024 * 1024
# What every file may take, and what it may take more for each MiB (measured: docs of the formats take less than half).
_MEMORY_BYTES, _MEMORY_A_BYTE = 768 * _MIB, 24
_PROCESSOR_S, _PROCESSOR_S_A_MIB, _MAX_PROCESSOR_S = 20.0, 20.0, 900.0
_REPLY_BYTES, _REPLY_A_BYTE = 64 * _MIB, 3
# What character recognition takes besides: its models, and seconds for each page, of which a MiB holds 30 and more.
_OCR_MEMORY_BYTES = 3 * 1024 * _MIB
_OCR_PROCESSOR_S, _OCR_PROCESSOR_S_A_MIB, _MAX_OCR_PROCESSOR_S = 120.0, 400.0, 4 * 3600.0
# of a busy machine a process gets a share alone
_WAITED_A_PROCESSOR_S = 4.0
_KEPT_VARIABLES = ("SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class SandboxLimits:
    """Limits of the child: bytes of memory, seconds of processor time, seconds of waiting, bytes handed back."""

    memory_bytes: int
    processor_s: float
    deadline_s: float
    reply_bytes: int


def limits_for(size_bytes: int, ocr: bool = False) -> SandboxLimits:
    """The limits of a file of that size, with or without character recognition."""
    processor_s = min(_PROCESSOR_S + _PROCESSOR_S_A_MIB * size_bytes / _MIB, _MAX_PROCESSOR_S)
    if ocr:
        more_s = _OCR_PROCESSOR_S + _OCR_PROCESSOR_S_A_MIB * size_bytes / _MIB
        processor_s = min(processor_s + more_s, _MAX_OCR_PROCESSOR_S)
    return SandboxLimits(
        memory_bytes=_MEMORY_BYTES + _MEMORY_A_BYTE * size_bytes + (_OCR_MEMORY_BYTES if ocr else 0),
        processor_s=processor_s,
        deadline_s=_WAITED_A_PROCESSOR_S * processor_s,
        reply_bytes=_REPLY_BYTES + _REPLY_A_BYTE * size_bytes,
    )


def parse_in_child(
    file: IO[bytes],
    size_bytes: int,
    name: str,
    title: str | None,
    limits: SandboxLimits | None = None,
    *,
    ocr: bool = False,
) -> Document:
    """Parse an open file, of which nothing has been read, as parse_document does, in a process of its own.

    Raises DocumentError where there is no text in it, or the child went over its limits or broke down.
    """
    limits = limits or limits_for(size_bytes, ocr)
    order = {"name": name, "title": title, "ocr": ocr, "parent": os.getpid(), **asdict(limits)}
    # -S: no module of the environment runs at the start, and the paths are the parent's; -P: nor one of this directory
    command = [sys.executable, "-P", "-S", "-B", "-X", "utf8", "-m", "lift.documents.reader_process"]
    child = subprocess.Popen(
        command,
        stdin=file,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(order),
    )
    reply = _Reply(child, limits.reply_bytes)
    try:
        status = reply.wait(time.monotonic() + limits.deadline_s)
    finally:
        reply.close()
    if status is None or status in _KILLED:
        raise _over_limits(name, limits)
    if reply.is_too_long:
        raise DocumentError(
            f"{name}: expected a text of at most {limits.reply_bytes:,} bytes, got more; split the file"
        )
    if status != 0:
        raise DocumentError(
            f"{name}: expected a file that can be read, got one on which its reader broke down (status {status}); "
            "save it anew or in another format"
        )
    return _document(reply.content(), name, limits)


# By the system: for the processor time, or since the machine has no memory left.
_KILLED = frozenset(-getattr(signal, kind).value for kind in ("SIGXCPU", "SIGKILL") if hasattr(signal, kind))


class _Reply:
    """The child's output, gathered up to `most_bytes` in a thread, so that there is a deadline on every system."""

    def __init__(self, child: subprocess.Popen[bytes], most_bytes: int) -> None:
        self._child = child
        self._most_bytes = most_bytes
        self._chunks: list[bytes] = []
        self.is_too_long = False
        self._thread = threading.Thread(target=self._gather, name="document-reply", daemon=True)
        self._thread.start()

    def wait(self, until: float) -> int | None:
        """The child's exit status; None where it has not ended by that time of the monotonic clock."""
        self._thread.join(max(0.0, until - time.monotonic()))
        if self.is_too_long:
            return 0
        try:
            return self._child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """End the child if it still runs."""
        self._child.kill()
        self._child.wait()
        self._thread.join()
        assert self._child.stdout is not None
        self._child.stdout.close()

    def content(self) -> bytes:
        """All of it."""
        return b"".join(self._chunks)

    def _gather(self) -> None:
        assert self._child.stdout is not None
        left_bytes = self._most_bytes
        while chunk := os.read(self._child.stdout.fileno(), _CHUNK_BYTES):
            left_bytes -= len(chunk)
            if left_bytes < 0:
                self.is_too_long = True
                return
            self._chunks.append(chunk)


def _environment(order: dict[str, object]) -> dict[str, str]:
    """The child's environment: the paths of this process's modules, and the order."""
    package = Path(__file__).resolve().parents[2]
    paths = [str(package), *(os.path.abspath(path) for path in sys.path if path)]
    kept = {variable: os.environ[variable] for variable in _KEPT_VARIABLES if variable in os.environ}
    # the child may start no thread: libraries that count would else start one for each processor
    kept |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), ORDER_VARIABLE: json.dumps(order)}


def _document(reply: bytes, name: str, limits: SandboxLimits) -> Document:
    """The document of a reply: a line of JSON, then the text in UTF-8."""
    from pydantic import BaseModel, ConfigDict, ValidationError

    class Head(BaseModel):
        model_config = ConfigDict(strict=True, extra="forbid")
        error: str | None = None
        is_over_limits: bool = False
        title: str = ""
        places: list[tuple[int, int | None, str | None]] = []
        omissions: list[tuple[str, int | None]] = []

    head, _, text = reply.partition(b"\n")
    try:
        said = Head.model_validate_json(head)
        places = tuple(Place(start, page, heading) for start, page, heading in said.places)
        omissions = tuple(Omission(kind, page) for kind, page in said.omissions)
        document = Document(said.title, text.decode("utf-8"), name, places, omissions=omissions)
    except (ValidationError, UnicodeDecodeError) as error:
        raise DocumentError(
            f"{name}: expected a file that can be read, got one on which its reader broke down; save it anew"
        ) from error
    if said.is_over_limits:
        raise _over_limits(name, limits)
    if said.error is not None:
        raise DocumentError(said.error)
    return document


def _over_limits(name: str, limits: SandboxLimits) -> DocumentError:
    return DocumentError(
        f"{name}: expected a file that can be read within {limits.processor_s:.0f} s and "
        f"{limits.memory_bytes // _MIB:,} MiB, got one that takes more; split it, or save its text alone as txt"
    )
