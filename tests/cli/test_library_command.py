"""The commands on a memory of a tiny random model: absorbed once, then asked, shown, renamed and removed."""

from __future__ import annotations

import io
import json
import shutil
import signal
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_llama

from lift.absorbing.run_options import AbsorptionOptions
from lift.answering.answer import Answer, Evidence
from lift.cli import run
from lift.cli.output import print_source, print_support
from lift.cli.progress import Lines
from lift.documents import document as documents

TEXT = """# The lighthouse museum

Ada Quill founded the lighthouse museum of Port Merrow in 1911. The museum owns 42 lenses.

# Visitors

The museum is closed on Mondays. Children under twelve pay nothing.
"""
QUICK = ["--set", "training.epochs=1", "--set", "tasks.per_sentence=6", "--set", "adapter.rank=2"]


class Place:
    """A library, a tiny model and a text, with the options that name them."""

    def __init__(self, root: Path, model: Path) -> None:
        self.library = root / "library"
        self.model = model
        self.absorbed = ""
        self.text = root / "quill.md"
        self.text.write_text(TEXT, "utf-8")

    def absorb(self, *more: str) -> int:
        return run(["absorb", str(self.text), "--model", str(self.model), *QUICK, *self.at, *more])

    @property
    def at(self) -> list[str]:
        return ["--library", str(self.library)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    directory = tmp_path_factory.mktemp("model")
    tiny_llama().save_pretrained(directory)
    tiny_tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def quill(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Place:
    """A library with the memory `quill` in it, and what the command printed; tests leave it as it is."""
    place = Place(tmp_path_factory.mktemp("quill"), model)
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(io.StringIO()) as told:
        assert place.absorb("--name", "quill", "--json") == 0
    assert told.getvalue() == ""
    place.absorbed = printed.getvalue()
    return place


@pytest.fixture
def place(tmp_path: Path, model: Path) -> Place:
    """An empty library."""
    return Place(tmp_path, model)


@pytest.fixture
def stored(place: Place, quill: Place) -> Place:
    """A library of the test's own, with the memory `quill` in it."""
    shutil.copytree(quill.library, place.library)
    return place


def output(capsys: pytest.CaptureFixture[str], *args: str, status: int = 0) -> str:
    capsys.readouterr()
    assert run(args) == status
    return capsys.readouterr().out


def output_json(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    return json.loads(output(capsys, *args, "--json"))


def test_absorb_ends_with_the_recall_report(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.absorb("--name", "museum", "--title", "Museum") == 0
    printed = capsys.readouterr()
    assert "recalled" in printed.out
    assert "sentences asked about" in printed.out
    assert "predicted" in printed.out
    assert "lift ask museum" in printed.out
    assert "“Museum”" in printed.err
    assert "warning" not in printed.err


def test_absorb_as_json_prints_one_object(quill: Place) -> None:
    record = json.loads(quill.absorbed)
    assert record["name"] == "quill"
    assert Path(record["directory"]).is_dir()
    assert 0 <= record["recall"]["recalled"] <= record["recall"]["probed"] <= record["recall"]["sentences"]
    assert record["adapter_bytes"] > 0
    assert not record["reused"]


def test_absorbing_the_same_again_trains_nothing(quill: Place, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert quill.absorb("--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["name"], record["reused"]) == ("quill", True)


def test_a_taken_name_is_refused(quill: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert quill.absorb("--name", "Quill", "--set", "training.seed=9") == 1
    assert "'quill'" in capsys.readouterr().err


def test_standard_input_is_a_document(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert run(["absorb", "-", "--title", "Piped", "--model", str(place.model), *QUICK, *place.at, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Piped"


def test_seconds_count_from_the_start_of_the_process(quill: Place, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["absorb", str(quill.text), "--model", str(quill.model), *QUICK, *quill.at, "--json"]
    capsys.readouterr()
    assert run(args, started=time.monotonic() - 1000) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] > 1000


def test_an_interrupted_absorption_says_how_to_go_on_and_goes_on(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, more in ((signal.SIGINT, []), (signal.SIGTERM, ["--resume"])):
        before = signal.getsignal(number)
        with monkeypatch.context() as patch:
            patch.setattr(Lines, "step", lambda self, event, number=number: signal.raise_signal(number))
            assert place.absorb("--name", "museum", *more) == 1
        printed = capsys.readouterr()
        assert "stopping as soon as" in printed.err
        assert "--resume" in printed.err.splitlines()[-1]
        assert signal.getsignal(number) == before
    assert place.absorb("--name", "museum", "--resume") == 0
    assert "step 3, epoch 1," in capsys.readouterr().err


def test_the_second_ctrl_c_stops_at_once(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def press_twice(_lines: Lines, _event: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Lines, "step", press_twice)
    assert place.absorb("--name", "museum") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "lift: interrupted"
    assert output_json(capsys, "list", *place.at) == []


def test_plan_tells_the_cost_and_keeps_nothing(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["plan", str(place.text), "--model", str(place.model), *QUICK]
    made = output_json(capsys, *args)
    assert made["tokens"] > len(TEXT) / 2
    assert min(made["seconds"], made["train_tokens"], made["peak_bytes"], made["adapter_bytes"], made["ask_s"]) > 0
    shown = output(capsys, *args)
    assert "closed book" in shown
    assert "pays" in shown


def test_ask_prints_the_answer_and_what_supports_it(quill: Place, capsys: pytest.CaptureFixture[str]) -> None:
    printed = output(capsys, "ask", "quill", "Who", "founded", "it?", *quill.at)
    record = output_json(capsys, "ask", "quill", "Who founded it?", *quill.at)
    assert printed.startswith(record["answer"])
    assert set(record) == {"question", "answer", "context", "supported", "evidence", "seconds"}
    assert record["question"] == "Who founded it?"
    assert record["context"] in ("none", "truncated", "full", "evidence")


def test_an_answer_without_support_is_marked(quill: Place, capsys: pytest.CaptureFixture[str]) -> None:
    record = output_json(capsys, "ask", "quill", "Who founded it?", "--context", "none", *quill.at)
    printed = output(capsys, "ask", "quill", "Who founded it?", "--context", "none", *quill.at)
    assert ("nothing in the document supports this answer" in printed) is not record["supported"]


def test_a_sentence_is_called_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    place = documents.Place(0, heading="Founders")
    told = {
        "supports": "supported by: “Ada Quill founded it.” (“Founders”)",
        "found": "found in: “Ada Quill founded it.” (“Founders”)",
        "related": "see also: “Ada Quill founded it.” (“Founders”)",
    }
    for relation, line in told.items():
        evidence = (Evidence(0, "Ada Quill founded it.", place, relation),)  # type: ignore[arg-type]
        print_support(Answer("Ada", "none", evidence, relation == "supports", False, 1, 0.1))
        printed = capsys.readouterr().out
        assert line in printed
        assert ("nothing in the document supports this answer" in printed) is (relation != "supports")


def test_a_refusal_and_a_quotation_are_not_called_unsupported_answers(capsys: pytest.CaptureFixture[str]) -> None:
    place = documents.Place(0, heading="Rules")
    nearest = (Evidence(0, "The key may be kept.", place, "related"),)
    print_support(Answer("The text does not tell.", "evidence", nearest, False, False, 1, 0.1))
    told = capsys.readouterr().out
    assert "!" not in told
    assert "see also: “The key may be kept.”" in told
    print_support(Answer("The key may be kept.", "evidence", nearest, False, False, 1, 0.1))
    told = " ".join(capsys.readouterr().out.split())
    assert "! this sentence fits the question best; whether it says yes or no was not judged" in told


def test_a_file_of_questions_is_answered_in_its_order(
    quill: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = tmp_path / "questions.jsonl"
    lines = [{"id": f"q{number}", "question": f"What is lens {number}?", "extra": 1} for number in range(19, 0, -1)]
    text = "\n".join(json.dumps(line) for line in lines)
    questions.write_text("\ufeff" + text + '\n\n{"question": "No id?"}\n', "utf-8")
    printed = output(capsys, "ask", "quill", "--questions", str(questions), "--json", "--context", "none", *quill.at)
    answers = [json.loads(line) for line in printed.splitlines()]
    assert [answer["id"] for answer in answers] == [*(line["id"] for line in lines), 21]
    assert [answer["question"] for answer in answers[:-1]] == [line["question"] for line in lines]
    assert all(answer["context"] == "none" and answer["seconds"] > 0 for answer in answers)


def test_a_file_of_questions_is_counted_while_it_is_asked(
    quill: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lift.cli.progress.Lines", lambda: Lines(every_s=0.0))
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": f"Who owns lens {number}?"}) + "\n" for number in range(20)))
    assert run(["ask", "quill", "--questions", str(questions), "--context", "none", *quill.at]) == 0
    told = [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == ["asking question 1 of 20", "asking question 17 of 20"]


def test_questions_come_from_standard_input(
    quill: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"id": 7, "question": "Who?"}\n')))
    assert output_json(capsys, "ask", "quill", "--questions", "-", *quill.at)["id"] == 7


def test_a_memory_is_refused_on_another_model(
    quill: Place, tmp_path: Path, tiny_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_llama(seed=1).save_pretrained(tmp_path / "other")
    tiny_tokenizer.save_pretrained(tmp_path / "other")
    assert run(["ask", "quill", "Who?", "--model", str(tmp_path / "other"), *quill.at]) == 1
    assert "quill" in capsys.readouterr().err


def test_chat_answers_until_quit(
    quill: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = "Who founded it?\n\n/context none\nWhen?\n/context some\n/dance\n/help\n/quit\nNever asked?\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    capsys.readouterr()
    assert run(["chat", "quill", "--json", *quill.at]) == 0
    printed = capsys.readouterr()
    answers = [json.loads(line) for line in printed.out.splitlines()]
    assert [answer["question"] for answer in answers] == ["Who founded it?", "When?"]
    assert answers[1]["context"] == "none"
    assert "'some'" in printed.err
    assert "'/dance'" in printed.err
    assert "/quit" in printed.err


def test_list_and_show(quill: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (listed,) = output_json(capsys, "list", *quill.at)
    shown = output_json(capsys, "show", "quill", *quill.at)
    assert listed["name"] == shown["name"] == "quill"
    assert listed["recalled"] == shown["recall"]["recalled"]
    assert listed["probed"] > 0
    assert shown["recipe"]["adapter"]["rank"] == 2
    assert "quill" in output(capsys, "list", *quill.at)
    table = output(capsys, "show", "quill", *quill.at)
    assert shown["document"]["sha256"] in table.replace("\n", "").replace(" ", "")
    assert "recalled" in table


def test_verify_finds_a_damaged_memory(stored: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert output_json(capsys, "verify", *stored.at) == {"checked": ["quill"], "problems": []}
    (stored.library / "quill" / "document.txt").write_text("something else", "utf-8")
    found = json.loads(output(capsys, "verify", "quill", "--json", *stored.at, status=1))
    assert [problem["file"] for problem in found["problems"]] == ["document.txt"]
    assert run(["verify", *stored.at]) == 1
    assert "document.txt" in capsys.readouterr().err
    (stored.library / "quill" / "memory.json").write_text("{", "utf-8")
    (listed,) = output_json(capsys, "list", *stored.at)
    assert listed["damage"]
    assert "damaged" in output(capsys, "list", *stored.at)


def test_rename_and_remove(stored: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert output_json(capsys, "rename", "quill", "old quill", *stored.at)["name"] == "old quill"
    assert run(["show", "quill", *stored.at]) == 1
    assert run(["ask", "old quill", "Who?", *stored.at]) == 0
    assert output_json(capsys, "remove", "old quill", *stored.at) == {"removed": ["old quill"]}
    assert output_json(capsys, "list", *stored.at) == []


def test_an_unexpected_error_is_one_sentence_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any) -> None:
        raise ZeroDivisionError("by nought\nand more")

    monkeypatch.setattr("lift.recipes.recipe.recipe_names", fail)
    assert run(["recipes"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("lift: unexpected ZeroDivisionError: by nought (LIFT_DEBUG=1")
    assert len(message.splitlines()) == 1


def test_a_name_that_is_taken_names_the_way_to_replace_it(
    quill: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.md"
    other.write_text("Boris Lind opened the glass works of Hallby in 1874. The works employ 310 people.", "utf-8")
    assert run(["absorb", str(other), "--name", "quill", "--model", str(quill.model), *QUICK, *quill.at]) == 1
    assert "--replace" in capsys.readouterr().err


def test_replace_puts_the_new_memory_in_the_place_of_the_old(
    stored: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.md"
    other.write_text("Boris Lind opened the glass works of Hallby in 1874. The works employ 310 people.", "utf-8")
    options = ["--name", "quill", "--replace", "--model", str(stored.model), *QUICK, *stored.at]
    assert run(["absorb", str(other), *options]) == 0
    assert [each["name"] for each in output_json(capsys, "list", *stored.at)] == ["quill"]
    assert output_json(capsys, "show", "quill", *stored.at)["document"]["source"].endswith("other.md")
    assert output(capsys, "verify", *stored.at)


def test_replace_needs_a_name(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.absorb("--replace") == 2
    assert "--name" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("said", "left"), [("n\n", ["quill"]), ("y\n", [])])
def test_remove_asks_at_a_terminal(
    said: str, left: list[str], stored: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(said))
    assert run(["remove", "quill", *stored.at]) == (0 if not left else 2)
    assert [each["name"] for each in output_json(capsys, "list", *stored.at)] == left


def test_remove_with_yes_does_not_ask(stored: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(""))
    assert run(["remove", "quill", "--yes", *stored.at]) == 0


@pytest.mark.parametrize("word", ["exit", "quit", "/exit", "QUIT"])
def test_chat_is_left_with_a_plain_word(
    word: str, quill: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{word}\nWho founded the museum?\n"))
    assert run(["chat", "quill", *quill.at]) == 0
    assert capsys.readouterr().out == ""


def test_show_names_the_sentences_that_were_forgotten(quill: Place, capsys: pytest.CaptureFixture[str]) -> None:
    record = output_json(capsys, "show", "quill", *quill.at)
    assert record["recall"]["probed"] > record["recall"]["recalled"], "a tiny random model recalls nothing"
    assert {probe["expected"] for probe in record["forgotten"]}
    told = output(capsys, "show", "quill", *quill.at)
    assert "Not recalled" in told
    assert record["forgotten"][0]["question"] in " ".join(told.split())


def test_the_list_fits_a_terminal_of_80_columns(
    quill: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = output(capsys, "list", *quill.at)
    assert any(
        all(word in line for word in ("quill", "The lighthouse museum", "MB")) or "kB" in line
        for line in told.splitlines()
    )


def test_an_interrupted_absorption_says_that_it_can_be_resumed(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import threading

    from lift.absorbing.absorb import absorb_events
    from lift.absorbing.absorption_events import Prepared
    from lift.documents.read import read_document
    from lift.errors import InterruptedAbsorption
    from lift.memories.library import MemoryLibrary
    from lift.models.load import load_model
    from lift.recipes.recipe import load_recipe

    recipe = load_recipe("default", QUICK[1::2])
    document, base, library = read_document(place.text), load_model(str(place.model)), MemoryLibrary(place.library)
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedAbsorption):
        list(absorb_events(document, base, recipe, library, AbsorptionOptions(stop=stop)))
    again = absorb_events(document, base, recipe, library, AbsorptionOptions(resume=False))
    warnings = next(event for event in again if isinstance(event, Prepared)).warnings
    assert any("--resume" in warning for warning in warnings)
    again.close()
    resumed = absorb_events(document, base, recipe, library, AbsorptionOptions(resume=True))
    assert not any("--resume" in each for each in next(e for e in resumed if isinstance(e, Prepared)).warnings)
    resumed.close()


def test_a_text_without_held_out_questions_is_told_so_before_the_training(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--set", "tasks.held_out_per_sentence=0", "--name", "plain"]
    assert place.absorb(*options) == 0
    assert "no recall report" in capsys.readouterr().err


def test_show_source_prints_the_text_as_it_was_read(quill: Place, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["show", "quill", "--source", *quill.at]) == 0
    shown = capsys.readouterr().out
    assert "Ada Quill founded the lighthouse museum of Port Merrow in 1911. The museum owns 42 lenses." in shown
    assert shown.count("Visitors") == 1  # a heading that the text has is not said again
    assert run(["show", "quill", "--source", "--json", *quill.at]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["text"].startswith("The lighthouse museum")
    assert [place["heading"] for place in told["places"]] == ["The lighthouse museum", "Visitors"]
    assert told["language"] == "en" and told["left_out"] == [] and told["warnings"] == []


def test_pages_are_marked_where_they_begin(capsys: pytest.CaptureFixture[str]) -> None:
    text = "Rent\n\nIt is due in May. It is paid\nin gold."
    places = (documents.Place(0, 1, "Rent"), documents.Place(24, 2, "Rent"))
    print_source(documents.Document("T", text, "t.pdf", places))
    assert capsys.readouterr().out == "[page 1]\nRent\n\nIt is due in May. [page 2] It is paid\nin gold.\n"


def test_what_was_left_out_is_told_at_the_end_and_in_the_plan(
    quill: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("The keeper of the lamp was Ada Quill. She lit it at nine.", "utf-8")
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    common = [str(folder), "--model", str(quill.model), *QUICK, "--json"]
    capsys.readouterr()
    assert run(["plan", *common]) == 0
    planned = capsys.readouterr()
    assert "b.png: 1 file that cannot be read was left out." in json.loads(planned.out)["warnings"][0]
    assert "PNG image" in planned.err
    library = ["--library", str(tmp_path / "library")]
    assert run(["absorb", *common, "--name", "folder", *library]) == 0
    assert "b.png" in json.loads(capsys.readouterr().out)["left_out"][0]
    assert run(["show", "folder", "--json", *library]) == 0
    assert json.loads(capsys.readouterr().out)["document"]["omissions"][0]["kind"] == "file that cannot be read"
