"""`lift list`, `show`, `rename`, `remove`, `verify`, `backup`, `restore`, `clean`: what is in the library."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lift.cli.options import JsonOption, LibraryOption
from lift.cli.output import (
    build_table,
    describe_generation,
    format_bytes,
    format_recall,
    format_seconds,
    format_share,
    print_facts,
    print_forgotten,
    print_source,
    remark,
    say,
    stdout,
    write_json,
)
from lift.cli.terminal_text import printable_line
from lift.errors import UsageError

if TYPE_CHECKING:
    from lift.jobs.housekeeping import Leftover
    from lift.memories.library import MemoryLibrary, Summary
    from lift.memories.manifest import Manifest, RecallPoint

_NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A memory's name, as lift list shows it.")]
_LIST_EPILOG = """\b
Examples:
  lift list
  lift list --json"""
_SHOW_EPILOG = """\b
Examples:
  lift show minutes
  lift show minutes --source     the text as it was read
  lift show minutes --json"""
_RENAME_EPILOG = """\b
Example:
  lift rename minutes minutes-2024"""
_REMOVE_EPILOG = """\b
Examples:
  lift remove minutes
  lift remove minutes contract --yes
  lift remove minutes --everything     its jobs, uploads and checkpoints too: no trace of it is left"""
_VERIFY_EPILOG = """\b
Examples:
  lift verify             every memory
  lift verify minutes     one of them"""
_BACKUP_EPILOG = """\b
Examples:
  lift backup memories.tar
  lift restore memories.tar --library other"""
_RESTORE_EPILOG = """\b
Examples:
  lift restore memories.tar
  lift restore memories.tar --library other"""
_CLEAN_EPILOG = """\b
Examples:
  lift clean                         what there is, and what of it would go
  lift clean --yes
  lift clean checkpoints --older-than 0 --yes
  lift clean replies models --yes    caches go where they are named alone"""


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module into `app`."""
    app.command("list", epilog=_LIST_EPILOG)(list_memories)
    app.command("show", epilog=_SHOW_EPILOG)(show)
    app.command("rename", epilog=_RENAME_EPILOG)(rename)
    app.command("remove", epilog=_REMOVE_EPILOG)(remove)
    app.command("verify", epilog=_VERIFY_EPILOG)(verify)
    app.command("backup", epilog=_BACKUP_EPILOG)(backup)
    app.command("restore", epilog=_RESTORE_EPILOG)(restore)
    app.command("clean", epilog=_CLEAN_EPILOG)(clean)


def list_memories(library: LibraryOption = None, as_json: JsonOption = False) -> None:
    """List the memories in the library."""
    from lift.memories.library import MemoryLibrary

    memories = MemoryLibrary(library)
    summaries = memories.summaries()
    if as_json:
        write_json([_summary_record(summary) for summary in summaries])
        return
    if not summaries:
        remark(f"no memory in {memories.root} yet; make one with lift absorb FILE")
        return
    columns = ["name", "title", "tokens", "recalled", "size", "made"]
    stdout().print(build_table(columns, [_summary_row(summary) for summary in summaries]))


def show(
    name: _NameArgument,
    source: Annotated[
        bool, typer.Option("--source", help="Print the text as it was read, with its pages and headings.")
    ] = False,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a memory is made of.

    Where it came from, what it cost, how much of the text it recalls, and which sentences it forgot.
    """
    if source:
        _show_source(name, library, as_json)
        return
    from lift.absorbing.recall_report import recorded_report
    from lift.memories.library import MemoryLibrary

    memory = MemoryLibrary(library)[name]
    manifest = memory.manifest
    report = recorded_report(memory)
    if as_json:
        forgotten = [probe for probe in report.rows() if probe["sentence"] in report.forgotten]
        write_json({**manifest.model_dump(mode="json"), "directory": str(memory.directory), "forgotten": forgotten})
        return
    print_facts([*_manifest_facts(manifest), ("directory", str(memory.directory))])
    print_forgotten(report, memory.document)


def _show_source(name: str, library: Path | None, as_json: bool) -> None:
    """The document of a memory, and what of its original is not in it."""
    from lift.memories.library import MemoryLibrary

    document = MemoryLibrary(library)[name].document
    if as_json:
        write_json(
            {
                "name": name,
                "title": document.title,
                "source": document.source,
                "language": document.language,
                "text": document.text,
                "places": [asdict(place) for place in document.places],
                "parts": [asdict(part) for part in document.parts],
                "left_out": [asdict(omission) for omission in document.omissions],
                "warnings": list(document.warnings),
            }
        )
        return
    print_source(document)
    for warning in document.warnings:
        remark(warning)


def rename(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The memory's name.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a memory another name."""
    from lift.memories.library import MemoryLibrary

    memory = MemoryLibrary(library).rename(old, new)
    if as_json:
        write_json({"old": old, "name": memory.name})
    else:
        say(f"{old} is now {memory.name}")


def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="The memories to delete.")],
    everything: Annotated[
        bool,
        typer.Option(
            "--everything",
            help="Their checkpoints, jobs, uploads and events too, and the cached replies of task generators, of all "
            "texts: nothing in the library says then that they were there.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without being asked at a terminal.")] = False,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete memories, their adapter, text and all; this cannot be undone.

    At a terminal you are asked before, unless --yes has answered.
    """
    from lift.memories.library import MemoryLibrary

    memories = MemoryLibrary(library)
    if not yes and not as_json and sys.stdin.isatty():
        what = f"the memory {names[0]!r}" if len(names) == 1 else f"{len(names)} memories ({', '.join(names)})"
        if not typer.confirm(printable_line(f"Delete {what} for good?"), default=False, err=True):
            raise UsageError("nothing was removed")
    if everything:
        _erase(memories, names, as_json)
        return
    for name in names:
        memories.remove(name)
        if not as_json:
            say(f"removed {name}")
    if as_json:
        write_json({"removed": names})


def _erase(memories: MemoryLibrary, names: list[str], as_json: bool) -> None:
    from lift.jobs.housekeeping import erase_memories

    erased = erase_memories(memories, names)
    if as_json:
        write_json({"removed": names, **{key: value for key, value in asdict(erased).items() if key != "memories"}})
        return
    for name in names:
        say(f"removed {name}")
    counts = ("checkpoints", erased.checkpoints), ("jobs", erased.jobs), ("uploads", erased.uploads)
    say(f"and {', '.join(f'{count} {what}' for what, count in (*counts, ('cached replies', erased.replies)))}")
    for copy in erased.copies:
        remark(f"the memory {copy!r} holds the same text, and was kept")


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write; it must be new.")],
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> int:
    """Write all memories into one file, a tar archive with the hash of every byte.

    Other commands and a server may go on meanwhile. Unfinished work and jobs are no part of it. A damaged memory is
    left out and told of; exit status 1 then.
    """
    from lift.memories.backup import write_backup
    from lift.memories.library import MemoryLibrary

    made = write_backup(MemoryLibrary(library), file)
    if as_json:
        left_out = [{"memory": name, "reason": why} for name, why in made.left_out]
        write_json(
            {
                "file": str(made.file),
                "memories": list(made.memories),
                "left_out": left_out,
                "size_bytes": made.size_bytes,
            }
        )
    else:
        for name, why in made.left_out:
            remark(f"lift: {name!r} is not in the backup: {why}")
        say(f"memories: {len(made.memories)}, in {made.file}, {format_bytes(made.size_bytes)}")
    return 1 if made.left_out else 0


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that lift backup has written.")],
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put the memories of a backup into the library: all of them, or none.

    A file that is damaged anywhere is refused whole, and so is one with a memory whose name is taken.
    """
    from lift.memories.backup import restore_backup
    from lift.memories.library import MemoryLibrary

    memories = MemoryLibrary(library)
    names = restore_backup(memories, file)
    if as_json:
        write_json({"library": str(memories.root), "memories": names})
    else:
        say(f"memories: {len(names)}, put into {memories.root}")


def clean(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KIND]...",
            help="checkpoints, jobs, uploads, garbage; and caches, where they are named: replies, models, engines.",
            show_default="all but the caches",
        ),
    ] = None,
    older_than_days: Annotated[
        float,
        typer.Option("--older-than", metavar="DAYS", min=0, help="Keep what was touched within so many days."),
    ] = 7.0,
    yes: Annotated[bool, typer.Option("--yes", help="Clear them; without it they are only listed.")] = False,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what lies beside the memories with its size, and clear it away.

    Checkpoints of work that nobody is at, jobs that have ended, uploads that no job needs, what broken-off commands
    left, and caches. No memory is touched, and nothing that is in use.
    """
    from lift.jobs.housekeeping import CLEARED_UNNAMED, clear_leftovers, list_leftovers
    from lift.memories.clock_guard import DAY_S
    from lift.memories.library import MemoryLibrary

    memories = MemoryLibrary(library)
    found = list_leftovers(memories, kinds or CLEARED_UNNAMED, older_than_days * DAY_S)
    cleared = clear_leftovers(memories, found) if yes else []
    freed_bytes = sum(each.size_bytes for each in cleared)
    if as_json:
        write_json({"leftovers": [asdict(each) for each in found], "cleared": [each.id for each in cleared]})
        return
    if not found:
        say("nothing lies beside the memories")
        return
    rows = [_leftover_row(each, each in cleared) for each in found]
    stdout().print(build_table(["kind", "what", "size", "age", ""], rows))
    due = [each for each in found if not each.kept]
    if yes:
        say(f"cleared {len(cleared)}, {format_bytes(freed_bytes)}")
    elif due:
        said = format_bytes(sum(each.size_bytes for each in due))
        remark(f"nothing was cleared; with --yes {len(due)} of them go, {said}")


def _leftover_row(each: Leftover, is_cleared: bool) -> list[str]:
    state = f"kept ({each.kept})" if each.kept else "cleared" if is_cleared else "would go"
    return [each.kind, each.what, format_bytes(each.size_bytes), format_seconds(each.age_s), state]


def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A memory's name.", show_default="all of them")
    ] = None,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> int:
    """Look for damaged memories.

    Every file is compared with the hash that was written down for it; exit status 1 where one differs.
    """
    from lift.memories.library import MemoryLibrary

    memories = MemoryLibrary(library)
    problems = memories.verify(name)
    checked = [name] if name is not None else memories.names()
    if as_json:
        found = [{"memory": each.memory, "file": each.file, "problem": each.what} for each in problems]
        write_json({"checked": checked, "problems": found})
    else:
        for problem in problems:
            remark(f"lift: {problem}")
        if not problems:
            say(f"{len(checked)} checked, all whole")
    return 1 if problems else 0


def _summary_record(summary: Summary) -> dict[str, Any]:
    manifest = summary.manifest
    if manifest is None:
        return {"name": summary.name, "damage": summary.damage}
    return {
        "name": summary.name,
        "title": manifest.title,
        "source": manifest.document.source,
        "tokens": manifest.sizes.document_tokens,
        "sentences": manifest.sizes.sentences,
        "recalled": manifest.recall.recalled,
        "probed": manifest.recall.probed,
        "size_bytes": manifest.size_bytes,
        "base": manifest.base.id,
        "recipe": manifest.recipe_name,
        "created_at": manifest.model_dump(mode="json")["created_at"],
    }


def _summary_row(summary: Summary) -> list[str]:
    manifest = summary.manifest
    if manifest is None:
        return [summary.name, "damaged: see lift verify", "", "", "", ""]
    return [
        summary.name,
        manifest.title,
        f"{manifest.sizes.document_tokens:,}",
        f"{manifest.recall.share:.0%}" if manifest.recall.probed else "-",
        format_bytes(manifest.size_bytes),
        f"{manifest.created_at.astimezone():%Y-%m-%d}",
    ]


def _manifest_facts(manifest: Manifest) -> list[tuple[str, str]]:
    sizes, cost, recall = manifest.sizes, manifest.cost, manifest.recall
    text = f"{sizes.document_tokens:,} tokens, {sizes.sentences:,} sentences, {sizes.document_chars:,} characters"
    facts = [
        ("name", manifest.name),
        ("title", manifest.title),
        ("source", manifest.document.source),
        ("text", text),
        ("text sha256", manifest.document.sha256),
        ("language", manifest.document.language),
        *(("  left out", warning) for warning in manifest.document.warnings),
        *((f"  part {number}", part.title) for number, part in enumerate(manifest.document.parts, 1)),
        ("recalled", format_recall(recall.recalled, recall.probed)),
        *((f"  after {format_seconds(each.seconds)}", _recalled(each)) for each in manifest.recall_history),
        ("base model", f"{manifest.base.id} (weights {manifest.base.fingerprint[:12]})"),
        ("recipe", manifest.recipe_name),
    ]
    for section, values in manifest.recipe.items():
        if isinstance(values, dict):
            facts.append((f"  {section}", ", ".join(f"{key} {json.dumps(value)}" for key, value in values.items())))
    facts += [
        ("questions", f"{sizes.tasks:,}"),
        *(("  written", line) for line in describe_generation(manifest.generation)),
        ("cost", f"{format_seconds(cost.seconds)}, {cost.steps:,} steps, {cost.tokens:,} tokens on {cost.device}"),
        ("peak memory", format_bytes(cost.peak_memory_bytes) if cost.peak_memory_bytes else "not measured"),
        ("adapter", f"{sizes.adapter_parameters:,} parameters"),
        ("size on disk", format_bytes(manifest.size_bytes)),
        ("made", f"{manifest.created_at.astimezone():%Y-%m-%d %H:%M}"),
        ("versions", ", ".join(f"{package} {version}" for package, version in manifest.versions.items())),
    ]
    return facts


def _recalled(point: RecallPoint) -> str:
    return f"{format_share(point.recalled, point.probed)} {point.what}"
