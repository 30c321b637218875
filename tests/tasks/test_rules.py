"""The task generator `rules`, through its public functions."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lift.documents.sentences import Sentence
from lift.tasks.rules.recitation import recitation_tasks
from lift.tasks.rules.rule_generator import answer_candidates, generate_tasks
from lift.tasks.selection import normalised
from lift.tasks.task import Task

TEXT = [
    "Ada Quill, a Polish engineer, founded the lighthouse museum in Gdansk in 1911.",
    "The museum owns 24 lenses, which were bought by John Smith in 1923.",
    "She wrote three books because the harbour had been closed.",
    "The Romans built a bridge, a fort and a harbour near the river in the second century.",
    "About 35% of the inhabitants speak German (the old dialect) at home.",
    "Yes.",
    "Contents ............ 12",
    "The committee, which had met twice, did not accept the proposal of the mayor in March 1804.",
    "To build the tunnel, the company hired 300 workers from Hamburg.",
]


def numbered(texts: list[str], paragraph_length: int = 3) -> list[Sentence]:
    sentences, start = [], 0
    for index, text in enumerate(texts):
        sentences.append(Sentence(index, text, start, start + len(text), index // paragraph_length))
        start += len(text) + 1
    return sentences


def asked(text: str, title: str = "The chronicle", **options: int) -> dict[str, str]:
    """Questions and answers of one sentence."""
    tasks = generate_tasks(title, numbered([text]), per_sentence=options.get("per_sentence", 200))
    return {task.question: task.answer for task in tasks}


EXAMPLES = [
    ("Ada Quill founded the museum in 1911.", "Who founded the museum in 1911?", "Ada Quill"),
    ("Ada Quill founded the museum in 1911.", "What did Ada Quill found in 1911?", "the museum"),
    ("Ada Quill founded the museum in 1911.", "When did Ada Quill found the museum?", "1911"),
    ("Ada Quill founded the museum in 1911.", "What year did Ada Quill found the museum?", "1911"),
    ("Ada Quill founded the museum in 1911.", "When was the museum founded?", "1911"),
    ("Ada Quill founded the museum in 1911.", "By whom was the museum founded in 1911?", "Ada Quill"),
    ("The bridge was built by the Romans in 1204.", "Who built the bridge in 1204?", "Romans"),
    ("The bridge was built by the Romans in 1204.", "What did the Romans build?", "The bridge"),
    ("The letter was written by Maria Stone.", "Who wrote the letter?", "Maria Stone"),
    ("John Smith bought the house in 1923.", "What did John Smith buy in 1923?", "the house"),
    ("The museum owns 24 lenses.", "How many lenses does the museum own?", "24"),
    ("About 35% of the inhabitants speak German.", "What percentage of the inhabitants speak German?", "35%"),
    ("The trip lasted five weeks.", "How long did the trip last?", "five weeks"),
    ("The tower collapsed due to heavy rain.", "Why did the tower collapse?", "heavy rain"),
    ("The town grew because the harbour was enlarged.", "Why did the town grow?", "the harbour was enlarged"),
    ("Tom Reed went to Paris to study medicine.", "Why did Tom Reed go to Paris?", "to study medicine"),
    ("Harrow Mill produces flour, oil and paper.", "What does Harrow Mill produce?", "flour, oil and paper"),
    ("Harrow Mill produces flour, oil and paper.", "Besides oil and paper, what does Harrow Mill produce?", "flour"),
    ("Copper is a soft metal.", "What is a soft metal?", "Copper"),
    ("Copper is a soft metal.", "What kind of metal is copper?", "soft"),
    ("The valley is famous for red wine.", "What is the valley famous for?", "red wine"),
    ("Peter Lang did not accept the prize.", "Who did not accept the prize?", "Peter Lang"),
    ("The old law no longer applies to farmers.", "What no longer applies to farmers?", "The old law"),
    ("There are seven bridges in the city.", "How many bridges in the city are there?", "seven"),
    ("Ada Quill, a Polish engineer, died in 1951.", "Who was Ada Quill?", "a Polish engineer"),
    ("Ada Quill, a Polish engineer, died in 1951.", "Which Polish engineer died in 1951?", "Ada Quill"),
    ("The Norwegian painter Olaf Berg died.", "Who was the Norwegian painter?", "Olaf Berg"),
    ("The museum, which owns the ship, is closed.", "What owns the ship?", "The museum"),
    ("Clara Voss became a judge and moved to Berlin.", "Where did Clara Voss move?", "Berlin"),
    (
        "Maria Stone taught physics at Harvard University.",
        "Which university did Maria Stone teach physics at?",
        "Harvard University",
    ),
    ("The engineers wanted to build a tunnel.", "What did the engineers want to build?", "a tunnel"),
    ("The Saxon Library (SL) was opened in 1850.", "What does SL stand for?", "Saxon Library"),
    ("The physicist Niels Falk (1871–1940) discovered the element.", "When was the physicist Niels Falk born?", "1871"),
    ("Maria Stone died on 7 January 1943.", "What year did Maria Stone die?", "1943"),
    ("Maria Stone died on 7 January 1943.", "When did Maria Stone die?", "7 January 1943"),
    ("When Ada Quill came to Merrow, she founded a museum.", "Who founded a museum?", "Ada Quill"),
    ("The museum was destroyed by fire in 1911.", "What happened to the museum in 1911?", "destroyed by fire"),
    (
        "Old mills grind grains such as barley, oats and rye.",
        "What are examples of grains?",
        "barley, oats and rye",
    ),
    ("Old mills grind grains such as barley, oats and rye.", "What is barley an example of?", "grains"),
    (
        "Public buildings include the library, the school and the harbour.",
        "What are examples of public buildings?",
        "the library, the school and the harbour",
    ),
    ("Many metals (e.g., copper and tin) are soft.", "What are examples of many metals?", "copper and tin"),
    ("The Rhine (German: Rhein, French: le Rhin) is a river.", "What is the Rhine called in French?", "le Rhin"),
    ("Only 150 species have been described.", "How many species have been described?", "150"),
]


@pytest.mark.parametrize(("text", "question", "answer"), EXAMPLES)
def test_question_is_asked(text: str, question: str, answer: str) -> None:
    found = asked(text)
    assert found.get(question) == answer, sorted(found)


@pytest.mark.parametrize(
    ("texts", "title", "question", "answer"),
    [
        (
            ["Ada Quill was born in Lublin.", "She founded a museum in 1911."],
            "The museum",
            "When did Ada Quill found a museum?",
            "1911",
        ),
        (
            ["He moved to Berlin in 1901.", "He died there.", "Niels Falk was poor."],
            "Niels Falk",
            "When did Niels Falk move to Berlin?",
            "1901",
        ),
        (
            ["The Saxon Library was opened in 1850.", "It owns 900 maps."],
            "Ludlow",
            "How many maps does the Saxon Library own?",
            "900",
        ),
    ],
)
def test_pronouns_become_names(texts: list[str], title: str, question: str, answer: str) -> None:
    tasks = generate_tasks(title, numbered(texts), per_sentence=200)
    found = {task.question: task.answer for task in tasks}
    assert found.get(question) == answer, sorted(found)


def test_no_question_with_a_pronoun_that_nothing_explains() -> None:
    found = asked("They sold it to him in 1950.")
    assert not [question for question in found if question.startswith(("Who", "What did", "When"))]


def test_negation_and_neither_are_never_lost() -> None:
    assert not any("did Peter Lang accept" in question for question in asked("Peter Lang did not accept the prize."))
    assert "Who won the prize?" not in asked("Neither Tom Reed nor Ada Quill won the prize.")
    assert not any(
        question.startswith("What will the plant be")
        for question in asked("The plant will no longer be a base for the industry.")
    )


def test_the_speaker_of_a_dialogue_is_named() -> None:
    assert asked("Olga Lind: I visited the school in 2015.").get("When did Olga Lind visit the school?") == "2015"
    assert asked("Olga Lind: I have read the report.").get("What has Olga Lind read?") == "the report"


def check(tasks: list[Task], sentences: list[Sentence], per_sentence: int, held_out: int) -> None:
    """What holds for the tasks of any text."""
    by_index = {sentence.index: sentence for sentence in sentences}
    for task in tasks:
        assert task.evidence and all(index in by_index for index in task.evidence)
        assert task.question.strip() and task.answer.strip()
        assert 0 < task.weight <= 1
        if not task.origin.startswith(("rules:recite", "rules:next")):
            assert task.answer in " ".join(by_index[task.evidence[0]].text.split())
    assert [task.evidence[0] for task in tasks] == sorted(task.evidence[0] for task in tasks)
    covered = {task.evidence[0] for task in tasks}
    assert all(any(map(str.isalnum, by_index[index].text)) for index in covered)
    words = {normalised(sentence.text) for sentence in sentences} - {""}
    assert {normalised(by_index[index].text) for index in covered} - {""} == words
    questions = Counter(normalised(task.question) for task in tasks)
    assert not [question for question, count in questions.items() if count > 1]
    trained = Counter(task.evidence[0] for task in tasks if not task.held_out)
    assert all(count <= per_sentence for count in trained.values())
    assert all(trained[index] >= 1 for index in covered)
    probes = [task for task in tasks if task.held_out]
    assert all(count <= held_out for count in Counter(task.evidence[0] for task in probes).values())
    taught = {(task.evidence[0], normalised(task.answer)) for task in tasks if not task.held_out}
    assert all((probe.evidence[0], normalised(probe.answer)) in taught for probe in probes)


@pytest.mark.parametrize("per_sentence", [1, 4, 20])
@pytest.mark.parametrize("held_out", [0, 1, 2])
@pytest.mark.parametrize("language", ["en", "pl"])
def test_invariants(per_sentence: int, held_out: int, language: str) -> None:
    sentences = numbered(TEXT)
    tasks = generate_tasks(
        "The lighthouse", sentences, per_sentence=per_sentence, held_out_per_sentence=held_out, language=language
    )
    check(tasks, sentences, per_sentence, held_out)


PIECES = [*TEXT, "", "—", "(", "Who?", "2.5 % (a; b)", "The", "I'm here, aren't you?", "a, b, c and d", "1. 2. 3."]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.lists(
        st.one_of(
            st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map(" ".join),
            st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=60),
        )
        .filter(lambda text: bool(text.strip()))
        .map(str.strip),
        min_size=1,
        max_size=4,
    ),
    per_sentence=st.integers(1, 25),
    seed=st.integers(0, 3),
    language=st.sampled_from(["en", "de"]),
)
def test_invariants_of_any_text(texts: list[str], per_sentence: int, seed: int, language: str) -> None:
    sentences = numbered(texts, 2)
    tasks = generate_tasks("A title (of sorts)", sentences, per_sentence=per_sentence, seed=seed, language=language)
    check(tasks, sentences, per_sentence, 1)
    assert tasks == generate_tasks(
        "A title (of sorts)", sentences, per_sentence=per_sentence, seed=seed, language=language
    )


def test_what_many_sentences_share_is_not_asked_of_each() -> None:
    towns = {"Cardiff": "scarf", "Belgrade": "nectar", "Asmara": "harbor", "Mumbai": "chalk"}
    sentences = numbered([f"The secret word of {town} is {word}." for town, word in towns.items()])
    tasks = generate_tasks("The list", sentences)
    assert {task.answer for task in tasks if task.question.startswith("What is the secret word of")} <= {
        *towns.values()
    }
    answers = {normalised(task.answer) for task in tasks}
    assert {*towns.values()} <= answers
    assert not {"secret", "secret word"} & answers
    assert "secret word" in {normalised(task.answer) for task in generate_tasks("The list", sentences[:2])}


def test_contradicting_answers_are_not_asked_for() -> None:
    texts = ["Tom Reed visited Paris.", "Tom Reed visited Lisbon."]
    tasks = generate_tasks("Travels", numbered(texts), per_sentence=200)
    assert not [task for task in tasks if normalised(task.question) == "what did tom reed visit"]


def test_facts_are_asked_in_both_directions_and_weigh_more_than_recitation() -> None:
    tasks = generate_tasks("The lighthouse", numbered(TEXT[:1]))
    answers = {task.answer for task in tasks}
    assert {"Ada Quill", "1911", "Gdansk", "the lighthouse museum"} <= answers
    recited = [task.weight for task in tasks if task.origin in {"rules:recite", "rules:next"}]
    assert 1 <= len(recited) <= 2
    assert max(recited) < min(task.weight for task in tasks if task.answer == "1911")


def test_other_languages_get_blanks_without_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the English parser was used")

    monkeypatch.setattr("lift.tasks.rules.dependency_parse.load_parser", refuse)
    tasks = generate_tasks("Latarnia", numbered(["Ada Quill założyła muzeum w 1911 roku."]), language="pl")
    assert "Complete: Ada Quill założyła muzeum w … roku." in {task.question for task in tasks}


def test_answer_candidates_are_verbatim_and_ranked() -> None:
    text = "Ada Quill founded the museum in Gdansk in 1911."
    found = answer_candidates(text)
    assert len(found) == len(set(found))
    assert all(answer in text for answer in found)
    assert {"Ada Quill", "1911", "Gdansk"} <= set(found[:5])
    assert answer_candidates("") == []


@pytest.mark.parametrize(
    "sentence",
    [
        "With shrinking ice-cover, ocean water levels rose and the English Channel and North Sea re-inundated.",
        "The army left the Rhineland in 1930 and the German army re-occupied it in 1936, which was popular.",
        "The re-elected and re-appointed board re-opened - and then re-closed - the co-op.",
    ],
)
def test_words_that_a_hyphen_parts_break_nothing(sentence: str) -> None:
    assert [task for task in generate_tasks("The chronicle", numbered([sentence])) if task.origin.startswith("rules")]


def test_a_sentence_is_named_by_its_names_and_not_by_how_it_begins() -> None:
    recited = recitation_tasks("Merrow", numbered(["A storm of 1907 drowned Ada's orchard and the ferry."]), 0)
    words = recited[0].question.split(" speaks of ")[1]
    assert "1907" in words
    assert "Ada's" in words
    assert not words.startswith("A,")
