"""`lift models`: the base models that are known to work, and the one that this machine should use."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

import typer

from lift.cli import progress
from lift.cli.options import JsonOption
from lift.cli.output import build_table, format_bytes, stdout, write_json

if TYPE_CHECKING:
    from lift.absorbing.base_model_choice import ModelEstimate

_EPILOG = """\b
Examples:
  lift models
  lift models --json

Nothing is fetched. Speeds are estimates from a trial of seconds on this machine."""

_LEGEND = """\
GB: memory while it absorbs; ! is more than is free. trains, answers: tokens a
second. learns: the time for 1,000 words. weights: where they are on this
machine. warm start: whether one comes with Lift, else the time to make one.
* was run with Lift; the others are listed by their configuration alone.
"""


def add_commands(app: typer.Typer) -> None:
    """Put the command of this module into `app`."""
    app.command("models", epilog=_EPILOG)(models)


def models(as_json: JsonOption = False) -> None:
    """List base models that are known to work, and say which one this machine should use."""
    with progress.opened_display(as_json) as display:
        display.wait("timing this machine")
        from lift.absorbing.base_model_survey import survey_models

        survey = survey_models()
    machine = survey.machine
    if as_json:
        write_json(
            {
                "machine": {**asdict(machine), "measured_model": survey.reference and survey.reference.known.model},
                "models": [_record(each) for each in survey.estimates],
                "recommended": survey.choice.here and survey.choice.here.known.model,
                "recommended_if_fetched": survey.choice.fetched and survey.choice.fetched.known.model,
                "advice": survey.advice,
                "warm_start_command": survey.warm_start_command,
            }
        )
        return
    title = f"On {machine.device} in {machine.dtype}, {format_bytes(machine.memory_bytes)} free"
    columns = ["model", "GB", "trains", "answers", "learns", "weights", "warm start"]
    stdout().print(build_table(columns, map(_row, survey.estimates), title))
    stdout().print(_LEGEND, markup=False)
    for (licence, restriction), group in groupby(sorted(survey.estimates, key=_licence), key=_licence):
        bound = f" ({restriction})" if restriction else ""
        stdout().print(f"{licence}{bound}: {', '.join(each.known.model for each in group)}", markup=False)
    stdout().print()
    stdout().print(survey.advice, markup=False)
    if survey.warm_start_command:
        stdout().print(f"\n  {survey.warm_start_command}", markup=False, soft_wrap=True)


def _licence(estimate: ModelEstimate) -> tuple[str, str]:
    return estimate.known.licence, estimate.known.restriction


def _row(estimate: ModelEstimate) -> tuple[str, ...]:
    return (
        estimate.known.name + (" *" if estimate.known.ran else ""),
        f"{estimate.memory_bytes / 1e9:.1f}" + ("" if estimate.fits else "!"),
        f"{estimate.train_tokens_per_s:,.0f}",
        f"{estimate.answer_tokens_per_s:,.1f}",
        _about(estimate.absorb_s),
        estimate.weights or "no",
        "yes" if estimate.warm_start else _about(estimate.warm_start_s),
    )


def _about(seconds: float) -> str:
    count, unit = (seconds / 60, "min") if seconds < 3600 else (seconds / 3600, "h")
    return f"{count:.1f} {unit}" if count < 10 else f"{count:.0f} {unit}"


def _record(estimate: ModelEstimate) -> dict[str, Any]:
    values = asdict(estimate)
    return {**values.pop("known").model_dump(mode="json"), **values}
