"""PDFs of every kind are read as a person reads them, and what is left out is told."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from printed_pdf import all_of, grid, lines, printed, read, texts
from reportlab.lib.pdfencrypt import StandardEncryption

from lift.documents.document import Document
from lift.documents.pdf.printed_lines import LineSegment, printed_lines
from lift.documents.pdf.printed_tables import rows_of
from lift.documents.pdf.words import PrintedWord
from lift.documents.sandbox import limits_for
from lift.errors import DocumentError

PROSE = (
    "The orchard on the southern slope was planted in the spring of 1887 by",
    "the widow of the miller, who had brought forty saplings from the coast.",
    "Most of them bore their first fruit in the seventh year after that.",
)


def place_of(document: Document, words: str) -> tuple[int | None, str | None]:
    place = document.place_at(document.text.index(words))
    assert place is not None
    return place.page, place.heading


@pytest.mark.parametrize("strength", [40, 128, 256])
def test_a_file_that_opens_without_a_password_is_read(tmp_path: Path, strength: int) -> None:
    lock = StandardEncryption("", ownerPassword="owner", canPrint=0, strength=strength)
    assert PROSE[0] in read(tmp_path, printed(lines(780, *PROSE), encrypt=lock)).text


def test_a_file_that_asks_for_a_password_is_refused(tmp_path: Path) -> None:
    lock = StandardEncryption("secret", ownerPassword="owner", strength=128)
    with pytest.raises(DocumentError, match="encrypted; save it without a password"):
        read(tmp_path, printed(lines(780, *PROSE), encrypt=lock))


TREES = (
    ("Tree", "Height", "Planted by", "Year"),
    ("Red Pearmain", "4.2 m", "Holt & Daughters", "1887"),
    ("Quince", "3.1 m", "The miller", "1902"),
    ("Old Medlar of the Gate", "6.0 m", "Unknown", "1790"),
    ("Pear", "5.5 m", "Holt & Daughters", "1911"),
)


@pytest.mark.parametrize("lefts", [(60, 180, 260, 400), (60, 185, 225, 330)], ids=["wide", "narrow"])
def test_a_row_of_a_table_is_a_line(tmp_path: Path, lefts: tuple[int, ...]) -> None:
    page = all_of(lines(780, *PROSE), grid(700, lefts, *TREES), lines(600, "All trees are pruned in March."))
    text = read(tmp_path, printed(page)).text
    assert "\n".join(" | ".join(row) for row in TREES) in text
    assert text.endswith("\n\nAll trees are pruned in March.")


def test_a_header_over_several_columns_stands_over_each_and_a_repeated_label_is_told_apart(tmp_path: Path) -> None:
    def page(canvas: Any) -> None:
        canvas.setFont("Helvetica", 9)
        for x, said in ((335, "Half year to"), (485, "Full year to")):
            canvas.drawCentredString(x, 700, said)
        for x, said in ((300, "June 2031"), (370, "June 2030"), (450, "May 2031"), (520, "May 2030")):
            canvas.drawCentredString(x, 688, said)
        rows = [
            ("Sales:",),
            ("  Fruit", "1,204", "(18)", "2,450", "2,101"),
            ("  Cider", "310", "295", "640", "588"),
            ("Costs:",),
            ("  Fruit", "700", "650", "1,390", "1,208"),
            ("  Cider", "120", "—", "260", "249"),
            ("Profit", "694", "627", "1,440", "1,232"),
        ]
        for number, (label, *cells) in enumerate(rows):
            y = 670 - 12 * number
            canvas.drawString(60 + 8 * (label[0] == " "), y, label.strip())
            for right, cell in zip((320, 390, 470, 540), cells, strict=False):
                canvas.drawRightString(right, y, cell)
                if label == "Profit":
                    canvas.drawString(right - 40, y, "$")

    assert read(tmp_path, printed(page)).text.split("\n") == [
        "| Half year to June 2031 | Half year to June 2030 | Full year to May 2031 | Full year to May 2030",
        "Sales: Fruit | 1,204 | (18) | 2,450 | 2,101",
        "Sales: Cider | 310 | 295 | 640 | 588",
        "Costs: Fruit | 700 | 650 | 1,390 | 1,208",
        "Costs: Cider | 120 | — | 260 | 249",
        "Profit | $ 694 | $ 627 | $ 1,440 | $ 1,232",
    ]


def test_a_label_over_two_lines_is_one_row(tmp_path: Path) -> None:
    page = grid(
        700,
        (60, 330, 420),
        ("Item", "2031", "2030"),
        ("Wages of the pickers and", "", ""),
        ("of the two foremen", "412", "398"),
        ("Baskets", "17", "21"),
    )
    text = read(tmp_path, printed(page)).text
    assert "Wages of the pickers and of the two foremen | 412 | 398\nBaskets | 17 | 21" in text


def test_values_of_a_form_stand_behind_their_labels(tmp_path: Path) -> None:
    def page(canvas: Any) -> None:
        for y, label in ((740, "Name:"), (700, "Village:"), (660, "Member:"), (620, "Guest:")):
            canvas.drawString(60, y, label)
        for y, name, value in ((736, "name", "Ida Holt"), (696, "village", "Osterby")):
            canvas.acroForm.textfield(name=name, value=value, x=160, y=y, width=180, height=18)
        canvas.acroForm.checkbox(name="member", checked=True, x=160, y=656, size=16)
        canvas.acroForm.checkbox(name="guest", checked=False, x=160, y=616, size=16)
        canvas.drawString(60, 560, "The society was founded in 1890.")

    text = read(tmp_path, printed(page)).text
    for line in ("Name: Ida Holt", "Village: Osterby", "Member: ☒", "Guest: ☐", "The society was founded in 1890."):
        assert line in text.split("\n")


@pytest.mark.parametrize("is_by_row", [True, False], ids=["rows", "columns"])
@pytest.mark.parametrize("drop", [0, 5], ids=["one grid", "two grids"])
def test_columns_are_read_one_after_the_other(tmp_path: Path, is_by_row: bool, drop: float) -> None:
    left = ("The orchard on the slope was", "planted in 1887 by the widow", "of the miller, who had")
    left += ("brought forty saplings from", "the coast in a single cart.")
    right = ("The cider house came later.", "Its press was built from oak", "and ran until the war, when")
    right += ("the iron screw was taken", "away and never came back.")
    placed = [(60, 780 - 14 * number, said) for number, said in enumerate(left)]
    placed += [(300, 780 - drop - 14 * number, said) for number, said in enumerate(right)]
    if is_by_row:
        placed.sort(key=lambda each: -each[1])
    text = read(tmp_path, printed(texts(*placed))).text
    assert text.replace("\n\n", " ") == " ".join(left + right)


def test_bullets_of_every_kind_are_items_and_the_text_after_the_list_is_not(tmp_path: Path) -> None:
    marks = ("•", "–", "-", "*", "·")
    page = all_of(
        lines(780, "What every picker brings:"),
        texts(*((78, 764 - 15 * number, mark) for number, mark in enumerate(marks))),
        texts(*((92, 764 - 15 * number, f"thing number {number} of the list") for number in range(len(marks)))),
        lines(764 - 15 * len(marks), "Whoever has none of these stays at home."),
    )
    paragraphs = read(tmp_path, printed(page)).text.split("\n\n")
    assert paragraphs[0] == "What every picker brings:"
    items = paragraphs[1].split("\n")
    assert [item.split(" ", 1)[1] for item in items] == [f"thing number {number} of the list" for number in range(5)]
    assert paragraphs[2] == "Whoever has none of these stays at home."


def test_leaders_part_the_cells_of_a_row_and_a_menu_is_no_table_of_contents(tmp_path: Path) -> None:
    menu = (("Apple soup", 30, 9), ("Quince tart", 24, 12), ("Pear in wine", 28, 6), ("Cider", 40, 14))
    page = lines(780, "The menu of the cider house:", *(f"{dish} {'.' * dots} {price}" for dish, dots, price in menu))
    text = read(tmp_path, printed(page)).text
    assert text.split("\n\n")[1] == "Apple soup | 9\nQuince tart | 12\nPear in wine | 6\nCider | 14"


def test_a_table_of_contents_is_left_out_and_told(tmp_path: Path) -> None:
    kinds = ("apple", "pear", "quince", "plum")
    entries = zip((f"Chapter of the {kind}" for kind in kinds), (1, 2, 2, 3), strict=True)
    contents = lines(780, "Contents", *(f"{title} {'. ' * 20} {page}" for title, page in entries))
    document = read(tmp_path, printed(contents, *(lines(780, f"Now the {kind}.", *PROSE) for kind in kinds)))
    assert "Chapter of the" not in document.text
    assert document.warnings == ("1 table of contents was left out (page 1).",)


def test_heads_that_differ_in_content_stay_and_running_heads_go(tmp_path: Path) -> None:
    pages = [
        all_of(
            texts((60, 800, f"Day {number}")),
            lines(760, f"On this day we walk to village {'ABCDE'[number]} and stay.", *PROSE),
            texts((60, 40, f"Walking tours of the coast, spring 2031 - {number + 7}")),
        )
        for number in range(1, 5)
    ]
    document = read(tmp_path, printed(*pages))
    for number in range(1, 5):
        assert place_of(document, f"village {'ABCDE'[number]}") == (number, f"Day {number}")
    assert "Walking tours" not in document.text


def test_the_header_of_a_table_atop_of_each_page_is_no_running_head(tmp_path: Path) -> None:
    def page(number: int) -> Any:
        rows = ((f"{name} of farm {number}", f"{7 * number},30{number}", f"{number}15") for name in ("Rent", "Seed"))
        table = grid(780, (60, 300, 420), ("In crowns", f"Jul {number}, 2031", f"Jul {number}, 2030"), *rows)
        return all_of(table, lines(700, f"Farm {'ABCDE'[number]} lies on the coast.", *PROSE))

    text = read(tmp_path, printed(*(page(number) for number in range(1, 5)))).text
    for number in range(1, 5):
        assert f"In crowns | Jul {number}, 2031 | Jul {number}, 2030\nRent of farm {number} | " in text


def test_a_foot_with_the_page_and_a_section_that_changes_goes(tmp_path: Path) -> None:
    sections = ("Orchards", "Meadows", "Houses", "Roads", "Wells")
    pages = [
        all_of(
            lines(780, f"The {name.lower()} are kept by the village.", *PROSE), texts((60, 40, f"{name} of it {page}"))
        )
        for page, name in enumerate(sections, start=11)
    ]
    assert " of it 1" not in read(tmp_path, printed(*pages)).text


def test_watermarks_and_line_numbers_go(tmp_path: Path) -> None:
    said = [*PROSE * 4]

    def page(number: int) -> Any:
        def draw(canvas: Any) -> None:
            canvas.saveState()
            canvas.translate(200, 300)
            canvas.rotate(45)
            canvas.setFont("Helvetica", 60)
            canvas.drawString(0, 0, "CONFIDENTIAL")
            canvas.restoreState()
            canvas.setFont("Helvetica", 50)
            canvas.drawString(150, 500, "DRAFT COPY")
            canvas.setFont("Helvetica", 11)
            for index, line in enumerate(said):
                canvas.drawRightString(45, 780 - 20 * index, str(index + 1))
                canvas.drawString(60, 780 - 20 * index, line)
            canvas.drawString(60, 200, f"Sheet {['one', 'two', 'three', 'four'][number]} ends here.")

        return draw

    document = read(tmp_path, printed(*(page(number) for number in range(4))))
    assert "CONFIDENTIAL" not in document.text and "DRAFT" not in document.text
    assert document.text.startswith(" ".join(PROSE))
    assert document.warnings == ()


def test_a_slanted_line_of_one_page_is_told(tmp_path: Path) -> None:
    def slanted(canvas: Any) -> None:
        canvas.drawString(60, 700, PROSE[0])
        canvas.rotate(30)
        canvas.drawString(300, 300, "Sold out")

    assert read(tmp_path, printed(slanted)).warnings == ("1 slanted line was left out (page 1).",)


def test_footnotes_stand_apart_from_the_paragraph_that_goes_on(tmp_path: Path) -> None:
    first = all_of(
        lines(780, *PROSE, "The pears came later and were sold in the town, where"),
        lines(80, "1 The saplings are listed in the parish register of 1886.", size=8),
    )
    second = lines(780, "they fetched a good price until the frost of 1929.", *PROSE)
    text = read(tmp_path, printed(first, second)).text
    assert "where they fetched a good price until the frost of 1929." in text
    assert "\n\n1 The saplings are listed in the parish register of 1886." in text


def test_superscripts_are_told_from_what_they_stand_on(tmp_path: Path) -> None:
    def page(canvas: Any) -> None:
        text = canvas.beginText(60, 700)
        for said, raised in (
            ("A store of 3.2 x 10", "6"),
            (" m", "3"),
            (" was built in 2019.", "4"),
            (" It leaks.", ""),
        ):
            text.textOut(said)
            text.setFont("Helvetica", 7)
            text.setRise(4)
            text.textOut(raised)
            text.setRise(0)
            text.setFont("Helvetica", 11)
        canvas.drawText(text)

    assert read(tmp_path, printed(page)).text == "A store of 3.2 x 10^6 m^3 was built in 2019.[4] It leaks."


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turned_page_is_read_upright(tmp_path: Path, turn: int) -> None:
    def page(canvas: Any) -> None:
        canvas.setPageRotation(turn)
        canvas.translate(300, 420)
        canvas.rotate(turn)
        canvas.setFont("Helvetica", 11)
        for number, said in enumerate(PROSE):
            canvas.drawString(-200, 20 - 14 * number, said)

    assert read(tmp_path, printed(page)).text == " ".join(PROSE)


def test_headings_by_weight_and_by_the_outline_have_their_page(tmp_path: Path) -> None:
    def second(canvas: Any) -> None:
        canvas.drawString(60, 780, "Of the pears")
        canvas.bookmarkPage("pears")
        canvas.addOutlineEntry("Of the pears", "pears")
        lines(752, *PROSE)(canvas)

    first = all_of(
        lines(800, "Item 4. Trees and their owners", font="Helvetica-Bold"),
        lines(770, *PROSE, "A tree of the gate is called Medlar."),
    )
    document = read(tmp_path, printed(first, second))
    assert place_of(document, "A tree of the gate") == (1, "Item 4. Trees and their owners")
    heads = [place.heading for place in document.places]
    assert heads[-1] == "Of the pears" and document.places[-1].page == 2


def scan() -> Image.Image:
    picture = Image.new("L", (800, 1100), 255)
    picture.paste(90, (100, 100, 700, 140))
    return picture


def pictured(canvas: Any) -> None:
    from reportlab.lib.utils import ImageReader

    buffer = io.BytesIO()
    scan().save(buffer, "PNG")
    canvas.drawImage(ImageReader(buffer), 0, 0, 595, 842)


def test_pages_without_text_are_told_and_a_scan_names_the_option(tmp_path: Path) -> None:
    some = read(tmp_path, printed(lines(780, *PROSE), pictured, all_of(pictured, texts((60, 30, "A photograph.")))))
    assert some.warnings == ("1 page without text was left out (page 2).", "1 image was left out (page 3).")
    with pytest.raises(DocumentError, match="without any, probably a scan; read it with --ocr"):
        read(tmp_path, printed(pictured, pictured))


@pytest.mark.slow
def test_character_recognition_reads_a_picture_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    import pypdfium2
    from reportlab.lib.utils import ImageReader

    page = all_of(lines(780, *PROSE), grid(700, (60, 220, 320, 440), *TREES))
    drawn = pypdfium2.PdfDocument(printed(page))[0].render(scale=2.5).to_pil().convert("L")
    picture = io.BytesIO()
    drawn.save(picture, "JPEG", quality=80)
    data = printed(lines(780, "The first page."), lambda canvas: canvas.drawImage(ImageReader(picture), 0, 0, 595, 842))
    document = read(tmp_path, data, ocr=True)
    assert " ".join(PROSE) in document.text
    assert "Quince | 3.1 m | The miller | 1902" in document.text
    assert place_of(document, "widow")[0] == 2
    assert document.warnings == ("1 page was read by character recognition (page 2), which may err.",)


def test_character_recognition_gets_more_of_everything_but_not_without_bound() -> None:
    plain, more = limits_for(1_000_000), limits_for(1_000_000, ocr=True)
    assert more.memory_bytes > plain.memory_bytes and more.processor_s > plain.processor_s
    assert limits_for(200_000_000, ocr=True).processor_s <= 4 * 3600


WORDS = st.lists(
    st.builds(
        lambda text, left, y, size: PrintedWord(text, left, left + 0.5 * size * len(text), y, size),
        st.sampled_from(["a", "tree", "$", "1,204", "(18)", "—", "2031", "Sales:", "•", "....", "%", "x" * 40]),
        st.floats(0, 600),
        st.integers(0, 60).map(lambda line: 12.0 * line),
        st.sampled_from([8.0, 11.0, 20.0]),
    ),
    max_size=60,
)


@settings(max_examples=40, deadline=None)
@given(WORDS)
def test_no_word_is_lost_or_made_up_between_page_and_rows(words: list[PrintedWord]) -> None:
    rows = list(rows_of(printed_lines(words)))
    kept = {word.text for row in rows for segment in row.segments for word in segment.words}
    assert kept == {word.text for word in words if word.text != "...."}
    shown = " ".join(row.text for row in rows)
    assert all(text in shown for text in kept)
    heights = [max(segment.y for segment in row.segments) for row in rows]
    assert all(first >= second - 8 for first, second in pairwise(heights))


def test_gaps_part_segments() -> None:
    words = [
        PrintedWord("Net", 0, 20, 100, 10),
        PrintedWord("sales", 23, 45, 100, 10),
        PrintedWord("12", 90, 100, 100, 10),
    ]
    assert [segment.text for segment in printed_lines(words)[0]] == ["Net sales", "12"]
    assert LineSegment((words[0],)).right == 20
