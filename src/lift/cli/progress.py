"""What an absorption shows while it runs: a bar on a terminal, a plain line every 15 seconds elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol

from lift.cli.output import format_seconds, remark, stderr

if TYPE_CHECKING:
    from rich.progress import Progress

    from lift.absorption import Planned, Prepared, Trained

_LINE_EVERY_S = 15.0


class Display(Protocol):
    """Where the course of an absorption is shown."""

    def say(self, text: str) -> None:
        """Show one line that stays."""

    def step(self, event: Trained) -> None:
        """Show where the training is."""

    def close(self) -> None:
        """Leave the terminal as it was found."""


class Silent:
    """Shows nothing: for --json without a terminal."""

    def say(self, text: str) -> None:
        """Nothing."""

    def step(self, event: Trained) -> None:
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

    def step(self, event: Trained) -> None:
        """Print where the training is, unless it was said just now."""
        now_s = time.monotonic()
        if now_s >= self._next_at_s:
            self._next_at_s = now_s + self._every_s
            remark(f"training {100 * event.step.progress:.0f} %, {describe_step(event)}")

    def close(self) -> None:
        """Nothing to clean up."""


class Bar:
    """A bar that fills as the training goes on."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._console = stderr()
        self._progress: Progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.description}", style="dim"),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=1.0, visible=False)
        self._progress.start()

    def say(self, text: str) -> None:
        """Print the line above the bar."""
        self._console.print(text, markup=False)

    def step(self, event: Trained) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=event.step.progress, description=describe_step(event), visible=True)

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()


def open_display(as_json: bool) -> Display:
    """A bar on a terminal; else lines, or nothing where a program reads the result."""
    if sys.stderr.isatty():
        return Bar()
    return Silent() if as_json else Lines()


def describe_prepared(event: Prepared) -> list[str]:
    """What the text is made of, and what to be warned of."""
    found = (
        f"“{event.title}”: {event.tokens:,} tokens, {event.sentences:,} sentences; "
        f"{event.tasks:,} questions to learn, {event.held_back:,} held back to test what was learned"
    )
    return [found, *(f"warning: {warning}" for warning in event.warnings)]


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
