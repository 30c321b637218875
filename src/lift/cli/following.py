"""A run that makes a memory, shown event by event; Ctrl-C stops it where that is safe."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lift.cli import progress
from lift.cli.stopping import stopped_by_signals

if TYPE_CHECKING:
    from lift.absorbing.absorption_events import AbsorptionEvent, Finished
    from lift.remote.openai_finetuning import FineTuningEvent


def follow(events: Iterator[AbsorptionEvent | FineTuningEvent], stop: threading.Event, as_json: bool) -> Finished:
    """Show what happens until it is finished."""
    from lift.absorbing.absorption_events import (
        Finished,
        Fitting,
        Planned,
        Prepared,
        Probed,
        Probing,
        Trained,
        WaitingForOther,
        Writing,
    )
    from lift.remote.finetuning_jobs import ProviderJobEvent
    from lift.remote.openai_finetuning import Estimated, JobCreated
    from lift.training.checkpoint import CheckpointDamaged, SavingFailed

    display = progress.open_display(as_json)
    finished: Finished | None = None
    try:
        with stopped_by_signals(stop, display.say) as training:
            for event in events:
                match event:
                    case WaitingForOther() | SavingFailed() | CheckpointDamaged():
                        display.say(progress.describe_trouble(event))
                    case Writing():
                        display.writing(event)
                    case Prepared():
                        _say_all(display, progress.describe_prepared(event))
                        display.wait("measuring the speed of this machine")
                    case Fitting():
                        display.fitting(event)
                    case Planned():
                        _say_all(display, progress.describe_planned(event))
                        training.set()
                    case Trained():
                        training.set()
                        display.step(event)
                    case Probing():
                        training.clear()
                        progress.show_probing(display, event)
                    case Estimated():
                        display.say(str(event.estimate))
                    case JobCreated():
                        training.set()
                        display.say(f"job {event.job_id} is on its way; Ctrl-C leaves it running")
                    case ProviderJobEvent():
                        display.say(event.message)
                    case Probed():
                        display.say(progress.describe_probed(event))
                    case Finished():
                        finished = event
    finally:
        display.close()
    assert finished is not None, "the events end with Finished or raise"
    return finished


def _say_all(display: progress.Display, lines: list[str]) -> None:
    for line in lines:
        display.say(line)
