"""Every error that Lift raises on purpose.

One root class, so that a door can turn any of them into one sentence and an exit status. A message says what was
expected, what was got (with the value), and what to do about it. An error in the clean-up after a run never takes the
place of the run's own (cleaning_up).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

# difflib's ratio; below it a name that is called near is a guess that helps nobody
_NEAR = 0.6


def nearest_names(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """Those of `known` that `name` was most likely meant to be, the nearest first; none where nothing is near.

    Near are names that are spelt alike, whatever the case, and names that hold what was typed.
    """
    import difflib

    folded = {each.casefold(): each for each in known}
    typed = name.casefold()
    near = difflib.get_close_matches(typed, folded, n=count, cutoff=_NEAR)
    near += [each for each in folded if len(typed) > 1 and typed in each and each not in near]
    return [folded[each] for each in near[:count]]


def nearest_hint(name: str, known: Iterable[str], words: str = "the nearest is") -> str:
    """An end such as `; the nearest is 'bm25'` for a sentence that lists what is known; empty where nothing is near."""
    near = nearest_names(name, known)
    return f"; {words} {near[0]!r}" if near else ""


class LiftError(Exception):
    """Root of all errors raised on purpose; `exit_status` is what the command line returns for it."""

    exit_status = 1


class UsageError(LiftError):
    """The caller asked for something that cannot be asked for (unknown option, bad name, bad value)."""

    exit_status = 2


class DocumentError(LiftError):
    """A file could not be read as a document."""


class DataError(LiftError):
    """A data file of an evaluation is not what it should be."""


class ModelError(LiftError):
    """A base model could not be found, converted or loaded."""


class RecipeError(UsageError):
    """A recipe, or an override of one, is not valid."""


class AdapterError(LiftError):
    """An adapter does not fit the model that it was to be attached to, or its weights are not whole."""


class LibraryError(LiftError):
    """A memory could not be found, read, written, or is damaged."""


class BusyAbsorptionError(LibraryError):
    """Another process, or another thread, is absorbing the same text in the same way."""


class WrongBaseModelError(LibraryError):
    """A memory was opened on another base model than the one that it was trained on."""


class BudgetError(UsageError):
    """The stated budget is below the smallest that always ends in a memory."""


class TrainingError(LiftError):
    """A training has come to a loss, a gradient or weights that are not finite."""


class InterruptedAbsorption(LiftError):
    """Absorbing was asked to stop; what was done so far is kept and can be gone on with."""


class GenerationError(LiftError):
    """A task generator could not be reached, or none of its replies could be used."""


class ReplyCacheError(LiftError):
    """Replies that were paid for cannot be kept on the disk, or read from it."""


class RemoteError(LiftError):
    """A remote fine-tuning service refused, failed, or answered what could not be understood."""


class ExportError(LiftError):
    """A memory cannot go to another program, cannot be read from one, or could not be replayed there."""


class HubError(LiftError):
    """A hub refused, could not be reached, or keeps what is no memory under that name."""


class BenchError(LiftError):
    """A part of a benchmark, run in a process of its own, failed or was ended."""


class JobError(LiftError):
    """The queue of absorptions, or a file given to it, could not be read or written."""


class UnknownJobError(JobError):
    """There is no job, or no uploaded file, of that id."""


class JobConflictError(JobError):
    """A job or an uploaded file is not in a state in which that can be done with it."""


class FileTooLargeError(JobError):
    """An uploaded file, or all files together, would have more bytes than are taken."""


class QueueFull(LiftError):
    """A question could not be taken, since too many are waiting; `retry_after_s` is when a place is likely free."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class FarmError(LiftError):
    """A farm has no cluster, or none of its workers can start."""


class EngineError(LiftError):
    """A server of another program that answers for Lift refused, cannot be reached, or lacks what is needed."""


class EngineClosed(LiftError):
    """A question could not be taken or answered, since the engine is closing or was never started."""


@contextlib.contextmanager
def cleaning_up(*steps: Callable[[], object]) -> Iterator[None]:
    """Take all `steps` behind the block, each whatever became of the block and of the steps before it.

    The first error is the one that is raised; those that follow it are its notes. A generator that is closed has no
    error of its own.
    """
    failure: BaseException | None = None
    try:
        yield
    except GeneratorExit:
        failure = _take(steps, None)
        if failure is None:
            raise
    except BaseException as error:
        _take(steps, error)
        raise
    else:
        failure = _take(steps, None)
    if failure is not None:
        raise failure


def _take(steps: tuple[Callable[[], object], ...], failure: BaseException | None) -> BaseException | None:
    """Take every step; returns the first error, `failure` where there was one before."""
    for step in steps:
        try:
            step()
        except Exception as error:
            if failure is None:
                failure = error
            else:
                failure.add_note(f"the clean-up failed as well: {type(error).__name__}: {error}")
    return failure
