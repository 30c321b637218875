"""Every command that the pages and the help texts show can be typed as it stands there."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from lift.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "examples/README.md"]
LINKING_PAGES = [*PAGES, *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]


@functools.cache
def root_command() -> Any:
    return typer.main.get_command(app)


def epilogs(command: Any) -> list[str]:
    inner = [text for each in getattr(command, "commands", {}).values() for text in epilogs(each)]
    return [command.epilog or "", *inner]


def command_lines(text: str) -> list[str]:
    """Shell lines that call lift, without prompt, pipes, redirections and remarks that stand off to the right."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        match = re.search(r"(?:^\s*(?:\$ )?|\| )(?:\.venv/bin/)?lift ([a-z-].*)", line)
        if match and not re.match(r"\s*(?:\$ )?lift: ", line):
            found.append(re.split(r"\s{3,}| [|>] | # ", match[1])[0])
    return found


def shown() -> list[str]:
    pages = [(ROOT / page).read_text("utf-8") for page in PAGES]
    return sorted({line for text in [*pages, *epilogs(root_command())] for line in command_lines(text)})


@pytest.mark.parametrize("line", shown())
def test_the_command_is_understood(line: str) -> None:
    command, path, args = root_command(), "lift", shlex.split(line)
    if args == ["--version"]:
        return
    while args and args[0] in getattr(command, "commands", {}):
        path += f" {args[0]}"
        command = command.commands[args.pop(0)]
    assert path != "lift", f"there is no command in {line!r}"
    command.make_context(path, args, obj=0.0)


def test_the_readme_shows_every_command() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert not [name for name in root_command().commands if f"`lift {name}" not in text]


@pytest.mark.parametrize("page", LINKING_PAGES)
def test_the_files_linked_to_are_there(page: str) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / page).read_text("utf-8"))
    assert not [link for link in links if not ((ROOT / page).parent / link).exists()]
