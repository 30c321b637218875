"""Questions of tables: unit and period told, the cell as it stands, and nothing asked that the table leaves open."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.documents.document_tables import find_tables, row_cells
from lift.documents.sentences import split_sentences
from lift.tasks.rules.lines import MIN_ASKED_ROWS, rows_left_out
from lift.tasks.rules.rule_generator import generate_tasks

INCOME = """Harwick Ferries plc
Statement of income (in millions, except per share amounts)

| Three Months Ended July 1, 2023 | Three Months Ended June 25, 2022
Net sales:
Tickets | $ 312 | $ 298
Freight | 1,204 | 1,150
Total net sales | 1,516 | 1,448
Cost of sales:
Tickets | 101 | 99
Freight | 640 | 655
Operating expenses | (75) | (70)
Net income | 700 | 624
Earnings per share | $ 1.27 | $ 1.13
Margin | 46.2 % | 43.1 %

The quay sells tickets and freight. Net sales rose with net income, earnings per share and operating expenses."""


def asked(text: str, title: str = "Harwick") -> dict[str, tuple[str, tuple[int, ...]]]:
    tasks = generate_tasks(title, split_sentences(text), per_sentence=40, held_out_per_sentence=0)
    return {task.question: (task.answer, task.evidence) for task in tasks}


def test_a_cell_is_asked_for_with_its_unit_and_period_and_proved_by_row_and_header() -> None:
    sentences = split_sentences(INCOME)
    found = asked(INCOME)
    answer, evidence = found["How much was net income for the three months ended July 1, 2023, in millions?"]
    assert answer == "700"
    assert [sentences[index].text for index in evidence] == [
        "Net income | 700 | 624",
        "Statement of income (in millions, except per share amounts)",
        "| Three Months Ended July 1, 2023 | Three Months Ended June 25, 2022",
    ]
    assert found["How much were operating expenses for the three months ended June 25, 2022, in millions?"][0] == "(70)"


def test_the_unit_is_not_said_of_what_it_excepts() -> None:
    found = asked(INCOME)
    assert found["What were earnings per share for the three months ended July 1, 2023?"][0] == "$ 1.27"
    assert not any("in millions" in question for question in found if "per share" in question or "argin" in question)


def test_a_label_that_comes_twice_is_asked_with_its_group() -> None:
    found = asked(INCOME)
    period = "for the three months ended July 1, 2023, in millions?"
    assert found[f"How much were tickets (net sales) {period}"][0] == "$ 312"
    assert found[f"How much were tickets (Cost of sales) {period}"][0] == "101"
    assert f"How much were tickets {period}" not in found


def test_years_dates_and_header_over_several_columns() -> None:
    text = (
        "| Year ended December 31 | Year ended March 31\n| 2022 | 2021 | 2022 | 2021\nRent paid | 4.5 | 4.1 | 3.2 | 3.1"
    )
    table = find_tables(split_sentences(text))[0]
    assert table.columns[1:] == (
        "Year ended December 31 2022",
        "Year ended December 31 2021",
        "Year ended March 31 2022",
        "Year ended March 31 2021",
    )
    assert asked(text)["How much was Rent paid for the year ended March 31, 2021?"][0] == "3.1"
    dated = asked("| September 24, 2022 | 2021 | Q3 2020\nGold held | 12 | 14 | 15")
    assert dated["How much was Gold held as of September 24, 2022?"][0] == "12"
    assert dated["How much was Gold held in 2021?"][0] == "14"
    assert dated["How much was Gold held in Q3 2020?"][0] == "15"


def test_columns_that_are_no_periods_are_asked_by_the_words_of_the_table() -> None:
    found = asked("Pitch | Season | Night\nHut | winter | 41 euros\nTent | summer | 12 euros")
    assert found["What does the table give as “Night” for “Hut”?"][0] == "41 euros"
    assert found["For which “Pitch” does the table give “summer” as “Season”?"][0] == "Tent"
    both = asked(
        "Season | Guest | Price\nSummer | adult | 4 crowns\nSummer | child | 2 crowns\nWinter | adult | 3 crowns"
    )
    assert both["What does the table give as “Price” for “Summer, child”?"][0] == "2 crowns"
    assert "What does the table give as “Price” for “Summer”?" not in both


def test_a_table_that_goes_on_in_the_next_paragraph_keeps_its_header() -> None:
    text = "| 2022 | 2021\nOil | 1.1 | 1.2\nTar | 2.1 | 2.2\n\nRope | 3.1 | 3.2\nSail | 4.1 | 4.2"
    assert asked(text)["How much was Sail in 2021?"][0] == "4.2"


def test_signs_alone_in_a_cell_belong_to_the_number_beside_them() -> None:
    assert row_cells("Net income | $ | 99 | % | $ | (3 | )") == ("Net income", "$99%", "$(3)")
    assert row_cells("| a | b |") == ("a", "b")
    assert row_cells("No row at all") == ()


def test_a_row_is_one_sentence_whatever_its_cells_say() -> None:
    row = "Mr. Berg. He is the master. | No. Nobody | 12. The mate"
    assert [each.text for each in split_sentences(f"{row}\nand then some")] == [row, "and then some"]


def test_a_long_sheet_leaves_rows_out_evenly_and_prose_whole() -> None:
    rows = "\n".join(f"Item {number} | {number * 7}" for number in range(5 * MIN_ASKED_ROWS))
    prose = "The keeper lit the lamp at nine. A storm broke the glass in 1907."
    sentences = split_sentences(f"{prose}\n\nName | 2022\n{rows}")
    left_out = rows_left_out(sentences)
    kept = [each.index for each in sentences if "Item" in each.text and each.index not in left_out]
    assert len(kept) == MIN_ASKED_ROWS
    assert max(later - earlier for earlier, later in pairwise(kept)) <= 6
    tasks = generate_tasks("Lamp", sentences, per_sentence=2, held_out_per_sentence=0)
    about = {task.evidence[0] for task in tasks}
    assert not about & left_out
    assert {0, 1} <= about
    assert not rows_left_out(sentences[:200])


cell = st.text("ab 1.$%()|-:—é中", max_size=8) | st.sampled_from(
    ["2022", "", "(in millions)", "Total", "July 1, 2023", "7"]
)


@given(st.lists(st.lists(cell, min_size=1, max_size=5), max_size=8))
def test_every_answer_stands_in_its_row_and_every_question_is_asked_once_of_a_table(rows: list[list[str]]) -> None:
    sentences = split_sentences("\n".join(" | ".join(cells) for cells in rows))
    for table in find_tables(sentences):
        assert table.header or not table.columns
        assert all(len(row.cells) > 1 for row in table.rows)
    tasks = generate_tasks("T", sentences, per_sentence=50, held_out_per_sentence=0, language="en")
    texts = {each.index: "".join(each.text.split()) for each in sentences}
    for task in tasks:
        assert set(task.evidence) <= set(texts)
        if task.origin == "rules:cell":
            assert "".join(task.answer.split()) in texts[task.evidence[0]].replace("|", "")
    cells = [task.question for task in tasks if task.origin == "rules:cell"]
    assert len(set(cells)) == len(cells)


def test_rows_that_carry_the_words_of_their_header_are_asked_by_their_columns() -> None:
    text = "Boat | Launched | Crew\nHeron | Launched: 4 May 1998 | Crew: 3\nTern | Crew: 12"
    (table,) = find_tables(split_sentences(text))
    assert table.columns == ("Boat", "Launched", "Crew")
    assert [row.cells for row in table.rows] == [("Heron", "4 May 1998", "3"), ("Tern", "", "12")]


@pytest.mark.parametrize(
    "text",
    [
        "Three Months Ended June 30, | 2023 | 2022\nNet sales | 12 | 14",
        "Sales of the quay\n\n| 2023 | Three Months Ended June 30, 2022\nNet sales | 12 | 14",
        "Three Months Ended\n\n| June 30, 2023 | June 30, 2022\nNet sales | 12 | 14",
    ],
)
def test_a_period_that_is_told_once_holds_for_all_columns(text: str) -> None:
    assert asked(text)["How much were Net sales for the three months ended June 30, 2023?"][0] == "12"


def test_a_line_that_tells_two_units_tells_none_of_them_for_a_row() -> None:
    found = asked("Earnings (net income in millions and shares in thousands)\n\n| 2023 | 2022\nShares | 12 | 14")
    assert found["How much were shares in 2023?"][0] == "12"


def test_names_keep_their_capitals_and_what_is_no_thing_is_not_asked_how_much_it_was() -> None:
    prose = "A greater part is sold as a percent of what is there."
    found = asked(f"{prose}\n\n| 2023 | 2022\nGreater China | 12 | 14\nAs a percent of sales | 3 % | 4 %")
    assert found["How much was Greater China in 2023?"][0] == "12"
    assert not any(question.startswith("What was as a") for question in found)
