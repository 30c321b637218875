"""Cutting a document: the window is whole sentences within the limit and holds the evidence of what is still asked."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lift.documents.document import Document
from lift.documents.sentences import split_sentences
from lift.errors import UsageError
from lift.evaluation.excerpts import MIN_SHARE, RULE, excerpt
from lift.evaluation.records import Asking, Question, Record

_WORD = re.compile(r"\S+")

PLACES = ["harbour", "tower", "market", "museum", "bridge", "school", "chapel", "station", "garden", "quarry"]
SENTENCES = [f"The {place} of Port Merrow was opened in {1900 + number}." for number, place in enumerate(PLACES)]
WORDS_EACH = 9
DRAWN = ["cats", "mice", "run", "sleep", "under", "over", "old", "new", "barns", "1907"]


def offsets(text: str) -> list[tuple[int, int]]:
    """A token a word."""
    return [found.span() for found in _WORD.finditer(text)]


def record(*evidence: tuple[str, ...], sentences: list[str] = SENTENCES) -> Record:
    questions = tuple(Question(f"q{number}", "When?", ("1900",), each) for number, each in enumerate(evidence))
    return Record("r", Document("Port Merrow", " ".join(sentences), "merrow.txt"), questions, Asking(max_new_tokens=7))


def ids(questions: tuple[Question, ...] | list[Question]) -> list[str]:
    return [question.id for question in questions]


def test_a_document_that_fits_is_the_same_with_all_of_its_questions() -> None:
    whole = record((), ("nowhere to be found",), (SENTENCES[9],))
    assert excerpt(whole, offsets, WORDS_EACH * len(SENTENCES)) == (whole, [])


def test_the_window_holds_the_evidence_of_most_questions() -> None:
    whole = record((SENTENCES[0],), (SENTENCES[5],), (SENTENCES[6],), (SENTENCES[9],))
    cut, left_out = excerpt(whole, offsets, 2 * WORDS_EACH)
    assert cut.document == Document("Port Merrow", " ".join(SENTENCES[5:7]), "merrow.txt")
    assert (ids(cut.questions), ids(left_out)) == (["q1", "q2"], ["q0", "q3"])
    assert (cut.id, cut.asking) == (whole.id, whole.asking)


def test_among_equals_the_window_is_the_earliest() -> None:
    cut, _ = excerpt(record((SENTENCES[8],), (SENTENCES[4],)), offsets, 2 * WORDS_EACH)
    assert cut.document.text == " ".join(SENTENCES[3:5])
    assert ids(cut.questions) == ["q1"]


def test_all_passages_of_a_question_must_be_held() -> None:
    whole = record((SENTENCES[2], SENTENCES[4]), (SENTENCES[2], SENTENCES[8]), (SENTENCES[2], "It never was there."))
    cut, left_out = excerpt(whole, offsets, 3 * WORDS_EACH)
    assert cut.document.text == " ".join(SENTENCES[2:5])
    assert (ids(cut.questions), ids(left_out)) == (["q0"], ["q1", "q2"])


@pytest.mark.parametrize(
    ("passage", "found"),
    [
        ("opened in 1907", True),  # a part of a sentence
        ("the STATION of Port Merrow - was opened in 1907", True),  # other case and marks
        ("The station of Port Merrow was built in 1907", True),  # 6 of 7 words, without the article
        (" ".join(reversed(SENTENCES[7].split())), True),  # words count, their order does not
        (f"{SENTENCES[7]} {SENTENCES[8]}".replace("opened", "begun"), True),  # 12 of 14, in two sentences
        ("The station of Port Merrow, a town, was opened twice", False),  # 6 of 9
        ("... --- ...", False),
        ("港は一九〇七年に開かれた。", False),
    ],
)
def test_a_passage_need_not_stand_literally_in_the_text(passage: str, found: bool) -> None:
    cut, left_out = excerpt(record((passage,)), offsets, 3 * WORDS_EACH)
    assert bool(cut.questions) is found
    assert bool(left_out) is not found
    assert ("1907" in cut.document.text) is found


def test_the_words_of_a_passage_scattered_over_the_text_are_no_evidence() -> None:
    scattered = [f"{word} is a word among several others here." for word in ("Cats", "Chase", "Small", "Mice")]
    cut, left_out = excerpt(record(("cats chase small mice",), sentences=[*scattered, *SENTENCES]), offsets, 50)
    assert cut.document.text.startswith(" ".join(scattered))
    assert (cut.questions, ids(left_out)) == ((), ["q0"])


def test_the_best_of_several_like_sentences_is_the_evidence() -> None:
    sentences = list(SENTENCES)
    sentences[1] = "The old lighthouse of Port Merrow has 42 big lenses made in Paris."
    sentences[8] = "The old lighthouse of Port Merrow has 42 big lenses made in Lyon by hand."
    cut, _ = excerpt(
        record(("old lighthouse of Port Merrow has 42 lenses made in Lyon",), sentences=sentences), offsets, 15
    )
    assert cut.document.text == sentences[8]


def test_without_any_evidence_the_beginning_is_left_and_no_question() -> None:
    whole = record((), ("It never was there at all.",))
    cut, left_out = excerpt(whole, offsets, 2 * WORDS_EACH + 3)
    assert cut.document.text == " ".join(SENTENCES[:2])
    assert (cut.questions, left_out) == ((), list(whole.questions))


def test_an_unanswerable_question_stays_with_its_passage_or_where_it_has_none() -> None:
    whole = record((SENTENCES[6],), (SENTENCES[6],), (SENTENCES[1],), ())
    unanswerable = tuple(replace(question, answers=()) for question in whole.questions[1:])
    cut, left_out = excerpt(replace(whole, questions=(whole.questions[0], *unanswerable)), offsets, WORDS_EACH)
    assert cut.document.text == SENTENCES[6]
    assert (ids(cut.questions), ids(left_out)) == (["q0", "q1", "q3"], ["q2"])
    alone, left_out = excerpt(replace(whole, questions=unanswerable[2:]), offsets, WORDS_EACH)
    assert (alone.document.text, ids(alone.questions), left_out) == (SENTENCES[0], ["q3"], [])


def test_evidence_longer_than_the_limit_is_left_out() -> None:
    cut, left_out = excerpt(record((" ".join(SENTENCES[3:7]),), (SENTENCES[1],)), offsets, 3 * WORDS_EACH)
    assert (ids(cut.questions), ids(left_out)) == (["q1"], ["q0"])


def test_a_limit_below_every_sentence_is_refused() -> None:
    with pytest.raises(UsageError, match="hold a sentence of 'Port Merrow', got 3 tokens; raise excerpt_tokens"):
        excerpt(record((SENTENCES[1],)), offsets, 3)


def test_a_cut_that_has_more_tokens_alone_than_in_the_whole_is_shortened() -> None:
    def uneven(text: str) -> list[tuple[int, int]]:
        spans = offsets(text)
        return spans if text.startswith(SENTENCES[0]) else [*spans, (len(text), len(text))]

    cut, _ = excerpt(record((SENTENCES[5],), (SENTENCES[6],)), uneven, 3 * WORDS_EACH)
    assert cut.document.text == " ".join(SENTENCES[5:7])
    assert ids(cut.questions) == ["q0", "q1"]


def test_the_rule_names_the_share() -> None:
    assert str(MIN_SHARE) in RULE


def test_a_long_document_with_much_evidence_is_cut_quickly() -> None:
    words = [f"word{number * 7919 % 2003}" for number in range(20_000)]
    sentences = [f"{' '.join(words[start : start + 20]).capitalize()}." for start in range(0, len(words), 20)]
    evidence = [(" ".join(sentences[start : start + 10])[:-6] + " changed",) for start in range(0, 960, 24)]
    whole = record(*evidence, sentences=sentences)
    began = time.perf_counter()
    cut, left_out = excerpt(whole, offsets, 4096)
    assert time.perf_counter() - began < 2
    assert len(cut.questions) > 5
    assert len(cut.questions) + len(left_out) == len(evidence)


drawn_sentences = st.lists(
    st.lists(st.sampled_from(DRAWN), min_size=1, max_size=9).map(lambda words: " ".join(words).capitalize() + "."),
    min_size=2,
    max_size=14,
)


@settings(max_examples=20, deadline=None)
@given(drawn_sentences, st.data())
def test_a_cut_is_whole_sentences_within_the_limit_and_holds_the_evidence(
    sentences: list[str], data: st.DataObject
) -> None:
    text = "\n".join(sentences)
    evidence = data.draw(st.lists(st.sampled_from([*sentences, "none of it", ""]), min_size=1, max_size=6))
    limit = data.draw(st.integers(9, max(10, len(offsets(text)) + 1)))
    questions = tuple(
        Question(str(number), "?", ("x",), (each,) if each else ()) for number, each in enumerate(evidence)
    )
    whole = Record("r", Document("Title", text, "source"), questions)
    cut, left_out = excerpt(whole, offsets, limit)
    assert (cut, left_out) == excerpt(whole, offsets, limit)
    assert len(offsets(cut.document.text)) <= limit
    assert sorted([*ids(cut.questions), *ids(left_out)]) == sorted(ids(questions))
    if len(offsets(text)) <= limit:
        assert cut == whole
        return
    pieces = [sentence.text for sentence in split_sentences(text)]
    runs = ["\n".join(pieces[i:j]) for i in range(len(pieces)) for j in range(i + 1, len(pieces) + 1)]
    assert cut.document.text in runs
    assert all(question.evidence and question.evidence[0] in cut.document.text for question in cut.questions)
    first = {each: text.index(each) for each in evidence if each in text}
    fitting = [run for run in runs if len(offsets(run)) <= limit]
    spans = [(start, start + len(run)) for run in fitting for start in [text.index(run)]]
    most = max(
        sum(each in first and start <= first[each] and first[each] + len(each) <= end for each in evidence if each)
        for start, end in spans
    )
    assert len(cut.questions) >= most
