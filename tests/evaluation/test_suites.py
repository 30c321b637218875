"""The suites of files: every published layout gives the same records, and every fault is named by line and field."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lift.errors import DataError, UsageError
from lift.evaluation import data_files
from lift.evaluation.data_files import BadData
from lift.evaluation.records import Record
from lift.evaluation.suites import loogle, narrativeqa, qa, qmsum, squad
from lift.evaluation.suites.suite import Reading, Suite, SuiteSettings

Json = Any
SUITES: dict[str, Suite] = {module.SUITE.name: module.SUITE for module in (qa, squad, loogle, qmsum, narrativeqa)}

FIRST = "Ada Quill founded the museum of Port Merrow in 1911. It owns 42 lenses."
SECOND = "A storm destroyed the old tower in 1907."
TEXT = f"{FIRST}\n\n{SECOND}"


def lines(*values: Json) -> bytes:
    return b"".join(json.dumps(value, ensure_ascii=False).encode("utf-8") + b"\n" for value in values)


def read(name: str, path: Path, bad: BadData | None = None, **settings: Any) -> list[Record]:
    suite = SUITES[name]
    given = SuiteSettings(data=path, **settings)
    suite.check(given)
    return list(suite.read(Reading(given, lambda text: [], bad or BadData())))


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def content(records: list[Record]) -> list[Json]:
    """All of the records but for ids and sources, which not every layout has."""
    return [
        (
            record.document.title,
            record.document.text,
            [(each.text, each.answers, each.evidence, each.kind) for each in record.questions],
        )
        for record in records
    ]


# Our record format


def question(**changes: Json) -> dict[str, Json]:
    asked = {
        "id": "q1", "question": "Who founded the museum?", "answers": ["Ada Quill", "Quill"],
        "evidence": [FIRST], "type": "person",
    }  # fmt: skip
    return {name: value for name, value in (asked | changes).items() if value is not ...}


def document(**changes: Json) -> dict[str, Json]:
    record = {
        "id": "merrow",
        "source": "local paper",
        "title": "Port Merrow",
        "context": TEXT,
        "questions": [question()],
    }
    return {name: value for name, value in (record | changes).items() if value is not ...}


def test_a_record_has_all_that_its_line_says(tmp_path: Path) -> None:
    [record] = read("qa", write(tmp_path / "own.jsonl", lines(document())))
    assert (record.id, record.document.title, record.document.source) == ("merrow", "Port Merrow", "local paper")
    assert record.document.text == TEXT
    [asked] = record.questions
    assert (asked.id, asked.text, asked.answers) == ("q1", "Who founded the museum?", ("Ada Quill", "Quill"))
    assert (asked.evidence, asked.kind) == ((FIRST,), "person")
    assert record.asking.metrics == ("contained", "f1", "exact_match")


def test_what_may_be_missing_is_made_up_from_the_line(tmp_path: Path) -> None:
    short = {"context": TEXT, "questions": [{"question": "Who?", "answers": "Ada Quill", "evidence": ["", " "]}]}
    first, second = read("qa", write(tmp_path / "own.jsonl", lines(document(), short)))
    assert first.id == "merrow"
    assert (second.id, second.document.title, second.document.source) == ("own-2", "own-2", "own.jsonl")
    assert (second.questions[0].id, second.questions[0].answers) == ("own-2-0", ("Ada Quill",))
    assert (second.questions[0].evidence, second.questions[0].kind) == ((), "")


def test_a_question_without_answers_is_one_that_the_document_does_not_answer(tmp_path: Path) -> None:
    asked = [question(), question(id="q2", answers=[]), question(id="q3", answers=[], evidence=...)]
    bad = BadData()
    [record] = read("qa", write(tmp_path / "own.jsonl", lines(document(questions=asked))), bad)
    assert [(each.answers, each.evidence) for each in record.questions[1:]] == [((), (FIRST,)), ((), ())]
    assert bad.faults == []


def test_a_document_may_be_a_file_beside_the_data(tmp_path: Path) -> None:
    write(tmp_path / "texts" / "merrow.md", f"# Port Merrow\n\n{FIRST}\n\n{SECOND}\n".encode())
    titled = document(context=..., file="texts/merrow.md", id="titled", title="The town")
    path = write(tmp_path / "own.jsonl", lines(document(context=..., file="texts/merrow.md", title=...), titled))
    first, second = read("qa", path)
    assert (first.document.title, second.document.title) == ("Port Merrow", "The town")
    assert FIRST in first.document.text and SECOND in first.document.text


BAD_DOCUMENTS = [
    (document(context=" \n"), "context", "expected text, got none"),
    (document(context=...), "context", "is missing"),
    (document(context=["a"]), "context", "expected text, got list"),
    (document(id=1.5), "id", "expected text, got float"),
    (document(title=7), "title", "expected text, got int"),
    (document(questions=...), "questions", "is missing"),
    (document(questions=[]), "questions", "at least 1"),
    (document(questions={"question": "Who?"}), "questions", "expected a list, got dict"),
    (document(id="good"), "id", "'good' again"),
    (document(title="\ud83d"), "", "surrogate"),
    (document(file="merrow.md"), "file", "got both"),
    (document(context=..., file="nosuch.md"), "file", "nosuch.md"),
    (document(context=..., file="../merrow.md"), "file", "got one outside"),
    (document(context=..., file=["merrow.md"]), "file", "expected text, got list"),
]
BAD_QUESTIONS = [
    (question(answers=[" "]), "answers", "none of them blank"),
    (question(answers=""), "answers", "none of them blank"),
    (question(answers=["Ada", " "]), "answers", "none of them blank"),
    (question(answers=...), "answers", "is missing"),
    (question(answers=None), "answers", "got NoneType"),
    (question(question=""), "question", "expected text, got none"),
    (question(evidence=3), "evidence", "expected a text or a list of texts, got int"),
    (question(type=["x"]), "type", "expected text, got list"),
    (question(id="q0"), "id", "'q0' again"),
    (question(id=True), "id", "expected text, got bool"),
]


@pytest.mark.parametrize(("bad_line", "field", "what"), BAD_DOCUMENTS)
def test_a_faulty_document_is_named_and_only_it_is_left_out(
    tmp_path: Path, bad_line: Json, field: str, what: str
) -> None:
    text = json.dumps(bad_line).encode("utf-8") + b"\n"
    path = write(tmp_path / "own.jsonl", lines(document(id="good")) + b"\n" + text + lines(document(id="last")))
    with pytest.raises(DataError, match=r"own\.jsonl, line 3.*--skip-bad") as raised:
        read("qa", path)
    assert what in str(raised.value)
    bad = BadData(skip=True)
    assert [record.id for record in read("qa", path, bad)] == ["good", "last"]
    [fault] = bad.faults
    assert (fault.file, fault.line, fault.field) == ("own.jsonl", 3, field)


@pytest.mark.parametrize(("bad_question", "field", "what"), BAD_QUESTIONS)
def test_a_faulty_question_is_named_and_only_it_is_left_out(
    tmp_path: Path, bad_question: Json, field: str, what: str
) -> None:
    asked = [question(id="q0"), bad_question, question(id="q2")]
    path = write(tmp_path / "own.jsonl", lines(document(questions=asked)))
    with pytest.raises(DataError, match=rf"line 1, field 'questions\[1\]\.{field}'") as raised:
        read("qa", path)
    assert what in str(raised.value)
    bad = BadData(skip=True)
    [record] = read("qa", path, bad)
    assert [each.id for each in record.questions] == ["q0", "q2"]
    assert [fault.field for fault in bad.faults] == [f"questions[1].{field}"]


def test_a_question_that_is_no_object_leaves_the_others(tmp_path: Path) -> None:
    bad = BadData(skip=True)
    [record] = read("qa", write(tmp_path / "own.jsonl", lines(document(questions=["Who?", question()]))), bad)
    assert [each.id for each in record.questions] == ["q1"]
    assert str(bad.faults[0]) == "own.jsonl, line 1, field 'questions[0]': expected an object, got str"


def test_a_document_without_a_good_question_is_no_record(tmp_path: Path) -> None:
    bad = BadData(skip=True)
    assert read("qa", write(tmp_path / "own.jsonl", lines(document(questions=[question(answers=[" "])]))), bad) == []
    assert len(bad.faults) == 1


def test_lines_that_are_no_objects_are_counted_and_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "LONGEST_LINE_BYTES", 2000)
    data = [
        lines(document(id="first")),
        b'{"context": "caf\xe9"}\n',
        lines(document(id="huge", title="x" * 5000)),
        b"[1, 2]\n",
        b"{broken}\n",
        lines(document(id="last")),
        lines(document(id="cut off"))[:-20],
    ]
    bad = BadData(skip=True)
    assert [record.id for record in read("qa", write(tmp_path / "own.jsonl", b"".join(data)), bad)] == ["first", "last"]
    assert [fault.line for fault in bad.faults] == [2, 3, 4, 5, 7]
    said = ["byte 0xe9", "a longer one", "got list", "expected JSON", "may be truncated"]
    assert all(words in fault.what for words, fault in zip(said, bad.faults, strict=True))


@pytest.mark.parametrize("name", SUITES)
def test_a_path_that_cannot_be_read_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"--data for the suite {name}, got .* which is not there"):
        read(name, tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="is empty"):
        read(name, write(tmp_path / "empty.jsonl", b""))
    with pytest.raises(DataError, match=str(tmp_path)):
        read(name, tmp_path)
    with pytest.raises(UsageError, match="give it by --data"):
        list(SUITES[name].read(Reading(SuiteSettings(), lambda text: [], BadData())))


@pytest.mark.parametrize("name", [name for name in SUITES if name != "narrativeqa"])
def test_every_suite_but_narrativeqa_takes_our_format(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "own.jsonl", lines(document()))
    assert content(read(name, path)) == content(read("qa", path))


def test_the_same_data_has_the_same_digest_every_time(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", lines(document()))
    assert [each.digest for each in read("qa", path)] == [each.digest for each in read("qa", path)]


# SQuAD and XQuAD

ANSWERABLE = {"id": "s1", "question": "Who founded it?", "answers": [{"text": "Ada Quill", "answer_start": 0}] * 3}
IMPOSSIBLE = {"id": "s2", "question": "Who sold it?", "answers": [], "is_impossible": True}
OTHER = {
    "id": "s3",
    "question": "What fell?",
    "answers": [{"text": "the old tower", "answer_start": 18}],
    "is_impossible": False,
}


def article(*paragraphs: Json) -> Json:
    return {"title": "Port_Merrow", "paragraphs": list(paragraphs)}


def squad_file(*articles: Json) -> Json:
    return {"version": "v2.0", "data": list(articles)}


SQUAD = squad_file(
    article({"context": FIRST, "qas": [ANSWERABLE, IMPOSSIBLE]}, {"context": SECOND, "qas": [OTHER]}),
    article({"context": "Nothing is asked here.", "qas": []}),
)
SQUAD_AS_OURS = document(
    id="dev-0",
    questions=[
        question(id="s1", question="Who founded it?", answers=["Ada Quill"], evidence=[FIRST], type=""),
        question(id="s2", question="Who sold it?", answers=[], evidence=[FIRST], type=""),
        question(id="s3", question="What fell?", answers=["the old tower"], evidence=[SECOND[2:-6]], type=""),
    ],
)


@pytest.mark.parametrize("data", [lines(SQUAD), json.dumps(SQUAD, indent=1).encode()], ids=["one line", "spread"])
def test_an_article_of_squad_is_one_memory_or_one_a_paragraph(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path / "dev.json", data)
    bad = BadData()
    [whole] = read("squad", path, bad, per="article")
    assert (whole.id, whole.document.title, whole.document.text) == ("dev-0", "Port Merrow", TEXT)
    asked = [(each.id, each.answers, each.evidence) for each in whole.questions]
    assert asked == [("s1", ("Ada Quill",), (FIRST,)), ("s2", (), (FIRST,)), ("s3", ("the old tower",), (SECOND,))]
    first, second = read("squad", path, bad, per="paragraph")
    assert (first.id, first.document.text, second.document.text) == ("dev-0-0", FIRST, SECOND)
    assert (first.questions, second.questions) == (whole.questions[:2], whole.questions[2:])
    assert bad.faults == []


def test_the_plausible_answers_of_an_impossible_question_are_none(tmp_path: Path) -> None:
    plausible = [{"text": "Bram Holt", "answer_start": 0}]
    asked = [IMPOSSIBLE | {"plausible_answers": plausible}, IMPOSSIBLE | {"id": "s5", "answers": plausible}]
    [record] = read("squad", write(tmp_path / "dev.json", lines(squad_file(article({"context": FIRST, "qas": asked})))))
    assert [(each.id, each.answers, each.evidence) for each in record.questions] == [
        ("s2", (), (FIRST,)),
        ("s5", (), (FIRST,)),
    ]


def test_an_unanswerable_question_without_evidence_goes_to_the_paragraph_most_like_it(tmp_path: Path) -> None:
    text = "The tower fell.\n\nA ferry sank in the harbour.\n\nThe harbour has a ferry."
    asked = [question(id="ferry", question="Who painted the ferry of the harbour?", answers=[], evidence=[])]
    [record] = read("squad", write(tmp_path / "own.jsonl", lines(document(context=text, questions=asked))),
                    per="paragraph")  # fmt: skip
    assert (record.document.text, record.questions[0].answers) == ("A ferry sank in the harbour.", ())


def test_an_article_in_our_format_falls_into_the_same_paragraphs(tmp_path: Path) -> None:
    official = read("squad", write(tmp_path / "dev.json", lines(SQUAD)), per="paragraph")
    ours = read("squad", write(tmp_path / "ours.jsonl", lines(SQUAD_AS_OURS)), per="paragraph")
    assert [(each.id, each.document.title, each.document.text) for each in official] == [
        (each.id, each.document.title, each.document.text) for each in ours
    ]
    assert [[q.id for q in each.questions] for each in official] == [[q.id for q in each.questions] for each in ours]


def test_a_question_goes_to_the_paragraph_that_is_its_evidence(tmp_path: Path) -> None:
    text = "The tower fell. It was old.\n\nThe tower fell.\n \nThe end."
    asked = [
        question(id="equal", evidence=["The tower fell."]),
        question(id="part", evidence=["It was old.", "The tower fell."]),
        question(id="two", evidence=["It was old.", "The end."]),
        question(id="none", evidence=[]),
    ]
    path = write(tmp_path / "own.jsonl", lines(document(context=text, questions=asked)))
    bad = BadData(skip=True)
    found = {each.document.text: [q.id for q in each.questions] for each in read("squad", path, bad, per="paragraph")}
    assert found == {"The tower fell. It was old.": ["part"], "The tower fell.": ["equal"]}
    assert [fault.field for fault in bad.faults] == ["questions[2].evidence", "questions[3].evidence"]


@pytest.mark.parametrize(
    ("broken", "field", "kept"),
    [
        (squad_file(article({"context": " ", "qas": [OTHER]}, *SQUAD["data"][0]["paragraphs"][:1])),
         "data[0].paragraphs[0].context", ["s1", "s2"]),
        (squad_file({"title": "x", "paragraphs": []}, *SQUAD["data"]), "data[0].paragraphs", ["s1", "s2", "s3"]),
        (squad_file("x", *SQUAD["data"]), "data[0]", ["s1", "s2", "s3"]),
        (squad_file(article({"context": FIRST}, {"context": SECOND, "qas": [OTHER]})),
         "data[0].paragraphs[0].qas", ["s3"]),
        (squad_file(article({"context": FIRST, "qas": [ANSWERABLE, OTHER | {"answers": []}]})),
         "data[0].paragraphs[0].qas[1].answers", ["s1"]),
        (squad_file(article({"context": FIRST, "qas": [ANSWERABLE, OTHER | {"is_impossible": "false"}]})),
     "data[0].paragraphs[0].qas[1].is_impossible", ["s1"]),
    (squad_file(article({"context": FIRST, "qas": [OTHER | {"answers": [{"text": ""}]}, ANSWERABLE]})),
         "data[0].paragraphs[0].qas[0].answers[0].text", ["s1"]),
        (squad_file(article({"context": FIRST, "qas": [ANSWERABLE]}, {"context": SECOND, "qas": [ANSWERABLE]})),
         "data[0].paragraphs[1].qas[0].id", ["s1"]),
    ],
)  # fmt: skip
def test_a_fault_of_squad_names_its_place(tmp_path: Path, broken: Json, field: str, kept: list[str]) -> None:
    path = write(tmp_path / "dev.json", lines(broken))
    with pytest.raises(DataError, match="mend it"):
        read("squad", path)
    bad = BadData(skip=True)
    assert [each.id for record in read("squad", path, bad) for each in record.questions] == kept
    assert [fault.field for fault in bad.faults] == [field]


@pytest.mark.parametrize(
    ("change", "line", "what"),
    [
        (lambda data: data[: len(data) // 2], None, "may be truncated"),
        (lambda data: data.replace(b"Quill", b"Qu\xefll"), 8, "byte 0xef"),
        (lambda data: data.replace(b'"qas"', b"qas", 1), 9, "expected JSON"),
        (lambda data: data + b" " * 9000, 1, "at most"),
    ],
)
def test_a_file_of_one_value_that_is_broken_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes], line: int | None, what: str
) -> None:
    monkeypatch.setattr(data_files, "LONGEST_LINE_BYTES", 9000)
    path = write(tmp_path / "dev.json", change(json.dumps(SQUAD, indent=1).encode()))
    bad = BadData(skip=True)
    assert read("squad", path, bad) == []
    [fault] = bad.faults
    assert what in fault.what
    assert line is None or fault.line == line


# LooGLE

PAIRS = [
    {"Q": "Who founded the museum?", "A": "Ada Quill", "S": [FIRST[:52]], "type": "retrieval"},
    {"Q": 'What\'s "the" loss?', "A": "The tower\nand more", "S": [SECOND, FIRST[53:]], "type": "computation"},
]
LOOGLE_LINE = {"input": TEXT, "title": "Port Merrow", "output": "none"}
FLAT = [
    {"context": TEXT, "title": "Port Merrow", "question": each["Q"], "answer": each["A"], "evidence": each["S"],
     "type": each["type"], "task": "longdep_qa", "doc_id": "7", "id": number}
    for number, each in enumerate(PAIRS)
]  # fmt: skip
LOOGLE_LAYOUTS = {
    "python text": lines(LOOGLE_LINE | {"qa_pairs": repr(PAIRS)}),
    "json text": lines(LOOGLE_LINE | {"qa_pairs": json.dumps(PAIRS)}),
    "list": lines(LOOGLE_LINE | {"qa_pairs": PAIRS}),
    "context": lines({"context": TEXT, "title": "Port Merrow", "qa_pairs": repr(PAIRS)}),
    "flat": lines(*FLAT),
    "flat, evidence as text": lines(*(each | {"evidence": repr(each["evidence"])} for each in FLAT)),
    "flat, without ids": lines(*({k: v for k, v in each.items() if k not in ("id", "doc_id")} for each in FLAT)),
    "flat, answers": lines(*(each | {"answer": [each["answer"]], "type": None, "task": each["type"]} for each in FLAT)),
}
LOOGLE_AS_OURS = lines(
    document(
        questions=[
            question(id=str(number), question=each["Q"], answers=[each["A"]], evidence=each["S"], type=each["type"])
            for number, each in enumerate(PAIRS)
        ]
    )
)


@pytest.mark.parametrize("layout", LOOGLE_LAYOUTS)
def test_every_layout_of_loogle_gives_the_same_records(tmp_path: Path, layout: str) -> None:
    records = read("loogle", write(tmp_path / "longdep_qa.jsonl", LOOGLE_LAYOUTS[layout]))
    assert content(records) == content(read("loogle", write(tmp_path / "ours.jsonl", LOOGLE_AS_OURS)))
    assert len({each.id for each in records[0].questions}) == 2
    assert (records[0].asking.max_new_tokens, records[0].asking.metrics[0]) == (64, "f1")


def test_the_text_of_a_list_is_never_run(tmp_path: Path) -> None:
    witness = tmp_path / "was run"
    evil = f"[{{'Q': 'Who?', 'A': open({str(witness)!r}, 'w').write('x') and 'Ada', 'S': 'x'}}]"
    system = f"__import__('os').system('touch {witness}')"
    deep = "[" * 100_000
    rows = [LOOGLE_LINE | {"qa_pairs": text} for text in (evil, system, deep, "none", "", "{}", "[]")]
    flat = FLAT[0] | {"evidence": f"[open({str(witness)!r}, 'w')]"}
    bad = BadData(skip=True)
    [record] = read("loogle", write(tmp_path / "longdep_qa.jsonl", lines(*rows, flat)), bad)
    assert record.questions[0].evidence == (flat["evidence"],)
    assert not witness.exists()
    assert [(fault.line, fault.field) for fault in bad.faults] == [(number, "qa_pairs") for number in range(1, 8)]
    assert "'none'; the summaries of LooGLE have none" in bad.faults[3].what


def test_questions_of_one_text_are_gathered_wherever_they_stand(tmp_path: Path) -> None:
    other = {"context": SECOND, "question": "What fell?", "answer": "The tower", "doc_id": "7", "id": "x"}
    records = read("loogle", write(tmp_path / "both.jsonl", lines(FLAT[0], other, FLAT[1])))
    assert [(each.id, len(each.questions)) for each in records] == [("7", 2), ("both-2", 1)]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (LOOGLE_LINE | {"qa_pairs": [PAIRS[0], PAIRS[1] | {"A": {"<mask-0>": "Ada"}}]}, "qa_pairs[1].A"),
        (LOOGLE_LINE | {"qa_pairs": repr([PAIRS[0], {"A": "Ada"}])}, "qa_pairs[1].Q"),
        (LOOGLE_LINE | {"qa_pairs": PAIRS, "input": ""}, "input"),
        (FLAT[1] | {"answer": ""}, "answer"),
        (FLAT[1] | {"context": None}, "context"),
        (FLAT[0], "id"),
        ({"context": TEXT}, "qa_pairs"),
    ],
)
def test_a_fault_of_loogle_names_line_and_field(tmp_path: Path, row: Json, field: str) -> None:
    bad = BadData(skip=True)
    records = read("loogle", write(tmp_path / "longdep_qa.jsonl", lines(FLAT[0], row)), bad)
    assert (FLAT[0]["question"],) in [tuple(each.text for each in record.questions) for record in records]
    assert [(fault.line, fault.field) for fault in bad.faults] == [(2, field)]


# QMSum

MEETING = {
    "topic_list": [{"topic": "Lenses", "relevant_text_span": [["0", "1"]]}],
    "general_query_list": [{"query": "Summarize the whole meeting.", "answer": "They talk of lenses."}],
    "specific_query_list": [
        {"query": "What of the lenses?", "answer": "There are 42.", "relevant_text_span": [["0", "1"], ["3", "3"]]}
    ],
    "meeting_transcripts": [
        {"speaker": "Chair", "content": "How many lenses\nare there?"},
        {"speaker": "Ada Quill", "content": "42 of them."},
        {"speaker": "Chair", "content": ""},
        {"speaker": "Clerk", "content": "Noted."},
    ],
}
MEETING_TEXT = "Chair: How many lenses are there?\nAda Quill: 42 of them.\nChair: \nClerk: Noted."


def test_every_layout_of_qmsum_gives_the_same_records(tmp_path: Path) -> None:
    ours = {
        "title": "m1",
        "context": MEETING_TEXT,
        "questions": [
            {"question": "Summarize the whole meeting.", "answers": ["They talk of lenses."], "type": "general"},
            {
                "question": "What of the lenses?",
                "answers": ["There are 42."],
                "evidence": [MEETING_TEXT.split("\nChair: \n", maxsplit=1)[0], "Clerk: Noted."],
                "type": "specific",
            },
        ],
    }
    expected = content(read("qmsum", write(tmp_path / "ours.jsonl", lines(ours))))
    folder = tmp_path / "test"
    write(folder / "m2.json", lines(MEETING))
    write(folder / "m1.json", json.dumps(MEETING, indent=4).encode())
    write(folder / "notes.txt", b"not a meeting")
    first, second = read("qmsum", folder)
    assert (first.id, second.id) == ("m1", "m2")
    assert content([first]) == expected
    assert content(read("qmsum", folder / "m1.json")) == expected
    [_, record] = read("qmsum", write(tmp_path / "test.jsonl", lines(MEETING, MEETING)))
    assert content([record])[0][1:] == expected[0][1:]
    assert [each.id for each in record.questions] == ["test-2-general0", "test-2-specific0"]
    assert (record.asking.max_new_tokens, record.asking.metrics[0]) == (128, "rouge1")


@pytest.mark.parametrize("span", [["0", "4"], ["-1", "2"], ["2", "1"], ["0"], ["a", "b"], 3])
def test_turns_that_are_not_there_are_a_fault_of_their_question(tmp_path: Path, span: Json) -> None:
    asked = [MEETING["specific_query_list"][0] | {"relevant_text_span": [["0", "1"], span]}]
    bad = BadData(skip=True)
    [record] = read("qmsum", write(tmp_path / "m.jsonl", lines(MEETING | {"specific_query_list": asked})), bad)
    assert [each.kind for each in record.questions] == ["general"]
    assert bad.faults[0].field == "specific_query_list[0].relevant_text_span[1]"
    assert "0 to 3" in bad.faults[0].what


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"meeting_transcripts": []}, "meeting_transcripts"),
        ({"meeting_transcripts": ["Chair: Yes."]}, "meeting_transcripts[0]"),
        ({"meeting_transcripts": [{"speaker": "Chair"}]}, "meeting_transcripts[0].content"),
        ({"meeting_transcripts": [{"content": "Yes."}]}, "meeting_transcripts[0].speaker"),
        ({"general_query_list": [], "specific_query_list": []}, "specific_query_list"),
        ({"general_query_list": [{"query": "Why?", "answer": ""}], "specific_query_list": []},
         "general_query_list[0].answer"),
    ],
)  # fmt: skip
def test_a_fault_of_a_meeting_names_its_file_and_field(tmp_path: Path, changes: Json, field: str) -> None:
    write(tmp_path / "a.json", json.dumps(MEETING | changes, indent=1).encode())
    write(tmp_path / "b.json", json.dumps(MEETING).encode())
    bad = BadData(skip=True)
    assert [record.id for record in read("qmsum", tmp_path, bad)] == ["b"]
    assert [(fault.file, fault.field) for fault in bad.faults] == [("a.json", field)]


def test_a_meeting_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.json", b'{"meeting_transcripts":\n"caf\xe9"}')
    with pytest.raises(DataError, match=r"a\.json, line 2: expected UTF-8, got byte 0xe9"):
        read("qmsum", tmp_path)


# NarrativeQA

STORY = "Ada Quill built a museum by the sea. A storm came, and the old tower fell."
PAGE = f"<html><head><script>if (window) run();</script></head><body><p>{STORY}</p></body></html>"
SUMMARY = "A woman builds a museum."


def narrative(**changes: Json) -> dict[str, Json]:
    summary = {"text": SUMMARY, "title": "The Lens"}
    story = {"id": "a1", "kind": "movie", "text": STORY, "summary": summary} | changes.pop("document", {})
    row = {
        "document": story,
        "question": {"text": "Who built it?"},
        "answers": [{"text": "Ada"}, {"text": "Ada Quill"}],
    }
    return row | changes


ROWS = [narrative(), narrative(question={"text": "What fell?"}, answers=[{"text": "The tower"}, {"text": "The tower"}])]
QAPS = [("a1", "Who built it?", "Ada", "Ada Quill"), ("a1", "What fell?", "The tower", "")]


def table(header: str, *rows: tuple[str, ...]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream).writerows([header.split(","), *rows])
    return stream.getvalue().encode("utf-8")


def narrative_folder(folder: Path, questions: list[tuple[str, ...]] = QAPS, story: str | None = STORY) -> Path:
    documents = [("b2", "test", "gutenberg", "Not asked"), ("a1", "test", "movie", "The Lens")]
    write(folder / "documents.csv", table("document_id,set,kind,wiki_title", *documents))
    write(folder / "qaps.csv", table("document_id,question,answer1,answer2", *questions))
    summaries = table("document_id,set,summary", ("a1", "test", SUMMARY))
    write(folder / "third_party" / "wikipedia" / "summaries.csv", summaries)
    if story is not None:
        write(folder / "tmp" / "a1.content", story.encode("utf-8"))
    return folder


@pytest.mark.parametrize(
    ("rows", "story", "text", "source"),
    [
        (ROWS, STORY, STORY, ""),
        ([each | {"document": each["document"] | {"text": PAGE}} for each in ROWS], PAGE, STORY, ""),
        ([each | {"document": each["document"] | {"text": ""}} for each in ROWS], None, SUMMARY, "summary"),
    ],
    ids=["text", "page", "summary"],
)
def test_both_layouts_of_narrativeqa_give_the_same_records(
    tmp_path: Path, rows: Json, story: str | None, text: str, source: str
) -> None:
    flat = read("narrativeqa", write(tmp_path / "test.jsonl", lines(*rows)))
    folder = read("narrativeqa", narrative_folder(tmp_path / "narrativeqa", story=story))
    assert content(flat) == content(folder)
    for [record] in (flat, folder):
        assert (record.id, record.document.title, record.document.text) == ("a1", "The Lens", text)
        assert [each.answers for each in record.questions] == [("Ada", "Ada Quill"), ("The tower",)]
        assert [each.kind for each in record.questions] == ["movie", "movie"]
        assert ("summary" in record.document.source) is bool(source)
        assert (record.asking.max_new_tokens, record.asking.metrics[0]) == (32, "rougeL")


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (narrative(document={"text": None, "summary": {}}), "document.text"),
        (narrative(document={"text": f"{STORY} It ends otherwise."}), "document.text"),
        (narrative(document={"id": None}), "document.id"),
        (narrative(document={"id": "a2", "text": "<html></html>"}), "document.text"),
        (narrative(question="Who?"), "question"),
        (narrative(question={}), "question.text"),
        (narrative(answers=[]), "answers"),
        (narrative(answers=[{"text": "Ada"}, {"text": ""}]), "answers[1].text"),
        (narrative(answers=["Ada"]), "answers[0]"),
        ({"question": {"text": "Who?"}}, "document"),
    ],
)
def test_a_fault_of_narrativeqa_names_line_and_field(tmp_path: Path, row: Json, field: str) -> None:
    bad = BadData(skip=True)
    [record] = read("narrativeqa", write(tmp_path / "test.jsonl", lines(ROWS[0], row, ROWS[1])), bad)
    assert [each.text for each in record.questions] == ["Who built it?", "What fell?"]
    assert [(fault.line, fault.field) for fault in bad.faults] == [(2, field)]


def test_faults_of_the_directory_name_their_file(tmp_path: Path) -> None:
    questions = [
        *QAPS,
        ("a1", "Why?", "", " "),
        ("a1", "", "x", "y"),
        ("zz", "Who?", "x", "y"),
        ("b2", "Who?", "x", "y"),
    ]
    bad = BadData(skip=True)
    [record] = read("narrativeqa", narrative_folder(tmp_path, questions), bad)
    assert len(record.questions) == 2
    assert [(fault.file, fault.line, fault.field) for fault in bad.faults] == [
        ("documents.csv", 2, "document_id"),
        ("qaps.csv", 4, "answer1"),
        ("qaps.csv", 5, "question"),
        ("qaps.csv", 6, "document_id"),
    ]
    assert "b2.content" in bad.faults[0].what


def test_a_directory_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    folder = narrative_folder(tmp_path)
    write(folder / "qaps.csv", table("document_id,question,answer1", ("a1", "Who?", "Ada")))
    with pytest.raises(DataError, match=r"expected a column answer2 in .*qaps\.csv"):
        read("narrativeqa", folder)
    write(folder / "qaps.csv", b"document_id,question,answer1,answer2\na1,caf\xe9?,x,y\n")
    with pytest.raises(DataError, match=r"qaps\.csv is no CSV file in UTF-8"):
        read("narrativeqa", folder)
    (folder / "qaps.csv").unlink()
    with pytest.raises(DataError, match=r"qaps\.csv cannot be read"):
        read("narrativeqa", folder)
