"""Routes say what they want of a model, step by step; whoever brings it gets the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.answering.answer import Answer
from lift.answering.prose import asks_for_prose
from lift.answering.reranking import REFUSAL_MARGIN_NATS
from lift.answering.steps import GenerateRequest, ModelRequest, ScoreRequest, Strategy, run_strategies
from lift.answering.strategies import EVIDENCE_SENTENCES, WIDE_SENTENCES, AnsweringAdapters, Strategies
from lift.documents.document import Document
from lift.documents.sentences import split_sentences
from lift.inference.prefix_cache import common_tokens
from lift.models.base_model import BaseModel
from lift.packing.prompts import TEXT_TELLS_NOTHING, citation_question, prompt_ids

TEXT = "Ada Quill founded the museum. It owns 42 lenses. The tower burned in 1907."
ROOMS = " ".join(f"Room {number} of the tower is dark." for number in range(8))
TOLD_ONCE = f"{ROOMS} The tower burned in 1907."
TOLD_TWICE = f"{TOLD_ONCE} They say that the tower burned twice."
QUESTION = "When did the tower burn?"
BOTH = AnsweringAdapters("memory", "reader", cites=True)


def routes(base: BaseModel, adapters: AnsweringAdapters, text: str = TEXT) -> Strategies:
    return Strategies(base, Document("Tower", text, "test"), split_sentences(text), adapters)


def take(
    base: BaseModel,
    adapters: AnsweringAdapters,
    context: str,
    bring: Callable[[ModelRequest], Any],
    text: str = TEXT,
    question: str = QUESTION,
    most_tokens: int = 8,
) -> tuple[Answer, list[ModelRequest]]:
    """The answer, and what was wanted on the way to it."""
    wanted: list[ModelRequest] = []

    def fulfil(wants: Sequence[ModelRequest]) -> list[Any]:
        wanted.extend(wants)
        return [bring(want) for want in wants]

    (answer,) = run_strategies([routes(base, adapters, text).to(question, context, most_tokens)], fulfil)
    return answer, wanted


@pytest.mark.parametrize("context", ["none", "evidence", "truncated", "full"])
def test_reading_and_plain_recall_are_one_text_of_the_memory(tiny_model: BaseModel, context: str) -> None:
    adapters = AnsweringAdapters("memory", "reader")
    answer, wanted = take(tiny_model, adapters, context, lambda _want: "in 1907")
    assert [(want.adapter, type(want)) for want in wanted] == [("memory", GenerateRequest)]
    assert (answer.text, answer.context, answer.supported) == ("in 1907", context, True)
    assert routes(tiny_model, adapters).in_one_step(context)


def test_without_a_memory_auto_reads_the_evidence(tiny_model: BaseModel) -> None:
    answer, wanted = take(tiny_model, AnsweringAdapters(), "auto", lambda _want: "1907")
    assert [want.adapter for want in wanted] == [None]
    assert answer.context == "evidence"
    assert routes(tiny_model, AnsweringAdapters()).in_one_step("auto")


@pytest.mark.parametrize(("memory_says", "chosen", "context"), [(-1.0, "1911", "none"), (-9.0, "1907", "evidence")])
def test_auto_asks_reader_and_memory_and_lets_them_vote(
    tiny_model: BaseModel, memory_says: float, chosen: str, context: str
) -> None:
    def bring(want: ModelRequest) -> Any:
        if isinstance(want, ScoreRequest):
            assert want.answers[:2] == ("1907", "1911")
            # the prior is the reader closed book: it finds both alike; behind the text it may also refuse
            return [-2.0, memory_says if want.adapter == "memory" else -2.5, -9.0][: len(want.answers)]
        return "1911" if want.adapter == "memory" else "1907"

    answer, wanted = take(tiny_model, BOTH, "auto", bring)
    assert (answer.text, answer.context) == (chosen, context)
    # the sentence that holds all that is asked is read alone, and then the whole text; both are scored behind
    assert [want.adapter for want in wanted] == ["reader", "memory", "reader", "reader", "reader", "memory", "reader"]
    assert not routes(tiny_model, BOTH).in_one_step("auto")
    # they differ, so what BM25 finds best stands beside what supports the answer
    assert "The tower burned in 1907." in [each.text for each in answer.evidence]


@pytest.mark.parametrize(("narrow", "wide", "chosen"), [(-1.0, -9.0, "1907"), (-4.0, -1.0, "in 1911")])
def test_auto_reads_narrow_and_wide_and_their_mean_counts(
    tiny_model: BaseModel, narrow: float, wide: float, chosen: str
) -> None:
    tower = routes(tiny_model, BOTH, TOLD_TWICE)
    shortest = tower.prompt(QUESTION, "evidence", 8).ids
    more = tower.index.evidence(QUESTION, WIDE_SENTENCES, read=EVIDENCE_SENTENCES)
    longest = tower.prompt(QUESTION, "evidence", 8, more).ids

    def bring(want: ModelRequest) -> Any:
        if isinstance(want, GenerateRequest):
            return "nobody knows" if want.adapter == "memory" else "1907" if want.prompt_ids == shortest else "in 1911"
        assert want.answers[:3] == ("1907", "in 1911", "nobody knows")
        if want.adapter == "memory" or want.prompt_ids not in (shortest, longest):
            return [-1.0, -1.0, -1.0]
        assert want.answers[3:] == (TEXT_TELLS_NOTHING,)
        return [-3.0, narrow if want.prompt_ids == shortest else wide, -9.0, -9.0]

    answer, wanted = take(tiny_model, BOTH, "auto", bring, TOLD_TWICE)
    assert answer.text == chosen
    assert answer.context == "evidence"
    assert [type(want).__name__ for want in wanted] == ["GenerateRequest"] * 3 + ["ScoreRequest"] * 4
    shown = " ".join(sentence.text for sentence in tower.index.evidence(QUESTION, EVIDENCE_SENTENCES))
    begun = common_tokens(*(prompt_ids(tiny_model.tokenizer, "", text) for text in (shown, f"{shown} More.")))
    assert begun > len(shown) / 2
    assert longest[:begun] == shortest[:begun], "expected reading to go on behind what was read"
    same, wanted = take(tiny_model, BOTH, "auto", lambda _want: "1907", TOLD_TWICE)
    assert same.text == "1907"
    assert len(wanted) == 2, "expected nothing more to be read where reading and memory agree"


def test_the_one_sentence_that_holds_all_that_is_asked_is_read_alone_and_then_more(tiny_model: BaseModel) -> None:
    alone = tuple(prompt_ids(tiny_model.tokenizer, QUESTION, "The tower burned in 1907."))

    def bring(want: ModelRequest) -> Any:
        if isinstance(want, ScoreRequest):
            return [-1.0, -2.0, -9.0][: len(want.answers)]
        return "1907" if want.adapter == "reader" else "1911"

    answer, wanted = take(tiny_model, BOTH, "auto", bring, TOLD_ONCE)
    assert (answer.text, answer.context) == ("1907", "evidence")
    read = [want for want in wanted if isinstance(want, GenerateRequest) and want.adapter == "reader"]
    assert read[0].prompt_ids == alone
    assert len(read[1].prompt_ids) > len(alone)
    assert [want.prompt_ids for want in wanted if isinstance(want, ScoreRequest)][:2] == [
        each.prompt_ids for each in read
    ]


def test_a_prompt_behind_which_the_reader_refuses_is_scored_behind_too(tiny_model: BaseModel) -> None:
    refused: list[tuple[int, ...]] = []

    def bring(want: ModelRequest) -> Any:
        if isinstance(want, ScoreRequest):
            return [0.0 if want.answers == (TEXT_TELLS_NOTHING,) else -1.0] * len(want.answers)
        if want.adapter == "memory":
            return "1911"
        if not refused:
            refused.append(want.prompt_ids)
            return TEXT_TELLS_NOTHING
        return "1907"

    answer, wanted = take(tiny_model, BOTH, "auto", bring, TOLD_ONCE)
    assert answer.text == "1907"
    scored = [want.prompt_ids for want in wanted if isinstance(want, ScoreRequest) and "1907" in want.answers]
    assert refused[0] in scored


@pytest.mark.parametrize(
    ("written", "stands"),
    [
        ("The tower burned in 1907, and its rooms are dark.", True),
        ("The tower burned. The tower burned. The tower burned. The tower burned.", False),
        ("Karen Cornish, a former justice, presided over many famous trials in London.", False),
        ("", False),
    ],
)
def test_prose_is_written_by_the_base_or_quoted(tiny_model: BaseModel, written: str, stands: bool) -> None:
    request = "Summarize what is told about the tower."
    answer, wanted = take(tiny_model, BOTH, "auto", lambda _want: written, TOLD_TWICE, request, 400)
    index = routes(tiny_model, BOTH, TOLD_TWICE).index
    more, few = (
        " ".join(sentence.text for sentence in index.evidence(request, count))
        for count in (WIDE_SENTENCES, EVIDENCE_SENTENCES)
    )
    assert [(want.adapter, want.prompt_ids) for want in wanted] == [
        (None, tuple(prompt_ids(tiny_model.tokenizer, request, more)))
    ]
    assert (answer.text, answer.context) == (written if stands else few, "evidence")


RULES = "The tower burned in 1907. Dogs are not allowed in the tower. The key may be kept if it is asked for."


@pytest.mark.parametrize("context", ["auto", "evidence"])
@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("Are dogs allowed in the tower?", "No. Dogs are not allowed in the tower."),
        ("Did the tower burn in 1907?", "Yes. The tower burned in 1907."),
        # not sure enough for a yes or no
        ("May the key be kept?", "The key may be kept if it is asked for."),
        ("Are dogs allowed?", "Dogs are not allowed in the tower."),
    ],
)
def test_yes_or_no_comes_with_the_sentence_that_says_so(
    tiny_model: BaseModel, context: str, question: str, told: str
) -> None:
    answer, wanted = take(tiny_model, BOTH, context, lambda _want: "not", RULES, question, 400)
    assert wanted == [], "expected no model to be asked"
    assert (answer.text, answer.context, answer.supported) == (told, "evidence", True)
    assert told.endswith(answer.evidence[0].text)
    assert not routes(tiny_model, BOTH, RULES).in_one_step(context, question)


def test_a_yes_or_no_that_must_be_short_comes_alone(tiny_model: BaseModel) -> None:
    asked = "Are dogs allowed in the tower?"
    answer, _ = take(tiny_model, BOTH, "auto", lambda _want: "not", RULES, asked, 3)
    assert (answer.text, answer.supported) == ("No.", True)


@pytest.mark.parametrize("context", ["auto", "evidence", "none"])
@pytest.mark.parametrize(("said", "shown"), [("not", "does not tell"), ("the", "does not tell"), ("yes", "yes")])
def test_a_word_of_grammar_is_no_answer_to_yes_or_no(
    tiny_model: BaseModel, context: str, said: str, shown: str
) -> None:
    asked = "Is there a telephone in the cellar?"

    def bring(want: ModelRequest) -> Any:
        return [-9.0] * len(want.answers) if isinstance(want, ScoreRequest) else said

    answer, _ = take(tiny_model, AnsweringAdapters("memory", "memory"), context, bring, RULES, asked)
    assert shown in answer.text
    assert not answer.supported
    assert answer.evidence == () or answer.evidence[0].relation != "supports"


@pytest.mark.parametrize("context", ["auto", "evidence"])
@pytest.mark.parametrize("said", ["Yes.", "no", "the keeper", "not"])
def test_a_tuned_reader_that_says_yes_or_no_is_not_believed_and_the_text_is_quoted(
    tiny_model: BaseModel, context: str, said: str
) -> None:
    def bring(want: ModelRequest) -> Any:
        return [-9.0] * len(want.answers) if isinstance(want, ScoreRequest) else said

    lent, _ = take(tiny_model, BOTH, context, bring, RULES, "Will visitors who pay get the key?", 400)
    assert (lent.text, lent.supported) == ("The key may be kept if it is asked for.", False)
    assert [each.relation for each in lent.evidence] == ["related"]
    nowhere, _ = take(tiny_model, BOTH, context, bring, RULES, "Is there a telephone in the cellar?", 400)
    assert (nowhere.text, nowhere.supported, nowhere.evidence) == (TEXT_TELLS_NOTHING, False, ())


def test_a_tuned_reader_that_finds_no_answer_to_yes_or_no_is_believed(tiny_model: BaseModel) -> None:
    def bring(want: ModelRequest) -> Any:
        return [0.0] * len(want.answers) if isinstance(want, ScoreRequest) else TEXT_TELLS_NOTHING

    answer, _ = take(tiny_model, BOTH, "auto", bring, RULES, "Will visitors who pay get the key?", 400)
    assert (answer.text, answer.supported) == (TEXT_TELLS_NOTHING, False)


def test_closed_book_the_text_does_not_answer_yes_or_no(tiny_model: BaseModel) -> None:
    asked = "Are dogs allowed in the tower?"
    answer, wanted = take(tiny_model, AnsweringAdapters("memory", "reader"), "none", lambda _want: "Yes", RULES, asked)
    assert len(wanted) == 1
    assert (answer.text, answer.context, answer.supported) == ("Yes", "none", False)


@pytest.mark.parametrize(
    ("question", "prose"),
    [
        ("Summarise the second chapter.", True),
        ("Please, summarize the discussion about costs", True),
        ("Could you explain how the tower was built?", True),
        ("Give me a short overview of the museum.", True),
        ("What did Ada Quill say about the storm?", True),
        ("How did the keepers argue for a new tower?", True),
        ("What did the state of Maine buy?", False),
        ("What do some believe is the oldest tower?", False),
        ("What did the council decide to build?", False),
        ("Who explains the discussion?", False),
        ("When did the tower burn?", False),
        ("Was sagte Ada Quill über den Sturm?", False),
    ],
)
def test_requests_and_what_was_said_ask_for_prose(question: str, prose: bool) -> None:
    assert asks_for_prose(question) is prose


@pytest.mark.parametrize(("behind_evidence", "chosen", "context"), [(-1.0, "1911", "none"), (-9.0, "1907", "evidence")])
def test_a_memory_that_reads_itself_judges_behind_the_evidence_alone(
    tiny_model: BaseModel, behind_evidence: float, chosen: str, context: str
) -> None:
    narrow = routes(tiny_model, BOTH, TOLD_TWICE).prompt(QUESTION, "evidence", 8).ids

    def bring(want: ModelRequest) -> Any:
        if isinstance(want, GenerateRequest):
            return "1907" if want.prompt_ids == narrow else "1911"
        return [-2.0, behind_evidence]

    answer, wanted = take(tiny_model, AnsweringAdapters("memory", "memory"), "auto", bring, TOLD_TWICE)
    assert (answer.text, answer.context) == (chosen, context)
    assert [type(want).__name__ for want in wanted] == ["GenerateRequest", "GenerateRequest", "ScoreRequest"]
    assert wanted[-1].prompt_ids == narrow


def test_nothing_is_judged_where_all_say_the_same(tiny_model: BaseModel) -> None:
    for context in ("auto", "none"):
        _, wanted = take(tiny_model, BOTH, context, lambda _want: "1907")
        assert not any(isinstance(want, ScoreRequest) for want in wanted)
    assert take(tiny_model, BOTH, "auto", lambda _want: "")[0].text == ""


def test_closed_book_the_reader_reads_what_the_memory_cites(tiny_model: BaseModel) -> None:
    tokenizer = tiny_model.tokenizer
    cited = "The tower fell in 1907."

    def bring(want: ModelRequest) -> Any:
        if isinstance(want, ScoreRequest):
            return [-1.0, -1.5] if want.adapter == "reader" else [-3.0, -2.0]
        if want.prompt_ids == tuple(prompt_ids(tokenizer, citation_question(QUESTION))):
            return cited
        return "1907" if want.adapter == "reader" else "1911"

    answer, wanted = take(tiny_model, BOTH, "none", bring)
    behind = tuple(prompt_ids(tokenizer, QUESTION, cited))
    bare = tuple(prompt_ids(tokenizer, QUESTION))
    assert [(want.adapter, want.prompt_ids) for want in wanted[:3]] == [
        ("memory", bare),
        ("memory", tuple(prompt_ids(tokenizer, citation_question(QUESTION)))),
        ("reader", behind),
    ]
    assert [(want.adapter, want.prompt_ids) for want in wanted[3:]] == [
        ("reader", behind),
        ("memory", bare),
        ("reader", bare),
    ]
    # (1907: -1 + (-3 + 1), 1911: -1.5 + (-2 + 1.5))
    assert (answer.text, answer.context) == ("1911", "none")
    assert not any("Ada Quill" in tokenizer.decode(want.prompt_ids) for want in wanted), "closed book: no text"


@given(st.lists(st.integers(0, 4), max_size=8))
def test_each_route_is_sent_what_it_wanted(steps: list[int]) -> None:
    def counting(name: int, rounds: int) -> Strategy[list[str]]:
        seen: list[str] = []
        for step in range(rounds):
            seen += yield [GenerateRequest(f"{name}/{step}/{each}", (), 1) for each in range(step + 1)]
        return seen

    most: list[int] = []

    def fulfil(wants: Sequence[ModelRequest]) -> list[str | None]:
        most.append(len(wants))
        return [want.adapter for want in wants]

    found = run_strategies([counting(name, rounds) for name, rounds in enumerate(steps)], fulfil)
    assert found == [
        [f"{name}/{step}/{each}" for step in range(rounds) for each in range(step + 1)]
        for name, rounds in enumerate(steps)
    ]
    assert len(most) == max(steps, default=0), "expected all routes to share each step"


def test_an_error_on_the_way_is_raised() -> None:
    def failing() -> Strategy[str]:
        yield [GenerateRequest(None, (), 1)]
        raise ValueError("too long")

    with pytest.raises(ValueError, match="too long"):
        run_strategies([failing()], lambda wants: [""] * len(wants))


@pytest.mark.parametrize("read", [TEXT_TELLS_NOTHING, "1907", ""])
@pytest.mark.parametrize(
    ("refusing", "refused"), [(REFUSAL_MARGIN_NATS + 0.1, True), (REFUSAL_MARGIN_NATS - 0.1, False)]
)
def test_the_text_does_not_tell_where_that_is_much_likelier_than_every_answer(
    tiny_model: BaseModel, read: str, refusing: float, refused: bool
) -> None:
    """The reader gives the memory's answer -9 nats, and memory and prior find it alike, so that is its score."""

    def bring(want: ModelRequest) -> Any:
        if isinstance(want, ScoreRequest):
            if want.answers == (TEXT_TELLS_NOTHING,):
                return [0.0]  # it is sure enough not to be asked again
            return [-9.0 + refusing if each == TEXT_TELLS_NOTHING else -9.0 for each in want.answers]
        return "1911" if want.adapter == "memory" else read

    answer, _ = take(tiny_model, BOTH, "auto", bring)
    assert (answer.text == TEXT_TELLS_NOTHING) == refused
    assert refused or answer.text == (read if read == "1907" else "1911")
    if refused:
        assert (answer.context, answer.supported) == ("evidence", False)
        assert [each.relation for each in answer.evidence] == ["related"]


def test_the_memory_tells_what_was_not_found_where_it_is_much_likelier_than_before(tiny_model: BaseModel) -> None:
    def bring(want: ModelRequest) -> Any:
        if isinstance(want, ScoreRequest):
            if want.adapter == "memory":
                return [-1.0]
            return [-0.1 if each == TEXT_TELLS_NOTHING else -20.0 for each in want.answers]
        return "1911" if want.adapter == "memory" else TEXT_TELLS_NOTHING

    answer, _ = take(tiny_model, BOTH, "auto", bring)
    assert answer.text == TEXT_TELLS_NOTHING

    def sure(want: ModelRequest) -> Any:
        told = bring(want)
        if isinstance(want, ScoreRequest) and want.adapter == "reader" and len(want.answers) == 1:
            return [-40.0 if want.answers == ("1911",) else -0.1]
        return told

    answer, _ = take(tiny_model, BOTH, "auto", sure)
    assert (answer.text, answer.supported) == ("1911", False)


def test_closed_book_a_refusal_behind_what_was_cited_is_no_answer(tiny_model: BaseModel) -> None:
    def bring(want: ModelRequest) -> Any:
        if isinstance(want, ScoreRequest):
            return [0.0] * len(want.answers)
        return TEXT_TELLS_NOTHING if want.adapter == "reader" else "1911"

    answer, _ = take(tiny_model, BOTH, "none", bring)
    assert answer.text == "1911"


def test_closed_book_silence_does_not_win_over_what_the_memory_says(tiny_model: BaseModel) -> None:
    """The reader refuses unsurely, and has nothing else to say; the memory refuses, too."""

    def bring(want: ModelRequest) -> Any:
        if isinstance(want, ScoreRequest):
            return [-9.0] * len(want.answers)
        return TEXT_TELLS_NOTHING if want.adapter == "memory" or not want.excluded else ""

    answer, _ = take(tiny_model, BOTH, "none", bring)
    assert answer.text == TEXT_TELLS_NOTHING


def test_a_sentence_that_is_too_long_to_be_quoted_stands_beside(tiny_model: BaseModel) -> None:
    def bring(want: ModelRequest) -> Any:
        return [-9.0] * len(want.answers) if isinstance(want, ScoreRequest) else "Yes."

    answer, _ = take(tiny_model, BOTH, "auto", bring, RULES, "Will visitors who pay get the key?", 3)
    assert (answer.text, answer.supported) == (TEXT_TELLS_NOTHING, False)
    assert [each.text for each in answer.evidence] == ["The key may be kept if it is asked for."]
