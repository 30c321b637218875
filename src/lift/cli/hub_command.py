"""`lift push` and `lift pull`: memories on a hub."""

from __future__ import annotations

from typing import Annotated

import typer

from lift.cli import progress
from lift.cli.options import JsonOption, LibraryOption, MemoryModelOption
from lift.cli.output import format_recall, say, write_json

_RepoArgument = Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub (HF_ENDPOINT).")]
_PUSH_EPILOG = """\b
Examples:
  lift push minutes ada/minutes
  lift push lease ada/lease --public --licence cc-by-4.0

The text of the memory goes along. Log in first: hf auth login"""
_PULL_EPILOG = """\b
Examples:
  lift pull ada/minutes
  lift pull ada/minutes --name minutes-2024 --revision 1f2e3d4c"""


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module into `app`."""
    app.command("push", epilog=_PUSH_EPILOG)(push)
    app.command("pull", epilog=_PULL_EPILOG)(pull)


def push(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A memory's name, as lift list shows it.")],
    repo: _RepoArgument,
    licence: Annotated[
        str, typer.Option("--licence", metavar="ID", help="Licence of memory and text, as the hub spells it.")
    ] = "other",
    public: Annotated[bool, typer.Option("--public", help="Let everybody read a new repository.")] = False,
    model: MemoryModelOption = None,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a memory, with its text and its recall report, onto a hub.

    A new repository is private. The model card tells what the memory recalls and what it does to other texts.
    """
    from lift.memories.library import MemoryLibrary

    memory = MemoryLibrary(library)[name]
    base = progress.load_shown_model(model or memory.manifest.base.id, as_json, fetch=model is not None)
    from lift.exporting.hub import push_memory
    from lift.exporting.model_card import measure_text_harm, write_card

    with progress.opened_display(as_json) as display:
        display.wait("measuring its harm")
        card = write_card(memory, licence, measure_text_harm(memory, base))
        display.wait("pushing")
        url = push_memory(memory, repo, card, public=public)
    if as_json:
        write_json({"name": name, "repo": repo, "commit": url})
    else:
        say(f"pushed {name} to {url}")


def pull(
    repo: _RepoArgument,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What it is called here.", show_default="as there")
    ] = None,
    revision: Annotated[str, typer.Option("--revision", metavar="R", help="A branch, a tag or a commit.")] = "main",
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of the memory of that name.")] = False,
    library: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a memory from a hub into the library, after every file of it was checked."""
    from lift.memories.library import MemoryLibrary

    with progress.opened_display(as_json) as display:
        display.wait("pulling")
        from lift.exporting.hub import pull_memory

        memory = pull_memory(repo, MemoryLibrary(library), name, revision=revision, replace=replace)
    manifest = memory.manifest
    if as_json:
        write_json({"name": memory.name, "repo": repo, "base": manifest.base.id, "title": manifest.title})
    else:
        say(
            f"pulled {memory.name}, a memory of {manifest.base.id}; recalled "
            f"{format_recall(manifest.recall.recalled, manifest.recall.probed)}"
        )
