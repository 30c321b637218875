"""The code blocks of the README and of the guide can be run as they stand there, page by page, in order.

A fence of `console` holds shell lines behind "$ " and, below them, what they print. A fence of `python` is one part of
a program that goes on through its page. What stands behind `<!-- not run: reason -->` is only parsed; the command
behind `<!-- in the background -->` is a server that the rest of the page talks to. The quick tests parse each command
line, compile each program, and run what ends in an error before a model is loaded; the slow one runs all of it with the
default model.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import loopback
import pytest
import typer.main

import lift
from lift.cli import app, run
from lift.cli.options import parse_duration
from lift.training.budget import SMALLEST_BUDGET_S

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    "README.md",
    "docs/index.md",
    *sorted(f"docs/guide/{page.name}" for page in (ROOT / "docs/guide").glob("*.md")),
]
# What a page shows and nobody runs: data, and settings of other programs.
DATA_LANGUAGES = {"caddy", "json", "nginx", "yaml"}
FENCE = re.compile(
    r"^(?:<!-- (?:not run: (?P<reason>[^\n]+?)|(?P<served>in the background)) -->\n)?"
    r"```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PORT = 8000  # as the pages have it
# Commands of the system that pages use beside lift and make; each must be looked at when it is added here.
OTHER_PROGRAMS = {
    "cat",
    "cp",
    "curl",
    "echo",
    "journalctl",
    "llama-server",
    "pip",
    "podman",
    "printf",
    "python3",
    "source",
    "systemctl",
    "tail",
    "vllm",
}
# Budgets are shortened to this share of what the pages give, but for the smallest one.
BUDGET_SHARE = 2 / 9


@dataclass(frozen=True)
class Command:
    """One shell line, with continued lines joined, and the lines below it that it prints."""

    line: str
    printed: tuple[str, ...]

    @property
    def error(self) -> str | None:
        """The sentence that the page says it ends in."""
        return next((line for line in self.printed if line.startswith("lift: ")), None)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    code: str
    not_run: str | None
    in_the_background: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[Command]:
        return list(_commands(self.code.splitlines()))


def _commands(lines: list[str]) -> Iterator[Command]:
    index = 0
    while index < len(lines):
        assert lines[index].startswith("$ "), f"expected a command behind '$ ', got {lines[index]!r}"
        line = lines[index][2:]
        index += 1
        while line.endswith("\\") or _is_open(line):
            line += "\n" + lines[index]
            index += 1
        printed = []
        while index < len(lines) and not lines[index].startswith("$ "):
            printed.append(lines[index])
            index += 1
        yield Command(line.replace("\\\n", " "), tuple(printed))


def _is_open(line: str) -> bool:
    try:
        shlex.split(line, comments=True)
    except ValueError:  # a quote that the next line closes
        return True
    return False


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / page).read_text("utf-8")
    assert text.count("\n```") % 2 == 0, f"{page}: a fence is not closed"
    return [
        Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found["language"],
            found["code"],
            not_run=found["reason"],
            in_the_background=found["served"] is not None,
        )
        for found in FENCE.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
CONSOLE = [block for block in BLOCKS if block.language == "console"]
PYTHON = [block for block in BLOCKS if block.language == "python"]
FAILING = [block for block in CONSOLE if not block.not_run and any(command.error for command in block.commands)]


def programs(line: str) -> Iterator[list[str]]:
    """The words of each program of a shell line, without its redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>&;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if word in {"|", "&&", ";"}:
            yield words
            words = []
        else:
            words.append(word)
    yield [
        word
        for index, word in enumerate(words)
        if word not in {">", "<"} and words[max(0, index - 1)] not in {">", "<"}
    ]


@functools.cache
def root_command() -> Any:
    return typer.main.get_command(app)


def parse_lift(words: list[str]) -> None:
    """Raise where the command line does not know a command or an option, or a value is of another kind."""
    command, path, args = root_command(), "lift", list(words)
    if args == ["--version"]:
        return
    while args and args[0] in getattr(command, "commands", {}):
        path += f" {args[0]}"
        command = command.commands[args.pop(0)]
    assert path != "lift", f"there is no command in {words}"
    command.make_context(path, args, obj=0.0)


def test_every_block_says_what_it_is() -> None:
    unknown = [str(block) for block in BLOCKS if block.language not in {"console", "python", *DATA_LANGUAGES}]
    assert not unknown
    indented = [
        f"{page}: {line}"
        for page in PAGES
        for line in (ROOT / page).read_text("utf-8").splitlines()
        if line[:9] == "    lift "
    ]
    assert not indented, "expected commands in a fence of console"


def test_most_blocks_are_run() -> None:
    left_out = [block for block in (*CONSOLE, *PYTHON) if block.not_run]
    print(f"{len(left_out)} of {len(CONSOLE) + len(PYTHON)} blocks are not run:")
    for block in left_out:
        print(f"  {block}: {block.not_run}")
    assert len(left_out) < (len(CONSOLE) + len(PYTHON)) / 2


@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_the_command_lines_are_understood(block: Block) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for command in block.commands:
        for program, *words in programs(command.line):
            if Path(program).name == "lift":
                parse_lift(words)
            elif program == "make":
                assert words[0] in targets, command.line
                assert {word.partition("=")[2] for word in words[1:]} <= set(extras), command.line
            else:
                assert Path(program).name in OTHER_PROGRAMS, command.line
                for named in re.findall(r"\.\[([\w,]+)\]", command.line):
                    assert set(named.split(",")) <= set(extras), command.line
        for path in re.findall(r"\b(?:examples|docs|deploy)/[\w./-]+", command.line):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_the_programs_are_python_and_their_names_are_there(block: Block) -> None:
    for node in ast.walk(ast.parse(block.code, str(block))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lift":
            assert node.attr in lift.__all__, f"{block}: lift.{node.attr}"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lift."):
            # found in the source, since an import would bring torch along
            found = importlib.util.find_spec(node.module)
            assert found is not None and found.origin is not None, f"{block}: {node.module}"
            source = ast.parse(Path(found.origin).read_text("utf-8"))
            there = {each.name for each in source.body if isinstance(each, ast.FunctionDef | ast.ClassDef)}
            assert {name.name for name in node.names} <= there, f"{block}: {ast.unparse(node)}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "json"], ids=str)
def test_the_data_is_json(block: Block) -> None:
    json.loads(block.code)


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "guide" / "install" / "index.html").is_file()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: a folder with the examples, and a library that is empty."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", [block for block in FAILING if "there is a memory named" not in block.code], ids=str)
def test_the_errors_are_those_shown(block: Block, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in block.commands:
        if command.error is None:
            subprocess.run(["bash", "-c", command.line], check=True, cwd=folder)
            continue
        capsys.readouterr()
        assert run(shlex.split(command.line)[1:]) in {1, 2}
        assert capsys.readouterr().err.splitlines() == [command.error]


def shortened_s(seconds: float) -> float:
    """A budget of a page as it is here; one that is too small stays so."""
    return seconds if seconds < SMALLEST_BUDGET_S else max(BUDGET_SHARE * seconds, SMALLEST_BUDGET_S)


def quickened(code: str, port: int) -> str:
    """The code with budgets of seconds instead of minutes, and another port."""

    def shortened(found: re.Match[str]) -> str:
        return f"{found[1]}{shortened_s(parse_duration(found[2])):.0f}"

    code = re.sub(r"(--budget |budget_s=|\"budget_s\": \")(\d+[smh]?)\b", shortened, code)
    return re.sub(rf"(localhost|127\.0\.0\.1):{PORT}\b", rf"\g<1>:{port}", code)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_server(process: subprocess.Popen[str], port: int, patience_s: float = 120) -> None:
    """Until it answers questions and takes jobs."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with status {process.returncode}"
        with contextlib.suppress(httpx.TransportError):
            if loopback.get(f"http://127.0.0.1:{port}/readyz").is_success:
                return
        time.sleep(0.5)
    pytest.fail(f"the server was not ready after {patience_s} s")


class Page:
    """A page that is followed: its shell lines, its program, and its server."""

    def __init__(self) -> None:
        self._port = free_port()
        self._program: dict[str, Any] = {"__name__": "__page__"}
        self._servers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.terminate()
            server.wait(60)

    def follow(self, block: Block) -> None:
        """Run a block; AssertionError where it does not end as the page says."""
        if block.language == "python":
            exec(compile(quickened(block.code, self._port), str(block), "exec"), self._program)
        elif block.in_the_background:
            (command,) = block.commands
            server = subprocess.Popen([*shlex.split(command.line), "--port", str(self._port)], text=True)
            self._servers.append(server)
            await_server(server, self._port)
        else:
            for command in block.commands:
                if not is_about_the_environment(command):
                    self._run(block, command)

    def _run(self, block: Block, command: Command) -> None:
        script = f"set -o pipefail; {quickened(command.line, self._port)}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
        said = f"{block}: {command.line}\n{done.stdout}\n{done.stderr}"
        if command.error is None:
            assert done.returncode == 0, said
        else:
            assert done.returncode in {1, 2}, said
            assert done.stderr.splitlines() == [quickened_error(command.error)], said


def quickened_error(error: str) -> str:
    """The sentence of an error that names the budgets of two absorptions of the page."""

    def shortened(found: re.Match[str]) -> str:
        return f"with a budget of {shortened_s(int(found[1])):.0f} s"

    return re.sub(r"with a budget of (\d+) s", shortened, error)


def is_about_the_environment(command: Command) -> bool:
    """Whether it makes the environment that the tests run in, changes to it, or is the demo, which has a test."""
    return command.line.startswith(("make ", "source "))


def is_run(block: Block) -> bool:
    """Whether there is anything in it that the slow test runs."""
    if block.not_run or block.language in DATA_LANGUAGES:
        return False
    return block.language == "python" or not all(is_about_the_environment(command) for command in block.commands)


def followed_pages() -> list[Any]:
    """The README is followed with the slow tests, the guide by `make test-pages`: it takes minutes."""
    pages = [page for page in PAGES if any(is_run(block) for block in blocks_of(page))]
    return [pytest.param(page, marks=pytest.mark.slow if page == "README.md" else pytest.mark.pages) for page in pages]


@pytest.mark.parametrize("page", followed_pages())
def test_a_page_can_be_followed_from_top_to_bottom(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # one for all pages, since the default model is converted into it
    monkeypatch.setenv("LIFT_CACHE", str(tmp_path_factory.getbasetemp() / "cache-of-the-pages"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    with Page() as followed:
        blocks = [block for block in blocks_of(page) if is_run(block)]
        for block in blocks:
            followed.follow(block)
        if page == "README.md":
            names = lift.Library().names()
            for block in blocks:
                if block.language == "python":
                    followed.follow(block)
            assert lift.Library().names() == names, "it can be run again"
