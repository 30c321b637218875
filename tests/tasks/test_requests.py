"""What a language model is asked, how its replies are read, and which of its tasks are kept."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.documents.sentences import Sentence
from lift.recipes.recipe import Recipe, load_recipe
from lift.tasks.checks import ReplyChecker
from lift.tasks.generation import GenerationCounts
from lift.tasks.generator import open_generator
from lift.tasks.reply_parsing import ParsedReply, Unusable, WrittenTask, parse_json, parse_labelled, reply_schema
from lift.tasks.requests import TaskRequest, instructions, material, plan_requests
from lift.tasks.support import SupportingText

TEXT = [
    "Ines Calloway chaired the meeting.",
    "The survey of the north pier costs 12,600 euros.",
    "The ferry to Skell Island will run every forty minutes from 1 June.",
    "-----",
    "Children under seven travel free of charge.",
]


def numbered(texts: list[str]) -> list[Sentence]:
    sentences, start = [], 0
    for index, text in enumerate(texts):
        sentences.append(Sentence(index, text, start, start + len(text), 0))
        start += len(text) + 1
    return sentences


def recipe(*overrides: str) -> Recipe:
    return load_recipe("default", overrides)


def planned(texts: list[str], *overrides: str) -> tuple[TaskRequest, ...]:
    return plan_requests("Minutes", numbered(texts), recipe(*overrides))


def test_family_b_asks_about_every_sentence_behind_what_fits_of_those_before() -> None:
    requests = planned(TEXT, "generator.preceding_chars=75", "tasks.per_sentence=3")
    assert [[sentence.index for sentence in request.shown] for request in requests] == [[0], [0, 1], [1, 2], [2, 3, 4]]
    assert [request.position for request in requests] == [1, 2, 4, 5]
    assert not any(request.windowed for request in requests)
    shown = material(requests[2])
    assert "at most 3 " in shown and TEXT[1] in shown and "Minutes" in shown
    assert shown.count(TEXT[2]) == 2
    assert [[s.index for s in r.shown] for r in planned(TEXT, "generator.preceding_chars=0")] == [[0], [1], [2], [4]]


def test_sentences_without_letters_at_the_end_are_done_with_the_last_request() -> None:
    assert [request.position for request in planned(["***", *TEXT[:2], "---", "***"])] == [2, 5]
    assert planned(["---", "***"]) == () == planned(["---"], "tasks.per_document=3")


@pytest.mark.parametrize("sentences", [1, 2, 15, 16, 17, 40])
@pytest.mark.parametrize("total", [1, 7, 30])
def test_family_a_has_as_many_windows_as_asked_for_whatever_the_length(sentences: int, total: int) -> None:
    texts = [f"Ship {number} sank." for number in range(sentences)]
    requests = planned(texts, f"tasks.per_document={total}")
    assert len(requests) == total
    assert all(request.limit == 1 and len(request.shown) == min(16, sentences) for request in requests)
    for request in requests:
        indices = [sentence.index for sentence in request.shown]
        assert indices == list(range(indices[0], indices[0] + len(indices)))
    positions = [request.position for request in requests]
    assert positions == sorted(positions) and positions[-1] == sentences
    assert [r.shown[0].index for r in requests] == sorted(r.shown[0].index for r in requests)
    # no two requests are the same, or one reply would come back for both
    assert len({material(request) for request in requests}) == total
    assert requests == planned(texts, f"tasks.per_document={total}")
    if sentences == 40 and total > 1:
        assert requests != planned(texts, f"tasks.per_document={total}", "training.seed=1")


@pytest.mark.parametrize("total", [0, 4])
@pytest.mark.parametrize("labelled", [False, True])
def test_the_instruction_is_added_and_the_format_described(total: int, labelled: bool) -> None:
    request = planned(TEXT, f"tasks.per_document={total}", "generator.instruction=Ask about {money}.")[0]
    told = instructions(request, labelled=labelled)
    assert "Ask about {money}." in told
    assert ("Question: ..." in told) is labelled and ('"question"' in told) is not labelled
    assert ("vidence" in told.rpartition("form:")[2]) is bool(total)
    assert set(reply_schema(bool(total))["properties"]["tasks"]["items"]["properties"]) >= {"question", "answer"}


ONE = '[{"question": "Who?", "answer": "Ines"}]'
READ = ParsedReply((WrittenTask("Who?", "Ines"),))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (ONE, READ),
        (f'{{"tasks": {ONE}}}', READ),
        (f"```json\n{ONE}\n```", READ),
        (f"Here are [1] the questions:\n{ONE}\nGood luck!", READ),
        ("[]", ParsedReply(())),
        ('{"tasks": []}', ParsedReply(())),
        ('[{"question": " a\\n b ", "answer": "c\\u0000d"}]', ParsedReply((WrittenTask("a b", "c d"),))),
        ('[{"question": "Who?", "answer": "Ines", "note": 1}, {"question": "x"}, 7]', ParsedReply(READ.tasks, 2)),
        (f"{ONE}\n{ONE}", Unusable("not JSON")),
        (ONE[:-5], Unusable("not JSON")),
        ('{"tasks": [{"question": "a", "answer": "b", "evidence": []}, {"quest', Unusable("not JSON")),
        ("I cannot help with that.", Unusable("not JSON")),
        ("", Unusable("not JSON")),
        ("[{'question': 'Who?', 'answer': 'Ines'}]", Unusable("not JSON")),
        ("__import__('os').getcwd()", Unusable("not JSON")),
        ('[{"a":' * 100_000, Unusable("not JSON")),
        ("[" * 100_000, Unusable("not JSON")),
        ("1" * 10_000, Unusable("not JSON")),
        ('[{"question": "Who?", "answer": 1911}]', Unusable("not of the schema")),
        ('[{"question": "\\ud800?", "answer": "Ines"}]', Unusable("not of the schema")),
        ('["Who?", "Ines"]', Unusable("not of the schema")),
    ],
)
def test_json_is_read_only_where_it_can_mean_one_thing(reply: str, expected: object) -> None:
    assert parse_json(reply, with_evidence=False) == expected


def test_evidence_is_a_sentence_or_several_and_must_be_there() -> None:
    written = [{"question": "Who?", "answer": "Ines", "evidence": evidence} for evidence in ("One.", ["One.", "Two."])]
    found = parse_json(json.dumps([*written, {"question": "Who?", "answer": "Ines"}]), with_evidence=True)
    assert isinstance(found, ParsedReply)
    assert [task.evidence for task in found.tasks] == [("One.",), ("One.", "Two.")]
    assert found.malformed == 1


@given(st.text())
def test_any_reply_is_read_or_refused(reply: str) -> None:
    for with_evidence in (False, True):
        for found in (
            parse_json(reply, with_evidence=with_evidence),
            parse_labelled(reply, with_evidence=with_evidence),
        ):
            assert isinstance(found, ParsedReply | Unusable)


@pytest.mark.parametrize(
    ("reply", "questions", "malformed"),
    [
        ("Question: Who?\nAnswer: Ines\n\n2. Question: What?\nAnswer: a pier", ["Who?", "What?"], 0),
        ("Sure!\nQuestion: Who?\nAnswer: Ines", ["Who?"], 0),
        ("Question: Who?\nI think\nAnswer: Ines\nQuestion: What?\nAnswer: a pier", ["What?"], 1),
        ("Question: Who?\nQuestion: What?\nAnswer: a pier\nQuestion: Why?", ["What?"], 2),
    ],
)
def test_labelled_lines_are_read_in_their_order(reply: str, questions: list[str], malformed: int) -> None:
    found = parse_labelled(reply, with_evidence=False)
    assert isinstance(found, ParsedReply)
    assert [task.question for task in found.tasks] == questions
    assert found.malformed == malformed
    assert parse_labelled(reply, with_evidence=True) == Unusable("no labelled lines")


@pytest.mark.parametrize(
    ("answer", "held"),
    [
        ("12,600 euros", True),
        ("The survey", True),
        ("euros: 12,600", True),
        ("the 1st of June", False),
        ("from 1 June", True),
        ("12,600", True),
        ("12600", False),
        ("12,601 euros", False),
        ("12 euros", False),
        ("600 euros", False),
        ("every 40 minutes", False),
        ("12,600 dollars", False),
        ("$12,600", False),
        ("not 12,600 euros", False),
        ("before 1 June", False),
        ("35 percent", True),
        ("35 per cent of ships", True),
        ("35%", True),
        ("35", True),
        ("-5", True),
        ("5", False),
        ("−5 degrees", True),
        ("of the", False),
        ("?", False),
        ("", False),
        ("三百人", True),
        ("百三人", False),
    ],
)
def test_no_number_and_no_word_passes_that_the_text_lacks(answer: str, held: bool) -> None:
    text = (
        "The survey costs 12,600 euros. The ferry will run from 1 June. Some 35% of the ships are frozen at "
        "-5 degrees. 村には三百人がいる。"
    )
    assert SupportingText.of(text).holds(answer) is held


def checked(
    request: TaskRequest, written: list[WrittenTask], held_out: int = 0, requests: int = 1
) -> tuple[list[Any], Counter[str]]:
    rejected: Counter[str] = Counter()
    tasks = ReplyChecker("openai:m", held_out, requests, rejected).tasks(request, ParsedReply(tuple(written)))
    return list(tasks), rejected


def test_every_rejection_of_family_b_is_counted_by_its_reason() -> None:
    request = planned(TEXT, "tasks.per_sentence=11")[1]
    good = WrittenTask("What does the survey cost?", "12,600 euros")
    written = [
        good,
        WrittenTask("what does survey cost", "12,600 euros"),
        WrittenTask("", "12,600 euros"),
        WrittenTask("What does it survey?", ""),
        WrittenTask("What is it?", "12,600 euros"),
        WrittenTask("How much money?", "12,600 euros"),
        WrittenTask("What does the survey in the passage cost?", "12,600 euros"),
        WrittenTask("What does the pier cost?" * 30, "12,600 euros"),
        WrittenTask("What does the repair of the pier cost?", "90,000 euros"),
        WrittenTask("Who chaired the meeting?", "Ines Calloway"),
        WrittenTask("Is the survey free?", "No"),
        WrittenTask("What is surveyed?", "the north pier"),
    ]
    tasks, rejected = checked(request, written)
    assert [(task.question, task.evidence, task.origin) for task in tasks] == [
        (good.question, (1,), "openai:m"),
        ("Who chaired the meeting?", (1,), "openai:m"),
    ]
    assert rejected == {
        "asked before": 1,
        "empty": 2,
        "names nothing of the text": 2,
        "asks about the prompt": 1,
        "too long": 1,
        "unsupported": 2,
        "more than asked for": 1,
    }


@pytest.mark.parametrize(
    ("evidence", "indices", "reason"),
    [
        ((TEXT[1],), (1,), None),
        (("The  survey of\nthe north pier",), (1,), None),
        ((TEXT[0], TEXT[1]), (1, 0), None),
        (("meeting. The survey of the north pier costs 12,600 euros.",), (1, 0), None),
        (("The survey of the south pier costs 12,600 euros.",), (), "evidence not in the text"),
        ((TEXT[1], "He said so."), (), "evidence not in the text"),
        ((), (), "evidence not in the text"),
        ((" ",), (), "evidence not in the text"),
        (("the",), (), "evidence too short"),
    ],
)
def test_evidence_of_family_a_is_verbatim(
    evidence: tuple[str, ...], indices: tuple[int, ...], reason: str | None
) -> None:
    request = planned(TEXT, "tasks.per_document=1")[0]
    tasks, rejected = checked(request, [WrittenTask("What does the survey cost?", "12,600 euros", evidence)])
    assert [task.evidence for task in tasks] == ([] if reason else [indices])
    assert rejected == ({reason: 1} if reason else {})


def test_answers_of_family_a_must_be_supported_too() -> None:
    request = planned(TEXT, "tasks.per_document=1")[0]
    tasks, rejected = checked(request, [WrittenTask("What does it cost to survey?", "9 euros", (TEXT[1],))])
    assert tasks == [] and rejected == {"unsupported": 1}


def test_a_sentence_holds_back_what_another_task_teaches_or_one_of_four() -> None:
    request = planned(TEXT, "tasks.per_sentence=9")[2]
    same = [WrittenTask("Where does the ferry go?", "Skell Island"), WrittenTask("Which island?", "Skell Island")]
    other = [
        WrittenTask("How often does the ferry run?", "every forty minutes"),
        WrittenTask("From when does the ferry run?", "1 June"),
        WrittenTask("What goes to Skell Island?", "The ferry"),
    ]
    probes = {
        tuple(task.question for task in checked(request, written, held_out)[0] if task.held_out)
        for written, held_out in [([*same, other[0]], 1)]
    }
    assert probes == {("Which island?",)}
    assert not [task for task in checked(request, [same[0], *other[:2]], 1)[0] if task.held_out]
    assert [task.held_out for task in checked(request, [same[0], *other], 1)[0]] == [False, False, False, True]
    assert not [task for task in checked(request, [*same, *other], 0)[0] if task.held_out]


@pytest.mark.parametrize(("held_out", "windows", "probes"), [(1, 20, [9, 19]), (1, 9, []), (0, 20, [])])
def test_family_a_holds_back_every_tenth_of_ten_or_more(held_out: int, windows: int, probes: list[int]) -> None:
    texts = [f"Ship {number} sank in the bay." for number in range(windows)]
    requests = planned(texts, f"tasks.per_document={windows}")
    checker = ReplyChecker("self", held_out, windows, Counter())
    tasks = []
    for request in requests:
        sentence = request.shown[0].text
        written = WrittenTask(f"Where did number {request.number} sink?", "in the bay", (sentence,))
        tasks.extend(checker.tasks(request, ParsedReply((written,))))
    assert [place for place, task in enumerate(tasks) if task.held_out] == probes


def test_rules_come_a_piece_a_sentence(tiny_model: Any) -> None:
    generator = open_generator("Minutes", numbered(TEXT), recipe(), tiny_model, "en")
    pieces = list(generator.stream())
    assert [piece.position for piece in pieces] == [1, 2, 3, 4, 5]
    assert all(task.evidence[0] == piece.position - 1 for piece in pieces for task in piece.tasks)
    assert generator.counts == GenerationCounts(kept=sum(len(piece.tasks) for piece in pieces))


@pytest.mark.parametrize("total", [1, 3, 5, 12, 10_000])
def test_rules_spread_as_many_tasks_as_asked_for_over_the_document(total: int, tiny_model: Any) -> None:
    everything = [
        task
        for piece in open_generator("M", numbered(TEXT), recipe(), tiny_model, "en").stream()
        for task in piece.tasks
    ]
    chosen = open_generator("M", numbered(TEXT), recipe(f"tasks.per_document={total}"), tiny_model, "en")
    pieces = [piece.tasks for piece in chosen.stream()]
    trained = [[task for task in tasks if not task.held_out] for tasks in pieces]
    available = [task for task in everything if not task.held_out]
    assert sum(map(len, trained)) == min(total, len(available))
    assert [task for tasks in pieces for task in tasks if task.held_out] == [t for t in everything if t.held_out]
    askable = [any(map(str.isalnum, sentence)) for sentence in TEXT]
    if total <= sum(askable):
        assert max(map(len, trained)) == 1
    if total == 12:
        assert [bool(tasks) for tasks in trained] == askable


def test_counts_add_up_over_generators() -> None:
    part = GenerationCounts(requests=2, answered=1, failed=Counter(timeout=1), kept=3, rejected=Counter(empty=2))
    total = GenerationCounts()
    total.add(part)
    total.add(part)
    assert total.as_dict() == {
        "requests": 4,
        "answered": 2,
        "from_cache": 0,
        "failed": {"timeout": 2},
        "retried": {},
        "kept": 6,
        "rejected": {"empty": 4},
    }
