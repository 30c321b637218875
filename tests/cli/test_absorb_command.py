"""`lift absorb` of several files, into a memory, until enough is recalled, and at an endpoint; and `lift plan`."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_llama
from scripted_endpoint import Reply, ScriptedEndpoint
from scripted_vendor import KEY, MODEL, ScriptedVendor

from lift.absorbing.absorption_events import Fitting, Writing
from lift.cli import run
from lift.cli.options import parse_share
from lift.cli.output import describe_generation
from lift.cli.progress import Bar, Lines
from lift.errors import UsageError

MUSEUM = "Ada Quill founded the lighthouse museum of Port Merrow in 1911. The museum owns 42 lenses.\n"
VISITORS = "# Opening hours\n\nThe museum is closed on Mondays.\n\n# Tickets\n\nChildren under twelve pay nothing.\n"
MINUTES = " ".join(f"Member {n} of the council spoke about pier number {n * 7} in {1900 + n}." for n in range(20))
QUICK = ["--set", "training.epochs=1", "--set", "tasks.per_sentence=6", "--set", "adapter.rank=2"]


class Place:
    """A library, a tiny model and two texts, with the options that name them."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root = root
        self.museum, self.visitors = str(root / "museum.txt"), str(root / "visitors.md")
        Path(self.museum).write_text(MUSEUM, "utf-8")
        Path(self.visitors).write_text(VISITORS, "utf-8")
        self.at = ["--library", str(root / "library")]
        self.model = ["--model", str(model)]

    @property
    def archive(self) -> list[str]:
        """Both texts under one title, with the model that reads them."""
        return [self.museum, self.visitors, "--title", "Archive", *self.model]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    directory = tmp_path_factory.mktemp("model")
    tiny_llama().save_pretrained(directory)
    tiny_tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def place(tmp_path: Path, model: Path) -> Place:
    """An empty library."""
    return Place(tmp_path, model)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Place:
    """A library with the memory `archive` of two files under one title; tests leave it as it is."""
    made = Place(tmp_path_factory.mktemp("both"), model)
    assert run(["absorb", *made.archive, *QUICK, *made.at]) == 0
    return made


@pytest.fixture(scope="module")
def museum(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Place:
    """A library with the memory `m` of one file; tests copy it."""
    made = Place(tmp_path_factory.mktemp("museum"), model)
    assert run(["absorb", made.museum, "--name", "m", *made.model, *QUICK, *made.at]) == 0
    return made


@pytest.fixture
def stored(place: Place, museum: Place) -> Place:
    """A library of the test's own, with the memory `m` of one file."""
    shutil.copytree(museum.root / "library", place.root / "library")
    return place


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command that is to succeed and gives its JSON."""

    def run_json(*args: str) -> Any:
        capsys.readouterr()
        assert run([*args, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return run_json


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command that is to fail with one sentence, and gives the sentence."""

    def run_wrong(*args: str, status: int = 2) -> str:
        capsys.readouterr()
        assert run(args) == status
        said = capsys.readouterr()
        assert said.out == ""
        (line,) = [line for line in said.err.splitlines() if line.startswith("lift: ")]
        assert said.err.splitlines()[-1] == line
        assert "unexpected" not in line
        return line

    return run_wrong


def test_several_files_make_one_memory_that_knows_which_is_which(both: Place, printed: Any) -> None:
    shown = printed("show", "archive", *both.at)
    assert (shown["name"], shown["title"]) == ("archive", "Archive")  # the title is that of the whole
    assert [part["title"] for part in shown["document"]["parts"]] == ["Museum", "Opening hours"]
    assert [Path(part["source"]).name for part in shown["document"]["parts"]] == ["museum.txt", "visitors.md"]
    for question, heading in (("How many lenses does it own?", "Museum"), ("When is it closed?", "Opening hours")):
        answer = printed("ask", "archive", question, "--context", "auto", *both.at)
        assert [each["heading"] for each in answer["evidence"]][:1] == [heading]


def test_the_same_files_again_train_nothing(both: Place, printed: Any) -> None:
    again = printed("absorb", *both.archive, *QUICK, *both.at)
    assert (again["name"], again["title"], again["reused"]) == ("archive", "Archive", True)


def test_plan_takes_several_files_too(both: Place, printed: Any) -> None:
    made = printed("plan", both.museum, both.visitors, *both.model, *QUICK)
    alone = printed("plan", both.museum, *both.model, *QUICK)
    assert made["sentences"] > alone["sentences"] == 2
    assert made["tokens"] > alone["tokens"]


def test_a_text_is_added_to_a_memory(stored: Place, printed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    place = stored
    assert run(["absorb", place.visitors, "--into", "m", *place.at]) == 0
    said = capsys.readouterr()
    assert "known before adding: " in said.err
    assert "known after adding: " in said.err
    assert "added: " in said.err
    assert "recalled" in said.out
    again = printed("absorb", place.visitors, "--into", "m", *place.at)
    assert again["reused"]
    assert [point["what"] for point in again["recall_history"]] == [
        "absorbed", "known before adding", "known after adding", "added",
    ]  # fmt: skip
    assert run(["absorb", place.museum, "--into", "m", *place.at]) == 0
    assert "nothing was trained" in capsys.readouterr().out


def test_ctrl_c_while_adding_leaves_the_memory_as_it_was(
    stored: Place, printed: Any, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = stored
    before = printed("show", "m", *place.at)
    with monkeypatch.context() as patch:
        patch.setattr(Lines, "step", lambda *_: signal.raise_signal(signal.SIGINT))
        said = refused("absorb", place.visitors, "--into", "m", *place.at, status=1)
    assert "nothing was changed" in said
    assert printed("show", "m", *place.at) == before


def test_ctrl_c_before_the_training_stops_at_once(
    place: Place, printed: Any, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(_lines: Lines, text: str) -> None:
        if "questions to learn" in text:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Lines, "say", press)
        said = refused("absorb", place.museum, "--name", "m", *place.model, *QUICK, *place.at, status=1)
    assert said == "lift: interrupted"
    assert printed("list", *place.at) == []


@pytest.mark.slow
def test_until_rehearses_and_says_how_recall_went(
    place: Place, printed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["absorb", place.museum, "--name", "m", "--until", "95%", *place.model, *QUICK, *place.at]
    assert run(asked) == 0
    said = capsys.readouterr()
    assert "before rehearsing: " in said.err
    assert "rehearsed: " in said.err
    history = printed("show", "m", *place.at)["recall_history"]
    again = printed(*asked)
    assert len(again["recall_history"]) > len(history) > 2
    assert again["generation"]["kept"] > 0
    assert all(0 <= point["recalled"] <= point["probed"] for point in again["recall_history"])


@pytest.mark.parametrize(
    "extra",
    [
        ["--recipe", "fast"],
        ["--set", "training.epochs=2"],
        ["--name", "x"],
        ["--until", "95%"],
        ["--resume"],
        ["--base-url", "http://127.0.0.1:1/v1"],
    ],
    ids=lambda extra: extra[0],
)
def test_into_leaves_nothing_else_to_choose(both: Place, refused: Any, extra: list[str]) -> None:
    said = refused("absorb", both.museum, "--into", "archive", *extra, *both.at)
    assert "--into" in said
    assert extra[0] in said


def test_into_an_unknown_memory_is_refused(both: Place, refused: Any) -> None:
    assert "'nosuch'" in refused("absorb", both.museum, "--into", "nosuch", *both.at, status=1)


@pytest.mark.parametrize("share", ["0", "abc", "101%", "1.5", "-5%", "", "0%"])
def test_what_is_no_share_is_refused(both: Place, refused: Any, share: str) -> None:
    said = refused("absorb", both.museum, "--until", share, *both.at)
    assert "--until" in said
    assert "95%" in said
    with pytest.raises(UsageError):
        parse_share(share)


@pytest.mark.parametrize(
    ("text", "share"), [("95%", 0.95), ("0.95", 0.95), (" 100 % ", 1.0), ("1", 1.0), (".5", 0.5), ("12.5%", 0.125)]
)
def test_shares(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


def test_a_streamed_absorption_counts_what_the_endpoint_did(
    place: Place, printed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def reply(request: dict[str, Any]) -> Reply:
        found = re.search(r"Last part: (\w+ \w+)(.*)\.", request["messages"][-1]["content"])
        assert found
        task = {"question": f"{found[1]} what, as the museum says?", "answer": found[2].strip()}
        return json.dumps({"tasks": [task]})

    with ScriptedEndpoint(reply) as endpoint:
        for stream in ("true", "false"):
            generator = ["kind=openai", "model=m", f"base_url={endpoint.base_url}", f"stream={stream}"]
            chosen = [part for each in generator for part in ("--set", f"generator.{each}")]
            record = printed("absorb", place.museum, "--name", f"m{stream}", *chosen, *place.model, *QUICK, *place.at)
            counts = record["generation"]
            assert (counts["requests"], counts["answered"], counts["kept"], counts["failed"]) == (2, 2, 2, {})
            assert printed("show", f"m{stream}", *place.at)["generation"] == counts


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedVendor]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for variable in ("OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(variable, raising=False)
    with ScriptedVendor() as running:
        yield running


@pytest.fixture
def remotely(place: Place, vendor: ScriptedVendor) -> list[str]:
    """The command that fine-tunes a model at the vendor."""
    path = place.root / "minutes.txt"
    path.write_text(MINUTES, "utf-8")
    quick = ["--set", "remote.poll_s=0.002", "--set", "remote.probes=3"]
    return ["absorb", str(path), "--model", f"openai:{MODEL}", "--base-url", vendor.url, *quick, *place.at]


def test_a_memory_is_made_at_an_endpoint_and_answers(
    place: Place,
    vendor: ScriptedVendor,
    remotely: list[str],
    printed: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vendor.answer = lambda _prompt: "pier number 77"
    assert run([*remotely, "--name", "minutes", "--yes"]) == 0
    said = capsys.readouterr()
    assert "ftjob-1" in said.err
    assert "lift ask minutes" in said.out
    monkeypatch.setenv("OPENAI_BASE_URL", vendor.url)  # it is asked nowhere that the user does not trust
    answer = printed("ask", "minutes", "Which pier did Member 11 speak about?", *place.at)
    assert answer["answer"] == "pier number 77"
    assert answer["evidence"][0]["sentence"] == 11
    again = printed(*remotely)
    assert again["reused"]
    assert again["generation"]["kept"] > 0
    assert vendor.paid_jobs == 1


def test_nothing_is_paid_for_where_nobody_can_be_asked(
    vendor: ScriptedVendor, remotely: list[str], refused: Any
) -> None:
    for extra in ([], ["--json"]):
        assert "--yes" in refused(*remotely, *extra)
    assert not vendor.files


def test_a_missing_key_is_one_sentence(remotely: list[str], refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "OPENAI_API_KEY" in refused(*remotely, "--yes", status=1)


@pytest.mark.parametrize("extra", [["--budget", "5m"], ["--until", "95%"], ["--resume"]], ids=lambda extra: extra[0])
def test_what_an_endpoint_cannot_do_is_refused(remotely: list[str], refused: Any, extra: list[str]) -> None:
    said = refused(*remotely, *extra)
    assert "openai" in said
    assert extra[0] in said


def test_a_text_is_not_added_to_a_memory_at_an_endpoint(
    place: Place, remotely: list[str], printed: Any, refused: Any
) -> None:
    printed(*remotely, "--name", "minutes", "--yes")
    assert "endpoint" in refused("absorb", place.museum, "--into", "minutes", *place.at)


def test_writing_and_fitting_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    writing = Writing(sentences_done=3, sentences=12, kept=1234, failed=2, rejected=5, eta_s=75.0)
    Lines(every_s=0).writing(writing)
    Lines(every_s=0).fitting(Fitting(2, 8, 0.125))
    said = capsys.readouterr().err
    assert "writing questions 25 %, 1,234 kept, 5 rejected, 2 requests failed, 1 min 15 s left" in said
    assert "fitting attention 25 %, error 0.125" in said
    bar = Bar()
    try:
        bar.writing(writing)
        (task,) = bar._progress.tasks
        assert (task.completed, task.fields["what"], task.visible) == (0.25, "writing questions", True)
        assert "1,234 kept" in task.description
        bar.fitting(Fitting(4, 8, 0.125))
        (task,) = bar._progress.tasks
        assert (task.completed, task.fields["what"]) == (0.5, "fitting attention")
    finally:
        bar.close()
    assert describe_generation({"requests": 0}) == []


def test_recipes_show_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", "show", "default"]) == 0
    shown = capsys.readouterr().out
    for key in (
        "adapter.layers",
        "training.full_batch",
        "training.max_tokens",
        "update.replay_share",
        "generator.stream",
    ):
        assert key in shown
    assert "[]" in next(line for line in shown.splitlines() if "adapter.layers" in line)
