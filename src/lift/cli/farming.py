"""`lift absorb --farm`: the progress of all documents, and a summary of how they ended."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import closing, redirect_stdout
from typing import TYPE_CHECKING

import typer

from lift.cli import progress
from lift.cli.output import build_table, format_recall, format_seconds, print_facts, stdout, write_json
from lift.cli.stopping import stopped_by_signals

if TYPE_CHECKING:
    from lift.farm.document_absorber import FarmSettings
    from lift.farm.farm import FarmReport

_SLOWEST_SHOWN = 5


def absorb_on_farm(
    sources: Sequence[str],
    address: str,
    settings: FarmSettings,
    workers: int,
    worker_cpus: int,
    worker_gpus: float,
    as_json: bool,
) -> None:
    """Absorb each document of `sources`; ends with exit status 1 where one of them is not in the library."""
    from lift.absorbing.resolved_recipe import check_local
    from lift.farm.destination import open_destination
    from lift.farm.farm import FarmReport, farm_events
    from lift.farm.ray_pool import RayPool, WorkerResources
    from lift.farm.sources import find_documents

    check_local(settings.recipe)
    open_destination(settings.library)  # what is refused is refused before a cluster is started
    documents = find_documents(sources)
    resources = WorkerResources(worker_cpus, worker_gpus)
    stop = threading.Event()
    report: FarmReport | None = None
    with progress.opened_display(as_json) as display:
        display.say(f"{len(documents):,} documents for {workers} workers")
        display.wait("starting the workers")
        with (
            # Ray prints remarks of its own; standard output has the report alone
            redirect_stdout(sys.stderr),
            stopped_by_signals(stop, display.say) as safe_stops,
            closing(RayPool(address, settings, workers, resources)) as pool,
        ):
            safe_stops.set()
            for event in farm_events(documents, pool, workers, stop=stop):
                if isinstance(event, FarmReport):
                    report = event
                    break
                if event.note is not None:
                    display.say(event.note)
                display.count("absorbing document", event.done + event.failed, event.total, event.eta_s)
    assert report is not None, "the events end with the report or raise"
    print_report(report, settings.library, as_json)
    if report.failed:
        raise typer.Exit(1)


def print_report(report: FarmReport, library: str, as_json: bool) -> None:
    """How a run went: its documents, recall, seconds, and what failed with its reasons."""
    trained = [each for each in report.absorbed if not each.reused]
    probed, recalled = sum(each.probed for each in report.absorbed), sum(each.recalled for each in report.absorbed)
    work_s = sum(each.seconds for each in trained)
    if as_json:
        write_json(
            {
                "library": library,
                "documents": report.documents,
                "absorbed": len(trained),
                "reused": len(report.absorbed) - len(trained),
                "failed": {
                    document: {"error": failure.kind, "message": failure.sentence}
                    for document, failure in sorted(report.failed.items())
                },
                "failures_by_kind": report.failures_by_kind,
                "recall": {"probed": probed, "recalled": recalled},
                "seconds": round(report.seconds, 3),
                "working_seconds": round(report.working_s, 3),
                "worker_seconds": round(work_s, 3),
                "trained_tokens": sum(each.tokens for each in trained),
                "workers_lost": report.workers_lost,
                "stopped": report.stopped,
            }
        )
        return
    failed = [f"{count} {kind}" for kind, count in report.failures_by_kind.items()]
    facts = [
        ("library", library),
        ("documents", f"{report.documents:,}"),
        ("absorbed", f"{len(trained):,}, and {len(report.absorbed) - len(trained):,} that were there already"),
        ("failed", f"{len(report.failed):,}{': ' if failed else ''}{', '.join(failed)}"),
        ("recalled", format_recall(recalled, probed)),
        ("time", format_seconds(report.seconds)),
    ]
    if trained:
        facts.append(("a document", f"{format_seconds(work_s / len(trained))} of a worker"))
    if report.workers_lost:
        facts.append(("workers lost", str(report.workers_lost)))
    print_facts(facts)
    slowest = sorted(trained, key=lambda each: -each.seconds)[:_SLOWEST_SHOWN]
    if slowest:
        rows = [
            (each.memory, format_seconds(each.seconds), format_recall(each.recalled, each.probed)) for each in slowest
        ]
        stdout().print(build_table(("slowest", "time", "recalled"), rows))
    if report.failed:
        failures = [(document, failure.sentence) for document, failure in sorted(report.failed.items())]
        stdout().print(build_table(("failed", "why"), failures))
