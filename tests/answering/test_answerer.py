from collections.abc import Sequence
from typing import Any

import pytest
import torch

from lift.absorbing.recall_report import choose_probes, probe_recall
from lift.adapters.lora import LoraAdapter
from lift.answering.answer import Answer
from lift.answering.answerer import Answerer, kept_prefixes
from lift.answering.prose import PROSE_TOKENS
from lift.documents.document import Document, Place
from lift.documents.sentences import Sentence
from lift.errors import UsageError
from lift.inference.generate import generate
from lift.models.base_model import BaseModel
from lift.packing.prompts import MAX_ANSWER_TOKENS, prompt_ids
from lift.recipes.recipe import AdapterSettings
from lift.tasks.task import Task

TEXTS = ["Ada Quill founded the museum.", "It owns 42 lenses.", "The tower burned in 1907."]
QUESTIONS = ["Who founded the museum?", "How many lenses does it own?", "When?"]


def document() -> Document:
    return Document("Merrow", " ".join(TEXTS), "test", (Place(0, page=1), Place(30, page=2)))


def sentences() -> list[Sentence]:
    text = " ".join(TEXTS)
    starts = [text.index(each) for each in TEXTS]
    return [Sentence(index, each, starts[index], starts[index] + len(each), 0) for index, each in enumerate(TEXTS)]


def answerer(base: BaseModel) -> Answerer:
    return Answerer.of(base, None, document(), sentences())


def saying(monkeypatch: pytest.MonkeyPatch, base: BaseModel, *answers: str) -> list[list[int]]:
    """Make the model say `answers`; returns the prompts that it was given."""
    given: list[list[int]] = []

    def generate(_model: Any, prompts: Sequence[Sequence[int]], **_options: Any) -> list[list[int]]:
        given.extend(list(prompt) for prompt in prompts)
        return [base.tokenizer(answers[index % len(answers)])["input_ids"] for index in range(len(prompts))]

    monkeypatch.setattr("lift.answering.answerer.generate", generate)
    return given


@pytest.mark.parametrize(
    ("question", "asked", "most"),
    [
        ("When did the tower burn?", None, MAX_ANSWER_TOKENS),
        ("Summarize what is told about the tower.", None, PROSE_TOKENS),
        ("Summarize what is told about the tower.", 5, 5),
    ],
)
def test_prose_may_be_longer_where_nobody_says_how_long(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch, question: str, asked: int | None, most: int
) -> None:
    found: list[int] = []

    def generate(_model: Any, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, **_options: Any) -> Any:
        found.append(max_new_tokens)
        return [[1] for _ in prompts]

    monkeypatch.setattr("lift.answering.answerer.generate", generate)
    answerer(tiny_model).ask_many([question], "evidence", max_new_tokens=asked)
    assert found == [most]


@pytest.mark.parametrize(("context", "shown"), [("none", 0), ("full", 3), ("evidence", 3), ("truncated", 3)])
def test_the_prompt_holds_what_the_context_says(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch, context: str, shown: int
) -> None:
    prompts = saying(monkeypatch, tiny_model, "1907")
    answer = answerer(tiny_model).ask("When did the tower burn?", context)
    text = tiny_model.tokenizer.decode(prompts[0])
    assert sum(each in text for each in TEXTS) == shown
    assert "When did the tower burn?" in text
    assert (answer.context, answer.prompt_tokens) == (context, len(prompts[0]))


def test_an_answer_names_the_sentence_that_supports_it_and_its_page(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    saying(monkeypatch, tiny_model, "1907")
    answer = answerer(tiny_model).ask("When did the tower burn?", "none")
    assert answer.supported
    assert answer.evidence[0].text == TEXTS[2]
    assert answer.evidence[0].place is not None
    assert answer.evidence[0].place.page == 2


def test_an_answer_that_nothing_supports_is_marked(tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    saying(monkeypatch, tiny_model, "Napoleon Bonaparte of France")
    assert not answerer(tiny_model).ask("Who founded the museum?", "none").supported


LIKELY, UNLIKELY = -1.0, -8.0


def auto(
    monkeypatch: pytest.MonkeyPatch,
    base: BaseModel,
    recalled: str,
    read: str,
    doubts: Sequence[str] = (),
) -> Answer:
    """The answer of a memory that reads for itself: it says `recalled` closed book, and `read` behind evidence.

    Behind evidence it finds the answers in `doubts` unlikely, closed book all but the one that it recalls.
    """
    adapter = LoraAdapter.create(base.model, AdapterSettings(rank=2), seed=0)

    def generate(_model: Any, prompts: Sequence[Sequence[int]], **_options: Any) -> list[list[int]]:
        behind = ["\n\n" in base.tokenizer.decode(list(prompt)) for prompt in prompts]
        return [base.tokenizer(read if evidence else recalled)["input_ids"] for evidence in behind]

    def judge(
        model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        return [
            [
                (UNLIKELY if each in doubts else LIKELY)
                if "\n\n" in tokenizer.decode(list(prompt))
                else (LIKELY if each == recalled else UNLIKELY)
                for each in wanted
            ]
            for prompt, wanted in zip(prompts, answers, strict=True)
        ]

    monkeypatch.setattr("lift.answering.answerer.generate", generate)
    monkeypatch.setattr("lift.answering.steps.log_probabilities", judge)
    answer = Answerer.of(base, adapter, document(), sentences()).ask("When did the tower burn?")
    assert adapter.rows is None
    adapter.detach()
    return answer


def test_auto_gives_what_was_read_where_memory_and_reading_agree(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = auto(monkeypatch, tiny_model, "1907", "1907")
    assert (answer.text, answer.context, answer.supported) == ("1907", "evidence", True)


def test_auto_gives_what_is_recalled_where_the_reader_doubts_what_it_read(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = auto(monkeypatch, tiny_model, "1907", "1911", doubts=["1911"])
    assert (answer.text, answer.context, answer.supported) == ("1907", "none", True)


def test_auto_gives_what_was_read_where_the_reader_doubts_what_is_recalled(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert auto(monkeypatch, tiny_model, "Napoleon", "1907", doubts=["Napoleon"]).text == "1907"


def test_a_memory_that_reads_for_itself_has_no_vote_besides(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert auto(monkeypatch, tiny_model, "1911", "1907").text == "1907"


def test_where_auto_had_a_choice_the_best_sentence_stands_beside_the_answer(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = auto(monkeypatch, tiny_model, "Napoleon", "Bonaparte", doubts=["Napoleon"])
    assert not answer.supported
    assert TEXTS[2] in [evidence.text for evidence in answer.evidence]


def test_auto_without_a_memory_reads_the_evidence(tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    saying(monkeypatch, tiny_model, "1907")
    assert answerer(tiny_model).ask("When did the tower burn?", "auto").text == "1907"


def test_a_text_that_does_not_fit_is_refused_whole_and_cut_on_request(tiny_model: BaseModel) -> None:
    long = Document("Long", "The tower burned. " * 200, "test")
    asked = Answerer.of(tiny_model, None, long, sentences())
    with pytest.raises(UsageError, match="does not fit"):
        asked.ask("When?", "full")
    answer = asked.ask("When?", "truncated")
    assert answer.truncated
    assert answer.prompt_tokens <= tiny_model.window_tokens


@pytest.mark.parametrize("context", ["none", "auto", "evidence", "truncated"])
def test_a_question_longer_than_the_window_is_refused_in_one_sentence(tiny_model: BaseModel, context: str) -> None:
    adapter = LoraAdapter.create(tiny_model.model, AdapterSettings(rank=2), seed=0)
    asked = Answerer.of(tiny_model, adapter, document(), sentences())
    with pytest.raises(UsageError, match=r"^expected .* fit.*; shorten [^\n]*$"):
        asked.ask("Who founded it? " * 100, context)
    close = "Who founded it? " * 62  # leaves less room than an answer may take
    with pytest.raises(UsageError, match="fit"):
        asked.ask_many([close], context, max_new_tokens=500)
    adapter.detach()


@pytest.mark.parametrize(("question", "context"), [("", "none"), ("  ", "auto"), ("Who?", "guess")])
def test_wrong_questions_are_refused(tiny_model: BaseModel, question: str, context: str) -> None:
    with pytest.raises(UsageError):
        answerer(tiny_model).ask(question, context)


def test_answers_come_in_the_order_of_the_questions_and_do_not_depend_on_the_batch(tiny_model: BaseModel) -> None:
    asked = answerer(tiny_model)
    together = [answer.text for answer in asked.ask_many(QUESTIONS, "none", batch_size=3)]
    assert together == [asked.ask(question, "none").text for question in QUESTIONS]


def test_streamed_text_is_the_answer(tiny_model: BaseModel) -> None:
    pieces: list[str] = []
    answer = answerer(tiny_model).ask(QUESTIONS[0], "none", on_text=pieces.append)
    assert "".join(pieces).strip().startswith(answer.text.rstrip("\ufffd"))


@pytest.mark.parametrize("keeps_text", [True, False])
def test_the_next_question_reads_the_text_again_only_where_it_is_not_kept(
    tiny_model: BaseModel, keeps_text: bool
) -> None:
    kept_prefixes(tiny_model.model).clear()
    asked = Answerer.of(tiny_model, None, document(), sentences(), keeps_text=keeps_text)
    fresh = answerer(tiny_model)
    widths: list[int] = []
    handle = tiny_model.model.register_forward_hook(
        lambda _model, _args, options, _output: widths.append(options["input_ids"].shape[1]), with_kwargs=True
    )
    answers = [asked.ask(question, "full") for question in QUESTIONS[:2]]
    handle.remove()
    read = [width for width in widths if width > 1]
    assert read[0] == answers[0].prompt_tokens
    assert (read[1] < answers[1].prompt_tokens - len(document().text) / 2) == keeps_text
    assert [answer.text for answer in answers] == [fresh.ask(question, "full").text for question in QUESTIONS[:2]]


def test_what_is_read_is_shown_before_the_memory_is_asked(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = saying(monkeypatch, tiny_model, "1907")
    adapter = LoraAdapter.create(tiny_model.model, AdapterSettings(rank=2), seed=0)
    Answerer.of(tiny_model, adapter, document(), sentences()).ask("When did the tower burn?")
    adapter.detach()
    assert [TEXTS[2] in tiny_model.tokenizer.decode(prompt) for prompt in prompts] == [True, False]


def test_generation_equals_one_forward_pass_a_token_without_a_cache(tiny_model: BaseModel) -> None:
    prompts = [prompt_ids(tiny_model.tokenizer, question) for question in QUESTIONS]
    batched = generate(tiny_model.model, prompts, max_new_tokens=8, end_ids=[])
    for prompt, answer in zip(prompts, batched, strict=True):
        ids = list(prompt)
        for _ in range(8):
            ids.append(int(tiny_model.model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert answer == ids[len(prompt) :]


def test_generation_stops_at_an_end_token_which_is_not_returned(tiny_model: BaseModel) -> None:
    prompt = prompt_ids(tiny_model.tokenizer, QUESTIONS[0])
    free = generate(tiny_model.model, [prompt], max_new_tokens=8, end_ids=[])[0]
    stopped = generate(tiny_model.model, [prompt], max_new_tokens=8, end_ids=[free[3]])[0]
    assert stopped == free[: free.index(free[3])]


def test_a_memory_that_is_off_generates_what_the_base_does(tiny_model: BaseModel) -> None:
    prompts = [prompt_ids(tiny_model.tokenizer, question) for question in QUESTIONS]
    base = generate(tiny_model.model, prompts, max_new_tokens=8, end_ids=[])
    adapter = LoraAdapter.create(tiny_model.model, AdapterSettings(rank=4), seed=0)
    for index, parameter in enumerate(adapter.parameters()):
        parameter.data.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    assert generate(tiny_model.model, prompts, max_new_tokens=8, end_ids=[]) != base
    with adapter.disabled():
        assert generate(tiny_model.model, prompts, max_new_tokens=8, end_ids=[]) == base


def test_the_recall_report_tells_known_sentences_from_forgotten_ones(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [
        Task("Who?", "Ada Quill", (0,), "test", held_out=True),
        Task("What?", "lenses", (1,), "test", held_out=True),
        Task("How many?", "42", (1,), "test", held_out=True),
        Task("When?", "1907", (2,), "test", held_out=True),
        Task("Trained?", "1907", (2,), "test"),
    ]
    saying(monkeypatch, tiny_model, "It was Ada Quill", "glasses", "42", "1911")
    report = probe_recall(answerer(tiny_model), 3, choose_probes(tasks))
    assert (report.recalled, report.forgotten, report.share) == ([0, 1], [2], pytest.approx(2 / 3))
    assert [row["recalled"] for row in report.rows()] == [True, False, True, False]


def test_probes_are_spread_over_the_document_where_only_some_can_be_asked() -> None:
    tasks = [Task(f"{index}?", "x", (index,), "test", held_out=True) for index in range(100)]
    chosen = [task.evidence[0] for task in choose_probes(tasks, 10)]
    assert chosen == list(range(0, 100, 10))
