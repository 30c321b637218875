"""Absorption events -> job events: words for people, numbers for programs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from lift.absorbing.absorption_events import (
    AbsorptionEvent,
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
from lift.jobs.job import JobEventDraft, Level
from lift.training.checkpoint import CheckpointDamaged, SavingFailed

_STEPS_EVERY_S = 0.5


class StepThinner:
    """Lets a step through every `every_s` seconds, and always the last one before something else happens."""

    def __init__(self, every_s: float = _STEPS_EVERY_S) -> None:
        self._every_s = every_s
        self._next_at_s = 0.0
        self._held: Trained | None = None

    def pass_on(self, event: AbsorptionEvent) -> Iterator[AbsorptionEvent]:
        """The events to pass on when `event` happens."""
        if not isinstance(event, Trained):
            yield from self.rest()
            yield event
        elif time.monotonic() < self._next_at_s:
            self._held = event
        else:
            self._held = None
            self._next_at_s = time.monotonic() + self._every_s
            yield event

    def rest(self) -> Iterator[Trained]:
        """The events to pass on when nothing more happens."""
        if self._held is not None:
            yield self._held
            self._held = None


def job_event_of(event: AbsorptionEvent) -> JobEventDraft:
    """The event of a job for an event of an absorption."""
    message, data = _described(event)
    level: Level = "warn" if isinstance(event, WaitingForOther | SavingFailed | CheckpointDamaged) else "info"
    return JobEventDraft(type(event).__name__.lower(), message, finite(data), level)


def finite(value: Any) -> Any:
    """`value` with None for numbers that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return value


def _described(event: AbsorptionEvent) -> tuple[str, dict[str, Any]]:
    match event:
        case WaitingForOther() | SavingFailed() | CheckpointDamaged():
            return str(event), {"why": event.why}
        case Writing():
            said = f"{event.sentences_done:,} of {event.sentences:,} sentences have questions, {event.kept:,} kept"
            return said, asdict(event)
        case Prepared():
            said = f"the text has {event.tokens:,} tokens in {event.sentences:,} sentences"
            if event.streaming:
                said += "; questions are learned as they are being written"
            else:
                said += f"; {event.tasks:,} questions to learn, {event.held_out:,} held out"
            return said, {**asdict(event), "generation": dict(event.generation)}
        case Fitting():
            return f"attention fitted, epoch {event.epoch} of {event.epochs}, error {event.error:.3f}", asdict(event)
        case Planned():
            said = f"{event.epochs:.1f} epochs at {event.tokens_per_s:.0f} tokens/s, {event.predicted_s:.0f} s in all"
            return said, asdict(event)
        case Trained():
            step = event.step
            said = f"step {step.step}, epoch {step.epoch + 1}, loss {step.loss:.3f}"
            return said, {**asdict(step), "eta_s": event.eta_s}
        case Probing():
            asked = f"{event.asked:,} of " if event.asked else ""
            return f"{asked}{event.probes:,} questions that were held out are being asked", asdict(event)
        case Probed():
            return f"{event.what}: {event.recalled} of {event.probed} sentences recalled", asdict(event)
        case Finished():
            memory, recall = event.memory, event.memory.manifest.recall
            said = f"the memory {memory.name!r} recalls {recall.recalled} of {recall.probed} sentences asked about"
            if event.reused:
                said = f"the memory {memory.name!r} was there already, and nothing was trained"
            data = {
                "memory": memory.name,
                "absorption_key": memory.manifest.absorption_key,
                "reused": event.reused,
                "seconds": event.seconds,
                "predicted_s": event.predicted_s,
                "recall": recall.model_dump(),
            }
            return said, data
