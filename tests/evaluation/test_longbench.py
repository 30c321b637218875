"""LongBench and LongBench v2: official prompts and exceptions, and what is said of bad data."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from lift.errors import DataError, UsageError
from lift.evaluation.data_files import BadData
from lift.evaluation.records import Record
from lift.evaluation.suites import longbench, longbench2
from lift.evaluation.suites.longbench_tasks import LONGBENCH_TASKS, without_document
from lift.evaluation.suites.suite import Reading, SuiteSettings
from lift.packing.prompts import prompt_ids, user_text

# Of the English prompts in LongBench/config/dataset2prompt.json as JSON, in their order there.
PUBLISHED_PROMPTS_SHA256 = "b191c3b1eae7464a8d130d301337b3d962ed82ee119521bb281ab371ef84dbf6"
# Of the Chinese ones, likewise.
PUBLISHED_CHINESE_SHA256 = "41605ed3dba75bf9c98dc02dfb9ae97cedc3c5f2e86a2eaaa35ed5e8c5031298"
# name: answer tokens, metric, chat template, first line only (dataset2maxlen.json, eval.py, pred.py)
PUBLISHED = {
    "narrativeqa": (128, "longbench_qa_f1", True, False),
    "qasper": (128, "longbench_qa_f1", True, False),
    "multifieldqa_en": (64, "longbench_qa_f1", True, False),
    "hotpotqa": (32, "longbench_qa_f1", True, False),
    "2wikimqa": (32, "longbench_qa_f1", True, False),
    "musique": (32, "longbench_qa_f1", True, False),
    "gov_report": (512, "longbench_rouge", True, False),
    "qmsum": (512, "longbench_rouge", True, False),
    "multi_news": (512, "longbench_rouge", True, False),
    "trec": (64, "longbench_classification", False, True),
    "triviaqa": (32, "longbench_qa_f1", False, True),
    "samsum": (128, "longbench_rouge", False, True),
    "passage_count": (32, "longbench_count", True, False),
    "passage_retrieval_en": (32, "longbench_retrieval", True, False),
    "lcc": (64, "longbench_code_sim", False, False),
    "repobench-p": (64, "longbench_code_sim", False, False),
    "multifieldqa_zh": (64, "longbench_qa_f1_zh", True, False),
    "dureader": (128, "longbench_rouge_zh", True, False),
    "vcsum": (512, "longbench_rouge_zh", True, False),
    "lsht": (64, "longbench_classification", False, True),
    "passage_retrieval_zh": (32, "longbench_retrieval_zh", True, False),
}
CHINESE = ("multifieldqa_zh", "dureader", "vcsum", "lsht", "passage_retrieval_zh")
WITHOUT_INPUT = {"gov_report", "multi_news", "passage_count", "lcc", "vcsum"}


def line(dataset: str, **changed: Any) -> dict[str, Any]:
    values = {
        "input": "" if dataset in WITHOUT_INPUT else "Who built {context}?",
        "context": "Passage 1:\nAda built the {question} tower.\n",
        "answers": ["Ada", "Ada Quill"],
        "length": 4100,
        "dataset": dataset,
        "language": "en",
        "all_classes": ["Person", "Place"] if dataset in ("trec", "lsht") else None,
        "_id": "17",
    }
    return values | changed


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in lines), "utf-8")
    return path


def read(suite: Any, data: Path, *, bad: BadData | None = None, **settings: Any) -> list[Record]:
    return list(suite.read(Reading(SuiteSettings(data=data, **settings), lambda _: [], bad or BadData())))


def prompts(record: Record) -> tuple[str, str]:
    """The prompt that reads the whole document, and the one closed book."""
    text, form = record.questions[0].text, record.asking.form
    return user_text(text, record.document.text, form), user_text(text, None, form)


def test_prompts_are_the_published_ones_to_the_letter() -> None:
    prompts = {task.name: task.prompt for task in LONGBENCH_TASKS}
    english = {name: prompt for name, prompt in prompts.items() if name not in CHINESE}
    assert hashlib.sha256(json.dumps(english).encode()).hexdigest() == PUBLISHED_PROMPTS_SHA256
    chinese = {name: prompts[name] for name in CHINESE}
    assert hashlib.sha256(json.dumps(chinese).encode()).hexdigest() == PUBLISHED_CHINESE_SHA256


@pytest.mark.parametrize("name", PUBLISHED)
def test_answer_lengths_metrics_and_exceptions_are_the_published_ones(name: str, tmp_path: Path) -> None:
    (record,) = read(longbench, write(tmp_path / f"{name}.jsonl", line(name)))
    asking = record.asking
    found = (asking.max_new_tokens, asking.metrics[0], asking.form.chat, asking.first_line)
    assert found == PUBLISHED[name]
    assert len(LONGBENCH_TASKS) == len(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_document_is_in_the_prompt_once_and_not_closed_book(name: str, tmp_path: Path) -> None:
    (record,) = read(longbench, write(tmp_path / f"{name}.jsonl", line(name)))
    reading, closed = prompts(record)
    task = next(task for task in LONGBENCH_TASKS if task.name == name)
    own = line(name)
    behind = task.prompt.partition("{context}")[2]
    filled = task.prompt.replace("{context}", "\0").replace("{input}", own["input"]).replace("\0", own["context"])
    assert reading == filled
    assert own["context"] not in closed
    assert closed.endswith(behind.lstrip().replace("{input}", own["input"]))
    if own["input"]:
        assert closed.count(own["input"]) == 1
        assert record.questions[0].text == own["input"]
    else:
        assert record.questions[0].text.casefold() in task.prompt.casefold()
        assert len(record.questions[0].text) > (5 if name in CHINESE else 20)


def test_a_question_is_rendered_as_published(tmp_path: Path) -> None:
    (record,) = read(longbench, write(tmp_path / "hotpotqa.jsonl", line("hotpotqa")))
    order = (
        "Answer the question based on the given passages. Only give me the answer and do not output any other words."
    )
    asked = f"{order}\n\nQuestion: Who built {{context}}?\nAnswer:"
    assert prompts(record) == (
        f"{order}\n\nThe following are given passages.\nPassage 1:\nAda built the {{question}} tower.\n\n\n{asked}",
        asked,
    )
    assert record.questions[0].answers == ("Ada", "Ada Quill")
    assert (record.document.title, record.questions[0].kind, record.questions[0].choices) == (
        "",  # the data has none, and none is made up
        "hotpotqa",
        (),
    )


def test_a_summary_is_rendered_as_published(tmp_path: Path) -> None:
    (record,) = read(longbench, write(tmp_path / "gov_report.jsonl", line("gov_report", context="It rained.")))
    assert prompts(record) == (
        "You are given a report by a government agency. Write a one-page summary of the report.\n\n"
        "Report:\nIt rained.\n\nNow, write a one-page summary of the report.\n\nSummary:",
        "Now, write a one-page summary of the report.\n\nSummary:",
    )
    assert record.questions[0].text == "Write a one-page summary of the report."


def test_a_label_is_rendered_as_published_and_without_chat_template(tmp_path: Path, tiny_tokenizer: Any) -> None:
    given = line("trec", input="Question: Who is Ada?\nType:", context="Question: Where?\nType: Place")
    (record,) = read(longbench, write(tmp_path / "trec.jsonl", given))
    reading, closed = prompts(record)
    assert reading == (
        "Please determine the type of the question below. Here are some examples of questions.\n\n"
        "Question: Where?\nType: Place\nQuestion: Who is Ada?\nType:"
    )
    assert closed == "Please determine the type of the question below.\n\nQuestion: Who is Ada?\nType:"
    assert record.questions[0].choices == ("Person", "Place")
    ids = prompt_ids(tiny_tokenizer, given["input"], given["context"], record.asking.form)
    assert tiny_tokenizer.decode(ids) == reading


def test_a_prompt_without_its_document_keeps_what_is_asked() -> None:
    assert without_document("Read.\n\n{context}\n\nNow answer.\n{input}\nAnswer:") == "Now answer.\n{input}\nAnswer:"
    assert without_document("Sum up. These are examples.\n\n{context}\n\n{input}") == "Sum up.\n\n{input}"
    assert without_document("Complete. \n{context}{input}Next:\n") == "Complete. \n{input}Next:\n"


def test_files_of_a_directory_are_read_by_their_names(tmp_path: Path) -> None:
    write(tmp_path / "qasper.jsonl", line("qasper"), line("qasper", _id="18"))
    write(tmp_path / "trec.jsonl", line("trec"))
    (tmp_path / "another.jsonl").write_text("not read", "utf-8")
    assert [record.id for record in read(longbench, tmp_path)] == ["qasper-17", "qasper-18", "trec-17"]
    assert [record.id for record in read(longbench, tmp_path, tasks=("trec",))] == ["trec-17"]
    with pytest.raises(DataError, match=r"lines of the tasks lcc in .*none"):
        read(longbench, tmp_path, tasks=("trec", "lcc"))
    with pytest.raises(DataError, match=r"NAME\.jsonl of LongBench .*\(NAME: lcc\)"):
        read(longbench, tmp_path, tasks=("lcc",))


def test_one_file_may_hold_several_tasks(tmp_path: Path) -> None:
    path = write(tmp_path / "mixed.jsonl", line("qasper", _id="1"), line("lcc", _id="2"), line("qasper", _id="3"))
    assert [record.id for record in read(longbench, path, tasks=("qasper",))] == ["mixed-1", "mixed-3"]


@pytest.mark.parametrize(("length", "named"), [(3999, "0-4k"), (4000, "4-8k"), (7999, "4-8k"), (8000, "8k+")])
@pytest.mark.parametrize("dataset", ["qasper", "qasper_e"])
def test_longbench_e_is_told_apart_by_length(length: int, named: str, dataset: str, tmp_path: Path) -> None:
    write(tmp_path / "qasper.jsonl", line("qasper"))
    write(tmp_path / "qasper_e.jsonl", line(dataset, length=length))
    records = read(longbench, tmp_path, tasks=("qasper",))
    assert [(record.id, record.questions[0].kind) for record in records] == [
        ("qasper-17", "qasper"),
        ("qasper_e-17", f"qasper/{named}"),
    ]
    assert records[0].asking == records[1].asking


@pytest.mark.parametrize(
    ("dataset", "name"),
    [*(("qasper", name) for name in ("input", "context", "answers", "dataset", "_id")), ("trec", "all_classes")],
)
def test_a_missing_field_is_named_with_its_line(dataset: str, name: str, tmp_path: Path) -> None:
    broken = line(dataset, _id="18")
    del broken[name]
    path = write(tmp_path / "data.jsonl", line(dataset), broken, line(dataset, _id="19"))
    with pytest.raises(DataError, match=f"data.jsonl, line 2, field '{name}': is missing"):
        read(longbench, path)
    bad = BadData(skip=True)
    assert [record.id for record in read(longbench, path, bad=bad)] == ["data-17", "data-19"]
    assert [(fault.line, fault.field) for fault in bad.faults] == [(2, name)]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dataset": "spoken"}, "field 'dataset': expected a task of LongBench .*got 'spoken'"),
        ({"input": " "}, "field 'input': expected text, got none"),
        ({"answers": []}, "field 'answers': expected at least one"),
        ({"_id": "17"}, "field '_id': .*'17' again"),
        ({"dataset": "qasper_e", "length": "long"}, "field 'length': expected a whole number, got 'long'"),
    ],
)
def test_a_bad_line_is_named(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", line("qasper"), line("qasper", _id="18") | changed)
    with pytest.raises(DataError, match=f"line 2, {said}"):
        read(longbench, path)


def test_an_unknown_task_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'hotpot_qa'; the nearest is 'hotpotqa'"):
        read(longbench, tmp_path, tasks=("hotpot_qa",))


def choice_line(**changed: Any) -> dict[str, Any]:
    values = {
        "_id": "a1",
        "domain": "Single-Document QA",
        "sub_domain": "Academic",
        "difficulty": "easy",
        "length": "short",
        "question": " Who built it? ",
        **{f"choice_{letter}": f"Option {letter} " for letter in "ABCD"},
        "answer": "B",
        "context": "\nAda built it.\n",
    }
    return values | changed


def test_four_options_are_rendered_as_published(tmp_path: Path) -> None:
    (record,) = read(longbench2, write(tmp_path / "data.jsonl", choice_line()))
    asked = (
        "What is the correct answer to this question: Who built it?\nChoices:\n"
        "(A) Option A\n(B) Option B\n(C) Option C\n(D) Option D\n\n"
    )
    answer = 'ormat your response as follows: "The correct answer is (insert answer here)".'
    assert prompts(record) == (
        "Please read the following text and answer the question below.\n\n"
        f"<text>\nAda built it.\n</text>\n\n{asked}F{answer}",
        f"{asked}What is the single, most likely answer choice? F{answer}",
    )
    (question,) = record.questions
    assert (question.answers, question.choices) == (("B",), ("A", "B", "C", "D"))
    assert question.kind == "Single-Document QA/easy/short"
    assert (record.asking.metrics, record.asking.max_new_tokens, record.asking.judged) == (("choice",), 128, False)


def test_a_json_list_is_read_like_json_lines(tmp_path: Path) -> None:
    items = [choice_line(), choice_line(_id="a2", answer="D")]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(items, indent=1), "utf-8")
    found = read(longbench2, path)
    assert [record.digest for record in found] == [
        record.digest for record in read(longbench2, write(tmp_path / "data.jsonl", *items))
    ]
    assert [record.id for record in found] == ["a1", "a2"]


@pytest.mark.parametrize("name", [*(name for name in choice_line() if name != "sub_domain")])
@pytest.mark.parametrize("as_list", [False, True], ids=["lines", "list"])
def test_a_missing_field_of_a_choice_is_named(name: str, as_list: bool, tmp_path: Path) -> None:
    broken = choice_line(_id="a2")
    del broken[name]
    path = tmp_path / "data.json"
    write(path, choice_line(), broken)
    if as_list:
        path.write_text(json.dumps([choice_line(), broken]), "utf-8")
    with pytest.raises(DataError, match=f"data.json, line 2, field '{name}': is missing"):
        read(longbench2, path)


def test_choices_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected one of A, B, C, D, got 'E'"):
        read(longbench2, write(tmp_path / "letter.jsonl", choice_line(answer="E")))
    with pytest.raises(DataError, match="'a1' again"):
        read(longbench2, write(tmp_path / "twice.jsonl", choice_line(), choice_line()))
    cut = tmp_path / "cut.json"
    cut.write_text(json.dumps([choice_line()])[:-20], "utf-8")
    with pytest.raises(DataError, match=r"cut\.json cannot be read as JSON"):
        read(longbench2, cut)
    cut.write_text("[1]", "utf-8")
    with pytest.raises(DataError, match="line 1: expected an object, got int"):
        read(longbench2, cut)
    with pytest.raises(DataError, match="cannot be read"):
        read(longbench2, tmp_path / "none.json")
