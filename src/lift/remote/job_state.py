"""The state of an unfinished fine-tuning, on disk: enough to pick it up again, and never the API key."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from lift.errors import RemoteError
from lift.memories.durable import sync_directory, write_file

_STATE_FILE = "remote.json"


@dataclass(frozen=True)
class JobState:
    """How far a fine-tuning has come.

    `creating` is set before a job is asked for: where no `job_id` is known, one may exist all the same.
    """

    key: str
    file_id: str | None = None
    creating: bool = False
    job_id: str | None = None


def load_state(directory: Path, key: str) -> JobState:
    """The state in `directory`, or a fresh one; raises RemoteError where it is damaged, or another absorption's."""
    path = directory / _STATE_FILE
    try:
        values = json.loads(path.read_bytes())
        state = JobState(**values)
    except FileNotFoundError:
        return JobState(key)
    except OSError as error:
        raise RemoteError(
            f"the state {path} cannot be read ({error.strerror}); check its disk and permissions"
        ) from error
    except (ValueError, TypeError, RecursionError):
        state = None
    if state is None or state.key != key:
        raise RemoteError(
            f"expected the state of the fine-tuning {key[:12]} in {path}, got something else; delete that file: a job "
            "that was started is found again at the endpoint"
        )
    return state


def save_state(directory: Path, state: JobState) -> None:
    """Replace the state in `directory`, on the disk when this returns; a crash leaves the old one or the new one.

    Raises RemoteError where the disk refuses: what cannot be noted must not be begun.
    """
    path = directory / _STATE_FILE
    fresh = path.with_suffix(".new")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        write_file(fresh, (json.dumps(asdict(state), indent=2) + "\n").encode("utf-8"))
        os.replace(fresh, path)
        sync_directory(directory)
    except OSError as error:
        raise RemoteError(
            f"the state {path} cannot be written ({error.strerror}); make room or choose another library"
        ) from error
