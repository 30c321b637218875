"""PassageRetrieval: which paragraphs are asked about, what a summary must be, and the task that is made of it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from scripted_endpoint import ScriptedEndpoint

from lift.documents.document import Document
from lift.documents.sentences import Sentence, split_sentences
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe, load_recipe
from lift.tasks.checks import ReplyChecker, doubt
from lift.tasks.generator import open_generator
from lift.tasks.paragraphs import FEWEST_SENTENCES, MOST_SENTENCES, askable_paragraphs, draw_paragraphs
from lift.tasks.reply_parsing import ParsedReply, Unusable, read_json, read_labelled
from lift.tasks.requests import TaskRequest, instructions, material, plan_requests
from lift.training.batch_sampler import BatchSampler

HOUSES = ["mill", "inn", "lighthouse", "chapel"]
SUMMARY = "A {house} stands on the shore. Ines Calloway built it. It has rooms and a tower. Visitors come by ferry."


def paragraph(house: str) -> str:
    return (
        f"The {house} was built by Ines Calloway on the north shore of the bay. It has twelve rooms, a tower and a "
        "long pier. Visitors come there by ferry from Skell Island every summer and stay for a week."
    )


LABELLED = "\n\n".join(f"Paragraph {number + 5}: {paragraph(house)}" for number, house in enumerate(HOUSES))
PLAIN = "\n\n".join(["The houses of the bay", *map(paragraph, HOUSES), "* * *"])


def recipe(*overrides: str) -> Recipe:
    wanted = ["generator.kind=self", "generator.form=paragraph", "tasks.per_document=4", *overrides]
    return load_recipe("default", wanted)


def planned(text: str, *overrides: str) -> tuple[TaskRequest, ...]:
    return plan_requests("Houses", split_sentences(text), recipe(*overrides))


def test_a_paragraph_is_called_by_its_own_label_or_by_its_number_in_the_text() -> None:
    assert [each.target for each in askable_paragraphs(split_sentences(LABELLED))] == [
        "Paragraph 5", "Paragraph 6", "Paragraph 7", "Paragraph 8",
    ]  # fmt: skip
    found = askable_paragraphs(split_sentences(PLAIN))
    assert [each.target for each in found] == ["Paragraph 2", "Paragraph 3", "Paragraph 4", "Paragraph 5"]
    assert [[sentence.paragraph for sentence in each.sentences] for each in found] == [
        [1] * 3,
        [2] * 3,
        [3] * 3,
        [4] * 3,
    ]


def test_labels_that_stand_twice_or_at_few_paragraphs_name_nothing() -> None:
    twice = LABELLED.replace("Paragraph 8:", "Paragraph 5:")
    assert [each.target for each in askable_paragraphs(split_sentences(twice))] == ["Paragraph 6", "Paragraph 7"]
    one = f"{PLAIN}\n\nParagraph 1: {paragraph('barn')}"
    assert [each.target[-1] for each in askable_paragraphs(split_sentences(one))] == ["2", "3", "4", "5", "7"]


@pytest.mark.parametrize(("count", "total"), [(4, 1), (4, 4), (4, 10), (30, 60), (1, 3)])
def test_every_paragraph_is_drawn_before_any_is_drawn_again(count: int, total: int) -> None:
    drawn = draw_paragraphs(count, total, seed=3)
    times = Counter(drawn)
    assert len(drawn) == total and drawn == sorted(drawn) == draw_paragraphs(count, total, seed=3)
    assert max(times.values()) - min(times[place] for place in range(count)) <= 1
    assert draw_paragraphs(0, total, seed=3) == []


def test_a_request_shows_a_paragraph_without_its_label_and_never_the_same_twice() -> None:
    requests = planned(LABELLED, "tasks.per_document=10")
    assert len({material(request) for request in requests}) == 10
    assert not any("Paragraph 5" in material(request) or "5:" in material(request) for request in requests)
    assert [request.target for request in requests] == sorted(request.target for request in requests)
    assert [request.position for request in requests][-1] == len(split_sentences(LABELLED)) == 12
    assert requests == planned(LABELLED, "tasks.per_document=10")
    assert planned(LABELLED, "tasks.per_document=2") != planned(LABELLED, "tasks.per_document=2", "training.seed=1")
    assert "4 to 6 sentences" in instructions(requests[0])
    assert '"summary"' in instructions(requests[0]) and "Summary: ..." in instructions(requests[0], labelled=True)


def test_a_text_without_a_paragraph_to_sum_up_gets_no_requests() -> None:
    assert planned("One line.\n\nAnother line.\n\n---") == ()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Summary: One. Two.", ParsedReply(summary="One. Two.")),
        ("Sure!\n\nSummary:\nOne.\nTwo.\n\nI hope that helps.", ParsedReply(summary="One. Two.")),
        ("Summary:", ParsedReply()),
        ("One. Two.", Unusable("no labelled lines")),
        ("Summary: One.\nSummary: Two.", Unusable("several summaries")),
    ],
)
def test_a_labelled_summary_is_read_where_there_is_one(reply: str, expected: object) -> None:
    assert read_labelled(planned(LABELLED)[0], reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"summary": "One.\\nTwo."}', ParsedReply(summary="One. Two.")),
        ('Here:\n```json\n{ "summary": "One."}\n```', ParsedReply(summary="One.")),
        ('{"summary": 7}', Unusable("not of the schema")),
        ('{"tasks": []}', Unusable("not of the schema")),
        ('{"summary": "One."} {"summary": "Two."}', Unusable("not JSON")),
        ('{"summary": "One', Unusable("not JSON")),
        ("One. Two.", Unusable("not JSON")),
        ('{"a":' * 100_000, Unusable("not JSON")),
    ],
)
def test_a_summary_in_json_is_read_where_there_is_one(reply: str, expected: object) -> None:
    assert read_json(planned(LABELLED)[0], reply) == expected


GOOD = SUMMARY.format(house="mill")


@pytest.mark.parametrize(
    ("summary", "reason"),
    [
        (GOOD, None),
        ("", "empty"),
        (" ".join(GOOD.split(". ")[: FEWEST_SENTENCES - 1]), "too short"),
        (" ".join(["Ines built it."] * (MOST_SENTENCES + 1)), "too long"),
        (GOOD.replace("rooms", "rooms " * 400), "too long"),
        (f"{GOOD} This is paragraph 5.", "gives its number away"),
        (f"{GOOD} It stands in Paragraph no. 5 of the text.", "gives its number away"),
        (f"{GOOD} So says the 5th paragraph.", "gives its number away"),
        (f"{GOOD} It differs from paragraph 55.", None),
        ("Cats purr. Dogs bark. Cows moo. Pigs grunt.", "names nothing of the text"),
    ],
)
def test_a_summary_is_kept_or_rejected_by_a_reason_that_is_counted(summary: str, reason: str | None) -> None:
    request = planned(LABELLED)[0]
    rejected: Counter[str] = Counter()
    checker = ReplyChecker("self", 0, 1, rejected)
    tasks = checker.tasks(request, ParsedReply(summary=summary))
    assert rejected == ({reason: 1} if reason else {})
    assert doubt(request, ParsedReply(summary=summary)) == reason
    if reason is None:
        [task] = tasks
        assert task.answer == "Paragraph 5" and task.evidence == (0, 1, 2) and not task.held_out
        assert summary in task.question and "“Houses”" in task.question and "Paragraph 5" not in task.question
        assert checker.tasks(request, ParsedReply(summary=summary)) == () and rejected == {"asked before": 1}


def test_one_of_ten_is_held_out_where_probes_are_wanted() -> None:
    requests = planned(LABELLED, "tasks.per_document=10")
    checker = ReplyChecker("self", 1, 10, Counter())
    kept = [checker.tasks(each, ParsedReply(summary=f"{GOOD} Number {each.number}.")) for each in requests]
    assert [task.held_out for tasks in kept for task in tasks] == [False] * 9 + [True]


def test_the_base_model_sums_up_and_its_replies_are_cached(
    monkeypatch: pytest.MonkeyPatch, tiny_model: BaseModel
) -> None:
    tiny_model.model.config.max_position_embeddings = 8192
    asked: list[str] = []

    def write(model: Any, prompts: list[list[int]], **options: Any) -> list[list[int]]:
        texts = [tiny_model.tokenizer.decode(prompt) for prompt in prompts]
        asked.extend(texts)
        houses = [next(house for house in HOUSES if f"The {house} " in text) for text in texts]
        replies = [f"Summary: {SUMMARY.format(house=house)}" for house in houses]
        return [list(tiny_model.tokenizer(reply)["input_ids"]) for reply in replies]

    monkeypatch.setattr("lift.inference.generate.generate", write)
    sentences = split_sentences(PLAIN)
    generator = open_generator("Houses", sentences, recipe(), tiny_model, "en")
    pieces = list(generator.stream())
    assert [task.answer for piece in pieces for task in piece.tasks] == [
        f"Paragraph {number}" for number in range(2, 6)
    ]
    assert pieces[-1].position == len(sentences) and len(asked) == 4
    again = open_generator("Houses", sentences, recipe(), tiny_model, "en")
    assert again.cached_requests == 4 and list(again.stream()) == pieces and len(asked) == 4


def test_an_endpoint_sums_up_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def reply(request: dict[str, Any]) -> str:
        schema = request["response_format"]["json_schema"]["schema"]
        assert list(schema["properties"]) == ["summary"]
        shown = request["messages"][-1]["content"]
        return json.dumps({"summary": SUMMARY.format(house=next(each for each in HOUSES if f"The {each} " in shown))})

    with ScriptedEndpoint(reply) as endpoint:
        wanted = ["generator.kind=openai", "generator.model=m", f"generator.base_url={endpoint.base_url}"]
        generator = open_generator("Houses", split_sentences(LABELLED), recipe(*wanted), None, "en")
        tasks = [task for piece in generator.stream() for task in piece.tasks]
    assert [(task.answer, task.evidence) for task in tasks] == [
        (f"Paragraph {number + 5}", tuple(range(3 * number, 3 * number + 3))) for number in range(4)
    ]


def test_paragraphs_are_the_segments_that_are_trained(tiny_model: BaseModel) -> None:
    settings = load_recipe("lift-v3-passage-retrieval", ["tasks.weight=0", "segments.titled=true"])
    document = Document("Houses", LABELLED, "houses.txt")
    sentences = split_sentences(document.text)
    groups = BatchSampler(tiny_model.tokenizer, 8192, document, sentences, (), settings).groups(0)
    shown = [tiny_model.tokenizer.decode(list(example.ids)) for group in groups for example in group]
    assert "".join(shown) == f"Houses\n{LABELLED}"
    assert [text.strip() for text in shown][1:] == LABELLED.split("\n\n")[1:]


def test_sentences_of_a_later_part_count_its_own_paragraphs() -> None:
    later = [
        Sentence(each.index + 40, each.text, each.start + 900, each.end + 900, each.paragraph + 9)
        for each in split_sentences(PLAIN)
    ]
    assert [each.target for each in askable_paragraphs(later)] == [f"Paragraph {number}" for number in range(2, 6)]
