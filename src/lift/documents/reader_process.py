"""The process that parses one file of unknown origin: `python -m lift.documents.reader_process`, started by sandbox.py.

The file is its standard input, the order the one variable of its environment. To standard output goes a line of JSON
and, where there is one, the text in UTF-8.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from lift.documents.document import Document
from lift.documents.parse import MAX_BYTES, parse_document
from lift.documents.sandbox import ORDER_VARIABLE
from lift.errors import DocumentError

_OPEN_FILES = 64
_DEATH_SIGNAL_OPTION = 1  # PR_SET_PDEATHSIG
_FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.")


def main() -> None:
    """Parse standard input within the limits of the order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    order: dict[str, Any] = json.loads(os.environ.pop(ORDER_VARIABLE))
    end_with_parent(order["parent"])
    limit_resources(order["memory_bytes"], order["processor_s"])
    forbid_network()
    text = ""
    try:
        document = parse_document(sys.stdin.buffer.read(MAX_BYTES + 1), order["name"], order["title"], ocr=order["ocr"])
        head, text = _head(document), document.text
    except DocumentError as error:
        head = {"error": str(error)}
    except MemoryError:
        head = {"is_over_limits": True}
    except Exception as error:
        head = {"error": _unforeseen(order["name"], error)}
    sys.stdout.buffer.write(json.dumps(head).encode("ascii") + b"\n")
    sys.stdout.buffer.write(text.encode("utf-8"))


def limit_resources(memory_bytes: int, processor_s: float) -> None:
    """Limit this process for good, where the system can: memory, processor time, files; no core, no other process."""
    try:
        import resource
    except ImportError:  # Windows: the parent's deadline is all there is
        return
    seconds = max(1, round(processor_s))
    for name, wanted_soft, wanted_hard in (
        ("RLIMIT_AS", memory_bytes, memory_bytes),
        ("RLIMIT_CPU", seconds, seconds + 1),
        ("RLIMIT_FSIZE", 0, 0),
        ("RLIMIT_CORE", 0, 0),
        ("RLIMIT_NOFILE", _OPEN_FILES, _OPEN_FILES),
        ("RLIMIT_NPROC", 0, 0),
    ):
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        _, most = resource.getrlimit(kind)
        bounded = most != resource.RLIM_INFINITY
        soft, hard = (min(wanted, most) if bounded else wanted for wanted in (wanted_soft, wanted_hard))
        try:
            resource.setrlimit(kind, (soft, hard))
        except (OSError, ValueError):
            continue  # macOS knows a limit of memory that it does not let anyone set


def forbid_network() -> None:
    """Let nothing in this process open a connection, look up a name or start a program, for good: no file needs it."""

    def refuse(event: str, _arguments: object) -> None:
        if event.startswith(_FORBIDDEN):
            raise PermissionError(f"expected a file that asks for nothing, got one for which {event} was called")

    sys.addaudithook(refuse)


def end_with_parent(parent: int) -> None:
    """Have the system end this process with `parent`, which may be killed while it waits; on Linux alone."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_DEATH_SIGNAL_OPTION, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _head(document: Document) -> dict[str, Any]:
    places = [(place.start, place.page, place.heading) for place in document.places]
    omissions = [(omission.kind, omission.page) for omission in document.omissions]
    return {"title": document.title, "places": places, "omissions": omissions}


def _unforeseen(name: str, error: Exception) -> str:
    """A sentence for an error that no reader expects, with its place in the code, for whoever mends it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{name}: expected a file that can be read, got one on which its reader failed ({type(error).__name__} in "
        f"{Path(last.filename).name}, line {last.lineno}); save it anew or in another format"
    )


if __name__ == "__main__":
    main()
