"""The tasks of the rules say what their sentence says: no false, torn or turned questions."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

from lift.absorbing.recall_report import suggested_questions
from lift.documents.read import read_document
from lift.documents.sentences import Sentence, split_sentences
from lift.tasks.rules.rule_generator import generate_tasks
from lift.tasks.rules.wellformed import is_plain_question
from lift.tasks.task import Task

DATA = Path(__file__).parents[1] / "data" / "tasks"
RECITED = ("rules:recite", "rules:next", "rules:continue")


def tasks_of(*texts: str) -> list[Task]:
    """The question tasks of sentences of one paragraph."""
    sentences, start = [], 0
    for index, text in enumerate(texts):
        sentences.append(Sentence(index, text, start, start + len(text), 0))
        start += len(text) + 1
    return [task for task in generate_tasks("The handbook", sentences, per_sentence=300) if task.origin not in RECITED]


def answers(*texts: str) -> dict[str, str]:
    return {task.question: task.answer for task in tasks_of(*texts)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("There is no night porter in the annex.", ["no"]),
        ("No lift serves the old wing of the inn.", ["no"]),
        ("Nobody under 18 may use the sauna at night.", ["nobody"]),
        ("Neither the cook nor the waiter has a key to the cellar.", ["neither"]),
        ("The guests must not smoke or cook in the rooms.", ["not"]),
        ("Towels are never left on the beach.", ["never"]),
        ("The pump cannot be repaired by the user.", ["not", "cannot"]),
    ],
)
def test_every_question_of_a_denial_keeps_it(text: str, words: list[str]) -> None:
    found = tasks_of(text)
    assert found
    for task in found:
        if "mentioned in connection with" in task.question:
            continue
        said = re.findall(r"\w+", f"{task.question} {task.answer}".lower())
        assert set(words) & set(said), task


def test_a_denied_statement_is_asked_whole() -> None:
    found = answers("Nobody on probation may work alone at night.")
    assert not any(
        "work alone" in question and "at night" not in question and "when" not in question.lower() and answer != "night"
        for question, answer in found.items()
    )
    assert "What should one never enter?" not in answers("Never enter a room with a red tag on the door.")


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("If the wind exceeds 22 knots, the ferry stays in the harbour.", "wind exceeds"),
        ("Should the building be sold, the lease would pass to the buyer.", "building be sold"),
        ("As long as defects have not been repaired, the client may withhold the fee.", "defects"),
        ("The deputy leads the rehearsal if the conductor is ill.", "conductor is ill"),
    ],
)
def test_a_conditional_statement_is_asked_with_its_condition(text: str, condition: str) -> None:
    found = tasks_of(text)
    assert found
    for task in found:
        if "mentioned in connection with" not in task.question:
            assert condition in task.question or condition in task.answer, task


@pytest.mark.parametrize(
    "text",
    [
        "It would have been pulled down in 1954 if the town had not bought it.",
        "Had the harbour been deeper, the mayor would have built a pier in 1911.",
    ],
)
def test_what_never_happened_is_not_told_as_a_fact(text: str) -> None:
    for task in tasks_of(text):
        if "mentioned in connection with" not in task.question:
            assert "would" in task.question and ("Had the" in task.question or "if" in task.question), task


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("The keys belong to Mr. Ansel and his sister-in-law.", "sister-in-law"),
        ("The office is managed by Sigrid Tamm-Okoye.", "Tamm-Okoye"),
        ("The laundry is washed by Orrell & Sons every Monday.", "Orrell & Sons"),
        ("The forms are destroyed by Marks and Penhale, a firm in Ostrand.", "Marks and Penhale"),
        ("The accounts are audited by Wren, Pascoe and Partners.", "Wren, Pascoe and Partners"),
        ("The annex was moved to Baden-Baden in 1911.", "Baden-Baden"),
    ],
)
def test_names_and_compounds_stay_whole(text: str, name: str) -> None:
    parts = [part for part in re.split(r"[\s,&-]+", name) if part not in {"and", "in", "law"}]
    found = tasks_of(text)
    assert any(name in task.answer for task in found)
    for task in found:
        for said in (task.question, task.answer):
            assert name in said or not any(re.search(rf"\b{part}\b", said) for part in parts), task


def test_a_span_of_time_stays_as_it_is() -> None:
    span = "from 9:15 to 14:45 Tuesday to Friday"
    found = answers(f"The cash desk is open {span}.")
    assert found["When is the cash desk open?"] == span
    for question, answer in found.items():
        for said in (question, answer):
            assert span in said or not re.search(r"9:15|14:45|Tuesday|Friday", said), (question, answer)


def test_rows_of_tables_have_row_questions_alone() -> None:
    rows = ["Item | Unit | Price", "Gravel | per tonne | 38 euros", "Night call | per hour | 96 euros"]
    tasks = tasks_of(*rows)
    assert {task.origin for task in tasks} <= {"rules:row", "rules:row-head", "rules:header"}
    found = {task.question: task.answer for task in tasks}
    assert found["What does the table give as “Price” for “Gravel”?"] == "38 euros"
    assert found["For which “Item” does the table give “96 euros” as “Price”?"] == "Night call"
    assert not [
        task
        for task in tasks_of("Gravel | per tonne | 38 euros", "Sand | per tonne | 21 euros")
        if not task.origin.startswith("rules:row") and task.origin != "rules:header"
    ]


def test_an_entry_of_name_and_value_is_asked_for_by_its_name() -> None:
    assert answers("Protection class: IP68") == {"What does “The handbook” give for “Protection class”?": "IP68"}


def test_a_list_is_answered_with_all_of_its_members() -> None:
    found = answers("The board consists of a chair, a secretary and a treasurer.")
    assert found.get("What does the board consist of?") in {None, "a chair, a secretary and a treasurer"}
    assert "a chair" not in {found[question] for question in found if not question.startswith("Besides")}


def test_a_rule_about_some_is_not_told_of_all() -> None:
    found = answers(
        "Guests who have lost their key pay 12 euros.", "Machines heavier than 900 kilograms need a permit."
    )
    assert not any(re.match(r"(?:What have guests|Guests have) lost", question) for question in found)
    assert "What do machines need?" not in found


def test_orders_are_asked_as_what_one_should_do() -> None:
    assert answers("Put the plug into the socket.")["What should one put into the socket?"] == "the plug"


def test_nobody_is_an_answer() -> None:
    assert answers("Nobody may enter the engine room at sea.")["Who may enter the engine room at sea?"] == "Nobody"


def test_existence_is_answered_as_the_text_says_it() -> None:
    text = "There is no night porter in the annex"
    assert answers(f"{text}.")["Is there a night porter in the annex?"] == text


@pytest.mark.parametrize(
    ("question", "plain"),
    [
        ("Who founded the museum in 1911?", True),
        ("If the wind exceeds 22 knots, what does the ferry do?", True),
        ("Is there a lift in the annex?", True),
        ("Wann wurde das Museum gegründet?", True),
        ("Guests sign what?", False),
        ("The museum was founded when?", False),
        ("What is mentioned in connection with the annex and the lift?", False),
        ("Complete: Ada Quill founded … in 1911.", False),
        ("Which sentence of “Quill” speaks of museum and lenses?", False),
        ("Who founded it?", False),
        ("Every room has a safe, what?", False),
    ],
)
def test_plain_questions(question: str, plain: bool) -> None:
    assert is_plain_question(question) is plain


def test_only_plain_questions_that_were_recalled_are_suggested() -> None:
    def probe(sentence: int, question: str, recalled: bool = True) -> dict[str, object]:
        return {"sentence": sentence, "question": question, "recalled": recalled}

    probes = [
        probe(0, "The museum was founded when?"),
        probe(0, "Who founded the museum in 1911?"),
        probe(0, "What year was the museum founded?"),
        probe(1, "How many lenses does the museum own?", recalled=False),
        probe(2, "When did the tower burn in Merrow?"),
        probe(3, "Where does Ada Quill live?"),
    ]
    assert suggested_questions(probes, 2) == ["Who founded the museum in 1911?", "When did the tower burn in Merrow?"]


def test_no_task_that_was_found_wrong_and_mended_comes_back() -> None:
    mended = defaultdict(set)
    for line in (DATA / "labelled.jsonl").read_text(encoding="utf-8").splitlines():
        task = json.loads(line)
        if task["mended"]:
            mended[task["document"]].add((task["question"], task["answer"]))
    assert mended
    for name, wrong in mended.items():
        document = read_document(DATA / name)
        tasks = generate_tasks(document.title, split_sentences(document.text), per_sentence=20)
        assert not wrong & {(task.question, task.answer) for task in tasks}
