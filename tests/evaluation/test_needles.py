"""Texts with needles: lengths and depths in tokens, what is drawn, and the records of niah and ruler."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.errors import DocumentError, UsageError
from lift.evaluation.data_files import BadData
from lift.evaluation.records import Record
from lift.evaluation.suites import niah, ruler
from lift.evaluation.suites.needles import CITIES, NOISE, WORDS, NeedleDrawer, NeedleWriter, read_haystack
from lift.evaluation.suites.suite import Reading, SuiteSettings
from lift.packing.prompts import PromptForm, user_text

Offsets = Callable[[str], list[tuple[int, int]]]

_TOKENS = re.compile(r"\w+|[^\w\s]")
_SPACED = re.compile(r" ?\w{1,6}|\s|[^\w\s]")
SHORT_AND_LONG = "\n\n".join(
    [f"I am at no. {number}, as we go on to it." for number in range(40)]
    + [f"Incomprehensibilities notwithstanding{number} characterised internationalisation." for number in range(120)]
)


def words(text: str) -> list[tuple[int, int]]:
    return [found.span() for found in _TOKENS.finditer(text)]


def spaced_pieces(text: str) -> list[tuple[int, int]]:
    return [found.span() for found in _SPACED.finditer(text)]


def thirds(text: str) -> list[tuple[int, int]]:
    return [(start, min(start + 3, len(text))) for start in range(0, len(text), 3)]


TOKENIZERS = {"words": words, "pieces": spaced_pieces, "three characters": thirds}


def reading(offsets: Offsets = words, **settings: Any) -> Reading:
    return Reading(SuiteSettings(**settings), offsets, BadData())


def measured_depth(text: str, needle: str, offsets: Offsets) -> float:
    """Tokens before the needle by the tokens of the text without it, counted by cutting the text."""
    before, _, behind = text.partition(needle)
    without = f"{before.rstrip()}{behind}" if not behind.strip() else before + behind.lstrip()
    return len(offsets(before.rstrip())) / len(offsets(without))


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A document whose first sentences have short words and whose later ones long words."""
    path = tmp_path / "book.txt"
    path.write_text(SHORT_AND_LONG, "utf-8")
    return path


@pytest.mark.parametrize("offsets", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("length", [200, 512, 1000])
def test_every_cell_has_its_length_and_its_depth_in_tokens(length: int, offsets: Offsets) -> None:
    depths = (0.0, 0.1, 0.25, 1 / 3, 0.5, 0.75, 0.9, 1.0)
    records = list(niah.read(reading(offsets, lengths=(length,), depths=depths)))
    assert [record.cells[record.questions[0].id] for record in records] == [
        {"length": length, "depth": depth} for depth in depths
    ]
    longest = 9  # tokens of the longest sentence of the noise, in any of the tokenizers
    for record, depth in zip(records, depths, strict=True):
        text, needle = record.document.text, record.questions[0].evidence[0]
        assert length - 64 <= len(offsets(text)) <= length
        assert abs(measured_depth(text, needle, offsets) - depth) <= longest / (length - 64)
    assert records[0].document.text.startswith(records[0].questions[0].evidence[0])
    assert records[-1].document.text.endswith(records[-1].questions[0].evidence[0])


def test_depth_counts_tokens_and_not_characters(book: Path) -> None:
    (record,) = niah.read(reading(data=book, lengths=(900,), depths=(0.5,)))
    text, needle = record.document.text, record.questions[0].evidence[0]
    assert measured_depth(text, needle, words) == pytest.approx(0.5, abs=0.01)
    assert text.index(needle) / len(text) < 0.3


def test_lengths_and_depths_are_in_the_tokens_of_a_real_tokenizer(tiny_tokenizer: Any) -> None:
    def offsets(text: str) -> list[tuple[int, int]]:
        return list(tiny_tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"])

    (record,) = niah.read(reading(offsets, lengths=(700,), depths=(0.75,)))
    tokens = len(tiny_tokenizer(record.document.text, add_special_tokens=False)["input_ids"])
    assert 700 - 64 <= tokens <= 700
    assert measured_depth(record.document.text, record.questions[0].evidence[0], offsets) == pytest.approx(
        0.75, abs=0.03
    )


@given(
    length=st.integers(150, 1500),
    depths=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    offsets=st.sampled_from(list(TOKENIZERS.values())),
)
def test_any_depths_in_any_length(length: int, depths: list[float], offsets: Offsets) -> None:
    needles = [f"The secret word of {city} is plum." for city in CITIES[: len(depths)]]
    written = NeedleWriter(read_haystack(None, length), offsets).write(needles, depths, length)
    assert length - 64 <= len(offsets(written.text)) == written.tokens <= length
    rest = written.text
    for needle in needles:
        assert rest.count(needle) == 1
        rest = rest.replace(needle, "")
    assert (
        rest.split()
        == " ".join(itertools.islice(itertools.cycle(" ".join(NOISE).split(" ")), len(rest.split()))).split()
    )
    for needle, depth, reached in zip(needles, depths, written.depths, strict=True):
        alone = written.text
        for other in needles:
            alone = alone if other == needle else re.sub(rf"{other}\s*", "", alone)
        assert abs(reached - depth) <= 9 / (length - 64 - 15 * len(depths))
        assert measured_depth(alone, needle, offsets) == pytest.approx(reached, abs=3 / len(offsets(rest)))


def test_a_text_that_takes_more_tokens_in_its_frame_is_shortened() -> None:
    def frame(text: str) -> str:
        return text + text[: len(text) // 4]

    written = NeedleWriter(read_haystack(None, 500), words).write(["Oslo is plum."], [0.5], 500, frame, 100)
    assert 400 - 64 <= len(words(frame(written.text))) == written.tokens <= 400


def test_sentences_stay_whole_and_in_order(book: Path) -> None:
    (record,) = niah.read(reading(data=book, lengths=(600,), depths=(0.5,)))
    kept = record.document.text.replace(record.questions[0].evidence[0], "").split("\n\n")
    sentences = SHORT_AND_LONG.split("\n\n")
    assert [sentence for sentence in kept if sentence] == sentences[: len([each for each in kept if each])]


def test_a_short_haystack_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("Rain fell all day. Nobody came.", "utf-8")
    (record,) = niah.read(reading(data=path, lengths=(200,), depths=(0.5,)))
    assert record.document.text.count("Nobody came.") > 10
    assert 200 - 64 <= len(words(record.document.text)) <= 200


def test_sentences_too_long_for_what_is_left_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("\n\n".join([f"It was {'very ' * 150}late.", "Nobody came."]), "utf-8")
    (record,) = niah.read(reading(data=path, lengths=(300,), depths=(1.0,)))
    assert record.document.text.count("late.") == 1
    assert 300 - 64 <= len(words(record.document.text)) <= 300


@pytest.mark.parametrize(
    ("depth", "said"), [(50.0, "got 50; for 50 per cent write 0.5"), (-0.1, "got -0.1"), (float("nan"), "got nan")]
)
def test_a_depth_that_is_no_share_is_refused_with_its_value(depth: float, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        next(niah.read(reading(depths=(0.5, depth))))  # before anything is made of the depths that are right


def test_a_depth_that_no_sentence_ends_near_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(f"It was {'very ' * 150}late. Nobody came.", "utf-8")
    with pytest.raises(UsageError, match=r"near depth 0\.5 in 200 tokens of Long"):
        list(niah.read(reading(data=path, lengths=(200,), depths=(0.5,))))


def test_a_length_without_room_is_refused() -> None:
    with pytest.raises(UsageError, match="got 10; ask for longer texts"):
        list(niah.read(reading(lengths=(10,))))
    with pytest.raises(UsageError, match="got 200; ask for longer texts"):
        list(ruler.read(reading(lengths=(200,), tasks=("niah_single",))))


def test_grids_that_are_empty_or_lack_depths_are_refused() -> None:
    with pytest.raises(UsageError, match="lengths and depths, got 4 and 0"):
        list(niah.read(reading(depths=())))
    with pytest.raises(UsageError, match="3 needles of a text, got 2"):
        list(niah.read(reading(depths=(0, 1), needles=3)))
    with pytest.raises(UsageError, match="expected lengths, got none"):
        list(ruler.read(reading(lengths=())))


def test_a_missing_haystack_is_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"none\.txt"):
        list(niah.read(reading(data=tmp_path / "none.txt")))


def test_needles_are_dealt_to_texts_each_at_its_depth() -> None:
    depths = (0.0, 0.25, 0.5, 0.75, 1.0)
    records = list(niah.read(reading(lengths=(400,), depths=depths, needles=2, samples=2)))
    dealt = [[cell["depth"] for cell in record.cells.values()] for record in records]
    assert dealt == [[0.0, 0.75], [0.25, 1.0], [0.5]] * 2
    for record in records:
        assert set(record.cells) == {question.id for question in record.questions}
        assert len({question.answers for question in record.questions}) == len(record.questions)
        for question in record.questions:
            (needle,) = question.evidence
            assert needle in record.document.text
            city, word = re.findall(r"The secret word of ([A-Z][a-z]+) is ([a-z]+)\.", needle)[0]
            assert (question.text, question.answers) == (f"What is the secret word of {city}?", (word,))


def test_no_text_says_what_another_one_does() -> None:
    records = list(niah.read(reading(lengths=(200, 300, 400), samples=4)))
    answers = [question.answers[0] for record in records for question in record.questions]
    assert len(answers) == 60 == len(set(answers))
    assert len({record.id for record in records}) == 60
    for record, other in itertools.permutations(records, 2):
        assert record.questions[0].answers[0] not in other.document.text


def test_the_seed_decides_what_is_drawn() -> None:
    def texts(suite: Any, seed: int) -> list[str]:
        return [record.document.text for record in suite.read(reading(lengths=(600,), seed=seed))]

    for suite in (niah, ruler):
        assert texts(suite, 3) == texts(suite, 3)
        assert not set(texts(suite, 3)) & set(texts(suite, 4))


def test_what_the_haystack_holds_is_never_drawn(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\n\n".join(f"We saw {name}." for name in (*WORDS[3:], *CITIES[2:])), "utf-8")
    drawer = NeedleDrawer(0, read_haystack(path, 100))
    first, second = drawer.draw("a", 2), drawer.draw("b", 2)
    assert {word for _, word in first + second} == set(WORDS[:3])
    assert {city for city, _ in first} == {city for city, _ in second} == set(CITIES[:2])
    assert not set(first) & set(second)
    with pytest.raises(UsageError, match="2 cities and 3 words are not in it"):
        drawer.draw("c", 3)


def prompt(record: Record) -> str:
    return user_text(record.questions[0].text, record.document.text, record.asking.form) + (
        record.asking.form.answer_prefix
    )


@pytest.mark.parametrize("offsets", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("data", [False, True], ids=["noise", "book"])
def test_ruler_lengths_count_the_prompt_and_the_room_for_the_answer(data: bool, offsets: Offsets, book: Path) -> None:
    given = {"data": book} if data else {}
    for record in ruler.read(reading(offsets, lengths=(700, 1000), **given)):
        length = record.cells[record.questions[0].id]["length"]
        assert length - 64 <= len(offsets(prompt(record))) + record.asking.max_new_tokens <= length


def ruler_record(task: str, **settings: Any) -> Record:
    (record,) = ruler.read(reading(lengths=(900,), tasks=(task,), **settings))
    return record


def test_niah_single_is_asked_as_published() -> None:
    record = ruler_record("niah_single")
    (found,) = re.findall(r"One of the special magic numbers for ([a-z]+-[a-z]+) is: (\d{7})\.", record.document.text)
    key, number = found
    assert record.questions[0].answers == (number,)
    assert record.questions[0].text == f"What is the special magic number for {key} mentioned in the provided text?"
    assert record.asking.form == PromptForm(
        "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about "
        "the number afterwards.\n{context}\n{question}",
        "{question}",
        answer_prefix=f" The special magic number for {key} mentioned in the provided text is",
    )
    assert (record.asking.max_new_tokens, record.asking.metrics) == (128, ("ruler_all",))


@pytest.mark.parametrize(
    ("task", "keys", "values", "asked"),
    [("niah_multikey", 4, 1, 1), ("niah_multivalue", 1, 4, 1), ("niah_multiquery", 4, 1, 4)],
)
def test_niah_tasks_have_their_keys_and_values(task: str, keys: int, values: int, asked: int) -> None:
    record = ruler_record(task)
    numbers: dict[str, list[str]] = {}
    for key, number in re.findall(r"magic numbers for (\S+) is: (\d{7})\.", record.document.text):
        numbers.setdefault(key, []).append(number)
    assert [len(found) for found in numbers.values()] == [values] * keys
    (question,) = record.questions
    queried = [key for key in numbers if key in question.text]
    assert len(queried) == asked
    assert sorted(question.answers) == sorted(number for key in queried for number in numbers[key])
    assert all(line in record.document.text for line in question.evidence)
    plural = "are all the special magic numbers" if values * asked > 1 else "is the special magic number"
    assert question.text.startswith(f"What {plural} for ")
    assert record.asking.form.answer_prefix.endswith("text are" if values * asked > 1 else "text is")


@pytest.mark.parametrize("data", [False, True], ids=["noise", "book"])
def test_variables_are_those_that_the_chain_gives_the_value(data: bool, book: Path) -> None:
    record = ruler_record("vt", **({"data": book} if data else {}))
    values: dict[str, str] = {}
    for name, value in re.findall(r"VAR ([A-Z]{5}) = (?:VAR )?(\w+)", record.document.text):
        values[name] = values.get(value, value)
    (question,) = record.questions
    (asked,) = re.findall(r"value (\d{5}) in the text above", question.text)
    assert values == dict.fromkeys(question.answers, asked)
    assert len(values) == 5
    assert (f"= {asked}." in record.document.text) == data
    assert record.asking.form.answer_prefix == (
        " Answer: According to the chain(s) of variable assignment in the text above, 5 variables are assigned the "
        f"value {asked}, they are: "
    )
    assert record.asking.max_new_tokens == 30


def test_tasks_of_ruler_are_picked_by_name() -> None:
    records = list(ruler.read(reading(lengths=(600, 700), samples=2)))
    assert len(records) == 5 * 2 * 2 == len({record.id for record in records})
    assert len({answer for record in records for answer in record.questions[0].answers}) == 4 * (1 + 1 + 4 + 4 + 5)
    with pytest.raises(UsageError, match="'niah_singel'; the nearest is 'niah_single'"):
        list(ruler.read(reading(tasks=("niah_singel",))))
