"""The values are those of the official scorers for the same pairs, run apart from Lift; the sources are named below."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lift.errors import DataError, UsageError
from lift.evaluation.metrics import METRICS, check_metrics, score

HAND = "by hand"
SQUAD = "SQuAD evaluate-v1.1.py"
ROUGE = "rouge_score 0.1.2, RougeScorer(use_stemmer=True).score_multi"
BLEU = "sacrebleu 2.6.0, sentence_bleu(use_effective_order=True), the best reference"
CHRF = "sacrebleu 2.6.0, sentence_chrf with all references"
METEOR = "nltk 3.10.4, meteor_score without synonyms, words by wordpunct_tokenize"
V2 = "LongBench v2 pred.py extract_answer"
RULER = "RULER evaluate.py postprocess_pred and synthetic/constants.py"
LONGBENCH = "LongBench metrics.py with rouge 1.0.1 and fuzzywuzzy 0.18 (difflib), best over references as in eval.py"

STORM, STORM_1907 = "The storms destroyed the old tower", "A storm destroyed the tower in 1907."
ENDLESS_SENTENCE = "storm " + " ".join(f"w{i}" for i in range(1100))  # more than the package can recurse through
CODE = "\n\n# the sum\n```python\ntotal = a + b\nprint(total)"

VALUES = [
    (HAND, "contained", "The storm of 1907 destroyed it", ["in 1907", "1907"], 1.0),
    (HAND, "contained", "It happened in 19071", ["1907"], 0.0),
    (HAND, "contained", "An Owl!", ["the owl"], 1.0),
    (SQUAD, "f1", "in 1943", ["1943"], 2 / 3),
    (SQUAD, "f1", "The lighthouse of Port Merrow", ["Port Merrow lighthouse", "a tower"], 6 / 7),
    (SQUAD, "f1", "owl owl cat", ["owl cat cat"], 2 / 3),
    (SQUAD, "f1", "don't stop", ["dont stop"], 1.0),
    (SQUAD, "f1", "the", ["a"], 0.0),
    (SQUAD, "f1", "Zürich, Switzerland", ["zürich"], 2 / 3),
    (SQUAD, "exact_match", "The Saxon Garden.", ["Saxon Garden"], 1.0),
    (SQUAD, "exact_match", "U.S.  Army", ["us army"], 1.0),
    (SQUAD, "exact_match", "in 1943", ["1943"], 0.0),
    (SQUAD, "exact_match", "42", ["forty-two", "42"], 1.0),
    (ROUGE, "rouge1", STORM, [STORM_1907], 8 / 13),
    (ROUGE, "rouge1", "lenses", ["42 lens", "the lenses"], 2 / 3),
    (ROUGE, "rouge1", "Fishing was the main trade", ["The harbour lived on fish."], 0.4),
    (ROUGE, "rouge2", STORM, [STORM_1907], 4 / 11),
    (ROUGE, "rouge2", "a storm destroyed it", ["A storm destroyed the tower", "storm destroyed it"], 0.8),
    (ROUGE, "rouge2", "storm", ["storm"], 0.0),
    (ROUGE, "rougeL", STORM, [STORM_1907], 8 / 13),
    (ROUGE, "rougeL", "tower old the destroyed storm", ["The storm destroyed the old tower"], 4 / 11),
    (ROUGE, "rougeL", "the museum owns 42 lenses", ["The museum owns 42 lenses.", "none"], 1.0),
    (
        BLEU,
        "bleu",
        "The storm destroyed the old tower in 1907 .",
        ["A storm destroyed the old tower in 1907."],
        0.8633400214,
    ),
    (BLEU, "bleu", "the museum owns 42 lenses", ["the museum owns 42 lenses"], 1.0),
    (BLEU, "bleu", "the museum", ["the museum owns 42 lenses"], 0.2231301601),
    (BLEU, "bleu", "owl", ["cat"], 0.0),
    (
        BLEU,
        "bleu",
        "Ada Quill founded it in 1911",
        ["Ada Quill founded the museum in 1911", "It was founded by Ada Quill"],
        0.3215935109,
    ),
    (CHRF, "chrf", "The storm destroyed the old tower", [STORM_1907], 0.6218191193),
    (CHRF, "chrf", "museum", ["museums"], 0.7757103344),
    (CHRF, "chrf", "Ada Quill", ["Ada Quill"], 1.0),
    (CHRF, "chrf", "owl", ["cat", "owls"], 0.6886227545),
    (METEOR, "meteor", STORM, [STORM_1907], 0.4807692308),
    (METEOR, "meteor", "the museum owns 42 lenses", ["the museum owns 42 lenses"], 0.996),
    (METEOR, "meteor", "museum", ["museum"], 0.5),
    (METEOR, "meteor", "owl", ["cat"], 0.0),
    (METEOR, "meteor", "In 1907, a storm destroyed it.", ["A storm destroyed it in 1907.", "Nothing"], 0.9471112389),
    (V2, "choice", "The correct answer is (B)", ["B"], 1.0),
    (V2, "choice", "**The correct answer is (C)**, since", ["C"], 1.0),
    (V2, "choice", "The correct answer is D.", ["D"], 1.0),
    (V2, "choice", "The correct answer is A", ["B"], 0.0),
    (V2, "choice", "the correct answer is (A)", ["A"], 0.0),
    (V2, "choice", "I think it is B", ["B"], 0.0),
    (V2, "choice", "The correct answer is E", ["E"], 0.0),
    (V2, "choice", "The correct answer is B, no: The correct answer is (C)", ["C"], 1.0),
    (RULER, "ruler_all", "the numbers are 7012 and 8123", ["7012", "8123"], 1.0),
    (RULER, "ruler_all", "7012\t\x0091", ["7012", "8123"], 0.5),
    (RULER, "ruler_all", "VAR abc, DEF", ["ABC", "def", "xyz", "uvw"], 0.5),
    (RULER, "ruler_all", "17012", ["7012"], 1.0),
    (RULER, "ruler_part", "in Paris, France", ["Lyon", "paris"], 1.0),
    (RULER, "ruler_part", "Rome", ["Lyon", "paris"], 0.0),
    (RULER, "ruler_part", "New\x07York", ["New\nYork"], 1.0),
    (LONGBENCH, "longbench_qa_f1", "in the year 1911", ["1911"], 0.5),
    (LONGBENCH, "longbench_qa_f1", "Ada Quill founded it", ["Ada Quill", "Quill"], 2 / 3),
    (LONGBENCH, "longbench_qa_f1", "no", ["yes"], 0.0),
    (
        LONGBENCH,
        "longbench_rouge",
        "The storm destroyed the tower. It was old.",
        ["A storm destroyed the old tower in 1907. It was rebuilt."],
        0.7368421004,
    ),
    (LONGBENCH, "longbench_rouge", "a b a b", ["a b"], 0.999999995),
    (LONGBENCH, "longbench_rouge", "...", ["A storm."], 0.0),
    (LONGBENCH, "longbench_rouge", "a storm", ["A Storm", "A storm"], 0.499999995),
    (LONGBENCH, "longbench_rouge", "storm", [ENDLESS_SENTENCE], 0.0),
    (LONGBENCH, "longbench_retrieval", "Paragraph 12", ["Paragraph 12"], 1.0),
    (LONGBENCH, "longbench_retrieval", "Paragraph 12 or 13, not 12", ["Paragraph 12"], 2 / 3),
    (LONGBENCH, "longbench_retrieval", "the first", ["Paragraph 1"], 0.0),
    (LONGBENCH, "longbench_retrieval", "Paragraph 112", ["Paragraph 12"], 0.0),
    (LONGBENCH, "longbench_count", "17", ["17"], 1.0),
    (LONGBENCH, "longbench_count", "There are 17 of 20", ["17"], 0.5),
    (LONGBENCH, "longbench_count", "seventeen", ["17"], 0.0),
    (LONGBENCH, "longbench_count", "017", ["17"], 0.0),
    (LONGBENCH, "longbench_code_sim", "return self.value + 1", ["return value(self) + 2"], 0.7),
    (LONGBENCH, "longbench_code_sim", CODE, ["total = a+b"], 0.92),
    (LONGBENCH, "longbench_code_sim", "// only a comment", ["x = 1"], 0.0),
    (LONGBENCH, "longbench_code_sim", "    return x", ["return x"], 0.8),
    (LONGBENCH, "longbench_code_sim", "x = 1", ["x = 1"], 1.0),
    (LONGBENCH, "longbench_code_sim", "if foo bar not x", ["x not bar foo if"], 0.31),
]


@pytest.mark.parametrize(("source", "metric", "answer", "references", "expected"), VALUES)
def test_values_are_those_of_the_official_scorer(
    source: str, metric: str, answer: str, references: list[str], expected: float
) -> None:
    assert score(answer, references, [metric]) == {metric: pytest.approx(expected, abs=1e-9)}, source


@pytest.mark.parametrize(
    ("answer", "reference", "classes", "expected"),
    [
        ("City", "City", ["City", "State"], 1.0),
        ("City or State", "State", ["City", "State"], 0.5),
        ("Country", "City", ["City", "State", "Country"], 0.0),
        ("city", "City", ["City", "State"], 0.0),
        ("Title of a person", "Title of a person", ["Title", "Title of a person"], 1.0),
        ("a c ab", "ab", ["a", "c", "ab"], 0.5),
        ("a b ab", "ab", ["a", "b", "ab"], 0.5),  # the official loop passes over "b"
    ],
)
def test_classes_are_scored_as_in_longbench(answer: str, reference: str, classes: list[str], expected: float) -> None:
    metric = "longbench_classification"
    assert score(answer, [reference], [metric], choices=classes) == {metric: expected}


@pytest.mark.parametrize(("answer", "right"), [("B", True), ("B.", True), ("(B)", True), (" **B**\n", True)])
def test_a_bare_letter_is_a_choice(answer: str, right: bool) -> None:
    assert score(answer, ["B"], ["choice"])["choice"] == right
    assert score(answer, ["C"], ["choice"])["choice"] == 0


@pytest.mark.parametrize("answer", ["b", "E", "B or C", "B. The tower", "(B", "AB", "The correct answer is (C), not B"])
def test_what_is_no_choice_of_the_letter_is_wrong(answer: str) -> None:
    assert score(answer, ["B"], ["choice"])["choice"] == 0


def test_only_the_first_line_counts_where_that_is_asked_for() -> None:
    answer = "\n\nAda Quill\nPassage: another"
    assert score(answer, ["Ada Quill"], ["f1"], first_line=True) == {"f1": 1.0}
    assert score(answer, ["Ada Quill"], ["f1"])["f1"] == pytest.approx(4 / 6)
    assert score(" \nAda Quill", ["Ada Quill"], ["f1"], first_line=True) == {"f1": 0.0}


def test_several_metrics_come_in_the_order_asked_for() -> None:
    assert list(score("owl", ["owl"], ["longbench_rouge", "f1", "bleu"])) == ["longbench_rouge", "f1", "bleu"]


@pytest.mark.parametrize("answer", ["", " ", "\n\t\n"])
def test_an_empty_answer_is_worth_nothing_even_where_the_reference_is_empty_too(answer: str) -> None:
    for reference in ("the", "Paragraph 1", "."):
        names = [name for name in METRICS if not name.startswith("longbench_retrieval")]
        names += ["longbench_retrieval"] * (reference == "Paragraph 1")
        assert score(answer, [reference], names, choices=["the"]) == dict.fromkeys(names, 0.0)


@pytest.mark.parametrize(
    ("answer", "value"),
    [("", 1.0), ("The text does not tell.", 1.0), ("not mentioned in the passage", 1.0), ("Ada Quill", 0.0)],
)
def test_without_references_the_answer_is_right_that_abstains(answer: str, value: float) -> None:
    assert score(answer, [], list(METRICS), choices=["the"]) == dict.fromkeys(METRICS, value)


def test_a_refusal_is_worth_nothing_where_there_is_an_answer_whatever_words_they_share() -> None:
    names = ["contained", "f1", "exact_match"]
    assert score("The text does not tell.", ["text"], names) == dict.fromkeys(names, 0.0)
    assert score("Unknown", ["unknown"], names) == dict.fromkeys(names, 1.0)
    assert score("William Tell", ["Tell"], ["contained"]) == {"contained": 1.0}


@given(st.text(max_size=40), st.lists(st.text(max_size=20), max_size=3))
@settings(max_examples=20, deadline=None)
def test_every_value_lies_between_0_and_1_for_any_text(answer: str, references: list[str]) -> None:
    paragraphs = [f"Paragraph {number} {reference}" for number, reference in enumerate(references)]
    names = [name for name in METRICS if name != "longbench_retrieval_zh"]
    for value in score(answer, paragraphs, names, choices=references).values():
        assert 0 <= value <= 1
    rest = [name for name in METRICS if not name.startswith("longbench_retrieval")]
    for value in score(answer, references, rest, choices=references).values():
        assert 0 <= value <= 1


def test_the_order_of_references_does_not_matter() -> None:
    answer, references = (
        "Paragraph 2: a storm destroyed the tower",
        ["Paragraph 1", "Paragraph 2, a storm", "Paragraph 3"],
    )
    names = [name for name in METRICS if name != "longbench_retrieval_zh"]
    assert score(answer, references, names) == score(answer, references[::-1], names)


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"got 'rouge_1'; the nearest is 'rouge1'"):
        score("owl", ["owl"], ["f1", "rouge_1"])


@pytest.mark.parametrize(
    ("metric", "package"),
    [("rougeL", "rouge_score"), ("chrf", "sacrebleu"), ("meteor", "nltk"), ("longbench_rouge", "rouge")],
)
def test_a_missing_package_is_named_before_anything_is_scored(
    metric: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"the package {package} for the metric {metric}.*make setup EXTRAS=evaluate"):
        check_metrics(["f1", metric])


def test_a_reference_that_names_no_paragraph_is_bad_data() -> None:
    with pytest.raises(DataError, match="'Paragraph 7', got '7'"):
        score("Paragraph 7", ["7"], ["longbench_retrieval"])


def test_every_metric_has_a_title_of_its_own() -> None:
    assert len({metric.title for metric in METRICS.values()}) == len(METRICS)
    assert all(name == metric.name and metric.summary for name, metric in METRICS.items())
