"""The `lift` command as its users meet it: its exit status, and what it prints where."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lift.cli import run
from lift.cli.options import CONTEXT_NAMES, parse_duration
from lift.cli.output import format_bytes, format_seconds
from lift.errors import UsageError

LIFT = Path(sys.executable).with_name("lift")
README = Path(__file__).resolve().parents[2] / "README.md"
COMMANDS = ["absorb", "plan", "ask", "chat", "list", "show", "rename", "remove", "verify", "recipes", "models"]
COMMANDS += ["backup", "restore", "clean"]


def lift_process(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The installed command, in a process of its own."""
    return subprocess.run([LIFT, *args], input=stdin, capture_output=True, text=True, timeout=120, check=False)


def lift(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The same command line in this process, which has imported everything already."""
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode("utf-8")), "utf-8"))
        status = run(args)
    return subprocess.CompletedProcess(list(args), status, out.getvalue(), err.getvalue())


def assert_one_sentence(result: subprocess.CompletedProcess[str], status: int) -> None:
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("lift: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files that cannot be read as documents."""
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "broken.docx").write_bytes(b"PK\3\4broken")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4\nnothing")
    (tmp_path / "dir").mkdir()
    return tmp_path


def test_help_names_every_command() -> None:
    result = lift_process("--help")
    assert result.returncode == 0
    assert all(f"\n  {command} " in result.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_an_example_and_json(command: str) -> None:
    result = lift(command, "--help")
    assert result.returncode == 0
    assert "Example" in result.stdout
    assert f"  lift {command}" in result.stdout
    assert "--json" in result.stdout


@pytest.mark.parametrize("module", ["lift", "lift.cli"])
def test_importing_brings_in_nothing_heavy(module: str) -> None:
    heavy = {"torch", "transformers", "spacy", "pydantic", "numpy", "rich", "pypdfium2", "lxml", "peft"}
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(result.stdout.split())


def test_the_names_of_the_package_are_there() -> None:
    import lift

    assert len([getattr(lift, name) for name in lift.__all__]) == 8
    with pytest.raises(AttributeError, match="module 'lift' has no attribute 'nosuch'"):
        lift.nosuch  # noqa: B018


def test_version() -> None:
    from lift import __version__

    assert lift_process("--version").stdout == f"lift {__version__}\n"


def test_an_empty_library() -> None:
    assert json.loads(lift("list", "--json").stdout) == []
    listed = lift("list")
    assert (listed.returncode, listed.stdout) == (0, "")
    assert "lift absorb" in listed.stderr
    assert lift("verify").returncode == 0


def test_recipes() -> None:
    listed = json.loads(lift("recipes", "--json").stdout)
    assert "default" in [recipe["name"] for recipe in listed]
    shown = json.loads(lift("recipes", "show", "default", "--json").stdout)
    assert shown["training"]["epochs"] >= 1
    assert "training.epochs" in lift("recipes", "show", "default").stdout


@pytest.mark.parametrize("name", ["empty.txt", "binary.txt", "broken.docx", "broken.pdf", "dir", "missing.txt"])
def test_what_is_no_document_ends_in_one_sentence(name: str, files: Path) -> None:
    result = lift("absorb", str(files / name), "--name", "x")
    assert_one_sentence(result, 1)
    assert name in result.stderr
    assert json.loads(lift("list", "--json").stdout) == []


def test_no_text_on_standard_input_ends_in_one_sentence() -> None:
    assert_one_sentence(lift("absorb", "-", "--name", "x", stdin=" \n"), 1)


@pytest.mark.parametrize("command", [["ask", "nosuch", "Who?"], ["show", "nosuch"], ["remove", "nosuch"]])
def test_an_unknown_memory_ends_in_one_sentence(command: list[str]) -> None:
    result = lift(*command)
    assert_one_sentence(result, 1)
    assert "'nosuch'" in result.stderr


def test_an_unknown_model_ends_in_one_sentence() -> None:
    result = lift("absorb", str(README), "--name", "x", "--model", "/nosuch")
    assert_one_sentence(result, 1)
    assert "/nosuch" in result.stderr


def test_a_process_ends_in_the_same_sentence_and_status() -> None:
    for args, status in ((["ask", "nosuch", "Who?"], 1), (["ask", "x"], 2), ([], 2)):
        alone, here = lift_process(*args), lift(*args)
        assert (alone.returncode, alone.stdout, alone.stderr) == (status, here.stdout, here.stderr)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nosuch"], "nosuch"),
        (["absorb"], "FILE"),
        (["absorb", "x.txt", "--nosuch"], "--nosuch"),
        (["absorb", "x.txt", "--budget", "soon"], "'soon'"),
        (["plan", "x.txt", "--budget", "0"], "'0'"),
        (["plan", "x.txt", "--budget", "-5m"], "'-5m'"),
        (["absorb", "x.txt", "--recipe", "nosuch"], "'nosuch'"),
        (["absorb", "x.txt", "--set", "training.epochs"], "'training.epochs'"),
        (["absorb", "x.txt", "--set", "training.epoch=3"], "'epochs'"),
        (["absorb", "x.txt", "--set", "training.epochs=0"], "training.epochs"),
        (["absorb", "x.txt", "--name", "../x"], "'../x'"),
        (["ask", "x"], "neither"),
        (["ask", "x", "Who?", "--questions", "q.jsonl"], "both"),
        (["ask", "x", "Who?", "--context", "some"], "'some'"),
        (["ask", "x", "--questions", "nosuch.jsonl"], "nosuch.jsonl"),
        (["recipes", "show", "nosuch"], "'nosuch'"),
        (["rename", "x"], "NEW"),
    ],
)
def test_wrong_use_ends_in_one_sentence_and_status_2(args: list[str], said: str) -> None:
    result = lift(*args)
    assert_one_sentence(result, 2)
    assert said in result.stderr


@pytest.mark.parametrize("line", ["not json", "[1]", '{"id": 1}', '{"question": " "}', '{"question": 3}'])
def test_a_bad_line_of_questions_is_named(line: str) -> None:
    result = lift("ask", "x", "--questions", "-", stdin=f'{{"id": 1, "question": "Who?"}}\n\n{line}\n')
    assert_one_sentence(result, 2)
    assert "line 3" in result.stderr


def test_no_command_shows_the_help_as_an_error() -> None:
    result = lift()
    assert result.returncode == 2
    assert "Usage: lift" in result.stderr


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFT_DEBUG", "1")
    result = lift_process("show", "nosuch")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("lift: ")


def test_a_reader_that_leaves_early_is_no_error_message() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        result = subprocess.run(
            [LIFT, "recipes", "show", "default", "--json"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(write)
    assert result.stderr == ""
    assert result.returncode == 1


def test_a_library_that_is_a_file_ends_in_one_sentence(files: Path) -> None:
    assert_one_sentence(lift("list", "--library", str(files / "empty.txt")), 1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h", 3600),
        ("1.5 h", 5400),
        ("42", 42),
        (" 2M ", 120),
        ("1h30m", 5400),
        ("1h 30m 15s", 5415),
        ("3min", 180),
        ("10 minutes", 600),
        ("2 hours", 7200),
        ("90sec", 90),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "m", "10 parsecs", "-1", "0s", "nan", "1e3", "inf", "30s1m", "1m1m", "1m30", "9" * 400]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="90s, 10m or 1h"):
        parse_duration(text)


def test_the_contexts_offered_are_those_that_can_be_answered() -> None:
    from lift.answering.answer import CONTEXTS

    assert CONTEXT_NAMES == CONTEXTS


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.123, "0.12 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (75, "1 min 15 s"),
        (3599.7, "1 h 00 min"),
        (4000, "1 h 07 min"),
    ],
)
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (39_400_000, "39.4 MB"), (999_999, "1.0 MB")]
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text
