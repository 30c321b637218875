"""Progress of a command: a bar on a terminal, a plain line every 15 seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from lift.cli.output import describe_generation, format_recall, format_seconds, remark, stderr

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from lift.absorbing.absorption_events import (
        Fitting,
        Planned,
        Prepared,
        Probed,
        Probing,
        Trained,
        WaitingForOther,
        Writing,
    )
    from lift.models.base_model import BaseModel
    from lift.training.checkpoint import CheckpointDamaged, SavingFailed

_LINE_EVERY_S = 15.0
# Below this a remaining time is told in whole seconds.
_SECONDS_ALONE = 59.5


class Display(Protocol):
    """Where the course of a command is shown."""

    def say(self, text: str) -> None:
        """Show one line that stays."""

    def wait(self, what: str) -> None:
        """Show that `what` is being done, which tells nothing of how far it is."""

    def count(self, what: str, done: int, total: int, eta_s: float | None) -> None:
        """Show how many of `total` are done, and the seconds that the others take, where that is known."""

    def step(self, event: Trained) -> None:
        """Show where the training is."""

    def writing(self, event: Writing) -> None:
        """Show how far the task generator is."""

    def fitting(self, event: Fitting) -> None:
        """Show how far the attention distillation is."""

    def close(self) -> None:
        """Leave the terminal as it was found."""


class Silent:
    """Shows nothing: for --json without a terminal."""

    def say(self, text: str) -> None:
        """Nothing."""

    def wait(self, what: str) -> None:
        """Nothing."""

    def count(self, what: str, done: int, total: int, eta_s: float | None) -> None:
        """Nothing."""

    def step(self, event: Trained) -> None:
        """Nothing."""

    def writing(self, event: Writing) -> None:
        """Nothing."""

    def fitting(self, event: Fitting) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Lines:
    """Plain lines, the training's at most every `every_s` seconds."""

    def __init__(self, every_s: float = _LINE_EVERY_S) -> None:
        self._every_s = every_s
        self._next_at_s = time.monotonic()

    def say(self, text: str) -> None:
        """Print the line."""
        remark(text)

    def wait(self, what: str) -> None:
        """Nothing: a line would come however short the wait is."""

    def count(self, what: str, done: int, total: int, eta_s: float | None) -> None:
        """Print how far it is, unless something was said just now."""
        self._say_sometimes(f"{what} {describe_count(done, total, eta_s)}")

    def step(self, event: Trained) -> None:
        """Print where the training is, unless it was said just now."""
        self._say_sometimes(f"training {100 * event.step.progress:.0f} %, {describe_step(event)}")

    def writing(self, event: Writing) -> None:
        """Print how far the task generator is, unless it was said just now."""
        share = 100 * event.sentences_done / max(event.sentences, 1)
        self._say_sometimes(f"writing questions {share:.0f} %, {describe_writing(event)}")

    def fitting(self, event: Fitting) -> None:
        """Print how far the attention distillation is, unless it was said just now."""
        self._say_sometimes(f"fitting attention {100 * event.epoch / event.epochs:.0f} %, error {event.error:.3f}")

    def _say_sometimes(self, text: str) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_at_s:
            self._next_at_s = now_s + self._every_s
            remark(text)

    def close(self) -> None:
        """Nothing to clean up."""


class Bar:
    """A bar that fills as the training goes on."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._console = stderr()
        self._progress: Progress = Progress(
            TextColumn("{task.fields[what]}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.description}", style="dim"),
            console=self._console,
            transient=True,
            # rich would write what is printed to this console, standard error, also where it belongs in a file
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._progress.add_task("", total=1.0, visible=False, what="training")
        self._waiting: TaskID | None = None
        self._progress.start()

    def say(self, text: str) -> None:
        """Print the line above the bar."""
        self._console.print(text, markup=False)

    def wait(self, what: str) -> None:
        """Show a bar that pulses, in the place of the other."""
        self._progress.update(self._task, visible=False)
        self._end_wait()
        # a task that has a total cannot lose it again
        self._waiting = self._progress.add_task("", total=None, what=what)

    def count(self, what: str, done: int, total: int, eta_s: float | None) -> None:
        """Move the bar."""
        self._move(what, done / max(total, 1), describe_count(done, total, eta_s))

    def step(self, event: Trained) -> None:
        """Move the bar."""
        self._move("training", event.step.progress, describe_step(event))

    def writing(self, event: Writing) -> None:
        """Move the bar."""
        self._move("writing questions", event.sentences_done / max(event.sentences, 1), describe_writing(event))

    def fitting(self, event: Fitting) -> None:
        """Move the bar."""
        self._move("fitting attention", event.epoch / event.epochs, f"error {event.error:.3f}")

    def _move(self, what: str, share: float, description: str) -> None:
        self._end_wait()
        self._progress.update(self._task, completed=share, description=description, visible=True, what=what)

    def _end_wait(self) -> None:
        if self._waiting is not None:
            self._progress.remove_task(self._waiting)
            self._waiting = None

    def close(self) -> None:
        """Remove the bar."""
        with suppress(OSError):  # a terminal that is gone hides no error of the run
            self._progress.stop()


def open_display(as_json: bool) -> Display:
    """A bar on a terminal; else lines, or nothing where a program reads the result."""
    if sys.stderr.isatty():
        return Bar()
    return Silent() if as_json else Lines()


def load_shown_model(name: str, as_json: bool, *, fetch: bool = True, dtype: str | None = None) -> BaseModel:
    """The base model `name`, with what its loading takes shown meanwhile; options and what is raised as load_model."""
    with opened_display(as_json) as display:
        display.wait("loading the model")
        from lift.models.load import load_model

        return load_model(name, dtype=dtype, on_progress=None if as_json else display.say, fetch=fetch)


@contextmanager
def opened_display(as_json: bool) -> Iterator[Display]:
    """As open_display, closed when the block is left."""
    display = open_display(as_json)
    try:
        yield display
    finally:
        display.close()


def show_probing(display: Display, event: Probing) -> None:
    """Show how many of the held-out questions are asked."""
    if not event.asked:
        display.say(f"asking {event.probes:,} questions that were held out")
    display.count("asking held-out questions", event.asked, event.probes, event.eta_s)


def describe_count(done: int, total: int, eta_s: float | None) -> str:
    """2, 12, 40.3 -> "3 of 12, about 40 s left": the one that is being worked at, of all."""
    left = ""
    if eta_s is not None and eta_s >= 1:
        about = f"{eta_s:.0f} s" if eta_s < _SECONDS_ALONE else format_seconds(eta_s)
        left = f", about {about} left"
    return f"{min(done + 1, total)} of {total}{left}"


def describe_prepared(event: Prepared) -> list[str]:
    """The size of the text, and warnings."""
    found = f"“{event.title}”: {event.tokens:,} tokens, {event.sentences:,} sentences; "
    if event.streaming:
        found += "questions are learned as they are being written"
    else:
        found += f"{event.tasks:,} questions to learn, {event.held_out:,} held out to test what was learned"
    return [found, *describe_generation(event.generation), *(f"warning: {warning}" for warning in event.warnings)]


def describe_writing(event: Writing) -> str:
    """Tasks kept, what failed, and the remaining time."""
    left = f", {format_seconds(event.eta_s)} left" if event.eta_s is not None else ""
    return f"{event.kept:,} kept, {event.rejected:,} rejected, {event.failed:,} requests failed{left}"


def describe_trouble(event: WaitingForOther | SavingFailed | CheckpointDamaged) -> str:
    """Remarks about other processes and the disk."""
    return f"warning: {event}"


def describe_probed(event: Probed) -> str:
    """Recall at one moment."""
    return f"{event.what}: {format_recall(event.recalled, event.probed)} (after {format_seconds(event.seconds)})"


def describe_planned(event: Planned) -> list[str]:
    """How long it will take, and what to be warned of."""
    course = f"{event.epochs:.1f} epochs at {event.tokens_per_s:.0f} tokens/s"
    return [
        f"{course}; expected to be done after {format_seconds(event.predicted_s)}",
        *(f"warning: {warning}" for warning in event.warnings),
    ]


def describe_step(event: Trained) -> str:
    """Step, epoch, loss, speed and remaining time."""
    step = event.step
    tokens_per_s = step.tokens / max(step.seconds, 1e-9)
    return (
        f"step {step.step}, epoch {step.epoch + 1}, loss {step.loss:.3f}, "
        f"{tokens_per_s:.0f} tokens/s, {format_seconds(event.eta_s)} left"
    )
