"""Each format: read with its places, and all that is left out of it told."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lift.documents import Document
from lift.documents.number_formats import general, shown_number
from lift.documents.parse import check_readable, parse_document
from lift.documents.table_rows import SpanFiller, SpannedCell, worded_rows
from lift.errors import DocumentError

DATA = Path(__file__).resolve().parent.parent / "data" / "formats"
OFFICE = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'


def read(name: str) -> Document:
    return parse_document((DATA / name).read_bytes(), name)


def parts(document: Document) -> list[str]:
    return document.text.split("\n\n")


def omitted(document: Document) -> dict[str, int]:
    return dict(Counter(omission.kind for omission in document.omissions))


def zipped(members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("path", sorted(DATA.glob("*.*")), ids=lambda path: path.name)
def test_what_is_read_is_known_to_be_readable_from_its_head(path: Path) -> None:
    data = path.read_bytes()
    check_readable(data, path.name, len(data))
    check_readable(data[:4096], path.name, max(len(data), 4097))


# Presentations


def test_a_slide_is_a_page_under_its_title_with_lists_tables_charts_and_notes() -> None:
    document = read("lock.pptx")
    assert parts(document) == [
        "The lock of Ardmouth",
        "- The lock was opened in 1884.\n- It lifts boats by six metres.\n  - The upper gate weighs nine tonnes.",
        "Mention the flood of 1907.",
        "Tolls",
        "Boat | Season | Toll\nBarge | Summer | 8 marks\nBarge | Winter | 5 marks\nCanoe | Summer | 1 mark",
        "| Barges | Canoes\n2021 | 410 | 96\n2022 | 385 | 120",
        "The keeper is Runa Falk.",
    ]
    assert [(place.page, place.heading) for place in document.places] == [
        (1, "The lock of Ardmouth"),
        (2, "Tolls"),
        (3, "Slide 3"),
    ]
    assert document.warnings == ("1 image was left out (page 3).", "1 hidden slide was left out (page 4).")


def test_a_slide_that_does_not_open_is_told_and_a_presentation_of_none_is_refused() -> None:
    def without(*lost: str) -> bytes:
        with zipfile.ZipFile(DATA / "lock.pptx") as archive:
            return zipped({name: archive.read(name) for name in archive.namelist() if name not in lost})  # type: ignore[misc]

    document = parse_document(without("ppt/slides/slide2.xml"), "x.pptx")
    assert document.omissions[0].kind == "slide that does not open"
    assert document.omissions[0].page == 2
    with pytest.raises(DocumentError, match="not whole"):
        parse_document(without(*(f"ppt/slides/slide{number}.xml" for number in range(1, 5))), "x.pptx")


# Sheets


def test_a_workbook_shows_its_values_under_its_sheets_and_each_row_carries_its_header() -> None:
    document = read("boats.xlsx")
    assert parts(document)[1:3] == [
        "Boats of the canal company",
        "Boat | Launched | Share | Price | Crew | Total\n"
        "Heron | Launched: 4 May 1998 | Share: 4.5% | Price: 1,234.50 marks | Crew: 3 | Total: 2469\n"
        "Otter | Launched: 20 November 2003 | Share: 50.0% | Price: 980.00 marks | Crew: 2",
    ]
    assert parts(document)[4].endswith("Summer | Ticket: child | Fare: 2")
    assert [place.heading for place in document.places] == ["Boats", "Seasons"]
    assert omitted(document) == {"hidden row": 1, "hidden sheet": 1, "comment": 1}


@pytest.mark.parametrize(
    ("value", "number_format", "shown"),
    [
        (0.045, "0.0%", "4.5%"),
        (1234.5, '#,##0.00 "€"', "1,234.50 €"),
        (12, "[$$-409]#,##0.00", "$12.00"),
        (-1234.5, "#,##0.00_);(#,##0.00)", "(1,234.50)"),
        (-0.4, "0", "0"),
        (-3, "0", "-3"),
        (45413, "yyyy-mm-dd", "2024-05-01"),
        (45413.5, "m/d/yy h:mm AM/PM", "5/1/24 12:00 PM"),
        (1.5, "[h]:mm", "36:00"),
        (0.5, "# ?/?", "1/2"),
        (5, "00000", "00005"),
        (1234567, '#,##0,"k"', "1,235k"),
        (12345, "0.00E+00", "1.23E+04"),
        (0, '0;-0;"none"', "none"),
        (0.1 + 0.2, "General", "0.3"),
        (4e9, "yyyy", "4000000000"),
    ],
)
def test_a_number_is_shown_as_its_format_says(value: float, number_format: str, shown: str) -> None:
    assert shown_number(value, number_format) == shown


@given(st.floats(allow_nan=True), st.text(alphabet='0#?,./%E+-ymdhsAPMG"\\[]$_*;@ x', max_size=40))
def test_no_number_and_no_format_fails(value: float, number_format: str) -> None:
    assert isinstance(shown_number(value, number_format), str)


@given(st.integers(-(10**14), 10**14))
def test_a_whole_number_without_a_format_keeps_its_digits(value: int) -> None:
    assert general(float(value)) == str(value)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_delimited_table_is_read_whatever_parts_its_values(delimiter: str) -> None:
    rows = [["Boat", "Season", "Toll"], ["Barge, large", "Summer", "8"], ["Canoe; small", "Winter", "1"]]
    text = "\n".join(delimiter.join(f'"{value}"' for value in row) for row in rows)
    document = parse_document(text.encode(), "tolls.csv")
    assert document.text.split("\n") == [
        "Boat | Season | Toll",
        "Barge, large | Season: Summer | Toll: 8",
        "Canoe; small | Season: Winter | Toll: 1",
    ]


def test_a_table_of_two_columns_or_without_header_stays_as_it_is() -> None:
    pairs = [["Name", "Year"], ["Heron", "1998"]]
    numbers = [["1", "2", "3"], ["4", "5", "6"]]
    assert worded_rows(pairs) == pairs
    assert worded_rows(numbers) == numbers


@given(
    st.lists(
        st.lists(
            st.builds(SpannedCell, st.sampled_from(["", "a", "b"]), st.integers(0, 9), st.integers(0, 9)), max_size=6
        ),
        max_size=8,
    )
)
def test_spans_lose_no_text_of_a_row(rows: list[list[SpannedCell]]) -> None:
    filler = SpanFiller()
    for row in rows:
        filled = filler.fill(row)
        assert {cell.text for cell in row if cell.text} <= set(filled)


# OpenDocument


def test_an_opendocument_text_keeps_lists_spans_notes_and_exponents() -> None:
    document = read("lock.odt")
    assert parts(document) == [
        "The lock",
        "The basin holds 3 × 10^5 litres.",
        "Note 1: Measured in 1931.",
        "1. Close the gate.\n2. Open the sluice.",
        "Boat | Season | Toll\nBarge | Summer | 8 marks\nBarge | Winter | 5 marks",
        "After the table.",
    ]
    assert omitted(document) == {"hidden passage": 1, "comment": 1, "image": 1}


def test_opendocument_sheets_and_slides() -> None:
    assert parts(read("boats.ods"))[1].endswith("Otter | Launched: 20 Nov 2003 | Crew: 2")
    slides = read("lock.odp")
    assert slides.text == "The lock\n\nIt was opened in 1884."
    assert slides.places[0].page == 1


def test_a_locked_opendocument_is_refused() -> None:
    manifest = "<m:manifest xmlns:m='m'><m:file-entry><m:encryption-data/></m:file-entry></m:manifest>"
    with pytest.raises(DocumentError, match="password"):
        parse_document(zipped({"content.xml": "<x/>", "META-INF/manifest.xml": manifest}), "x.odt")


# Rich text


def test_rich_text_keeps_characters_lists_tables_and_notes() -> None:
    document = read("letter.rtf")
    assert document.title == "The lock of Ardmouth"
    assert parts(document) == [
        "The lock",
        "Opened in 1884 for 200 cafés, €5 each; the basin holds 3 × 10^5 litres. Мост.",
        "Note 1: Measured in 1931.",
        "• Close the gate.\n• Open the sluice.",
        "Boat | Toll\nBarge | 8 marks",
        "The keeper is Runa Falk —since 2016 😊.",
    ]
    assert document.places[0].heading == "The lock"
    assert omitted(document) == {"page header": 1, "hidden passage": 1, "struck-out passage": 1, "image": 1}


@settings(deadline=None)
@given(st.text(alphabet="{}\\*'aub0 -1\n", max_size=200))
def test_no_rich_text_fails(body: str) -> None:
    with contextlib.suppress(DocumentError):
        parse_document(("{\\rtf1 " + body).encode(), "x.rtf")


# Mails


def test_a_mail_is_decoded_and_its_attachment_told() -> None:
    document = read("letter.eml")
    assert document.title == "The gate – Thursday"
    assert parts(document) == [
        "From: Ole Børk <ole@example.org>\nTo: Runa Falk <runa@example.org>\n"
        "Date: Tue, 4 Mar 2025 09:00:00 +0100\nSubject: The gate – Thursday",
        "Dear Runa,",
        "the new gate arrives on Thursday and weighs nine tonnes.",
        "When does the gate come?",
        "Ole",
    ]
    assert omitted(document) == {"attachment": 1}


PLAIN_MAIL = """From: a@example.org
Subject: {subject}
MIME-Version: 1.0
Content-Type: text/plain; charset=iso-8859-1; format=flowed
Content-Transfer-Encoding: 8bit

The gate costs \x80 900 and comes \non Thursday.

> When does it come?
>> Nobody knows.
"""


def test_a_plain_mail_keeps_its_quotes_and_joins_flowed_lines() -> None:
    document = parse_document(PLAIN_MAIL.format(subject="x").encode("latin-1"), "unnamed")
    assert parts(document)[1:] == ["The gate costs € 900 and comes on Thursday.", "When does it come?", "Nobody knows."]


@pytest.mark.parametrize("subject", ["=?utf-8?B?QQ==Q?=", "=?utf-8?B?AAAAA?=", "=?nonsense?Q?caf=E9?="])
def test_a_mail_whose_subject_is_not_encoded_as_it_says_is_read_all_the_same(subject: str) -> None:
    mail = f"From: a@example.org\nSubject: {subject}\nMIME-Version: 1.0\n\nThe crane arrives on Tuesday.\n"
    assert "The crane arrives on Tuesday." in parse_document(mail.encode(), "m.eml").text


def test_a_mailbox_holds_each_mail_under_its_subject() -> None:
    mails = [f"From x Tue Mar  4 09:00:00 2025\n{PLAIN_MAIL.format(subject=name)}\n>From here on.\n" for name in "AB"]
    document = parse_document("\n".join(mails).encode("latin-1"), "all.mbox")
    assert [place.heading for place in document.places] == ["A", "B"]
    assert "From here on." in parts(document)


def test_a_forwarded_mail_is_read_and_an_encrypted_one_refused() -> None:
    outer = (
        'From: a@b\nMIME-Version: 1.0\nContent-Type: multipart/{kind}; boundary="x"\n\n--x\nContent-Type: {inner}\n\n'
    )
    forwarded = outer.format(kind="mixed", inner="message/rfc822") + PLAIN_MAIL.format(subject="Old") + "\n--x--\n"
    assert "Subject: Old" in parse_document(forwarded.encode("latin-1"), "x.eml").text
    locked = outer.format(kind="encrypted", inner="application/pgp-encrypted") + "Version: 1\n--x--\n"
    with pytest.raises(DocumentError, match="encrypted"):
        parse_document(locked.encode(), "x.eml")


def test_a_web_archive_is_the_page_in_it() -> None:
    document = read("lock.mhtml")
    assert document.text == "The lock\n\nThe lock was opened in 1884 and lifts boats by six metres."
    assert omitted(document) == {"image": 1}
    assert parse_document((DATA / "lock.mhtml").read_bytes(), "download").text == document.text


# Notebooks, subtitles, chats


def test_a_notebook_is_prose_code_and_what_it_printed() -> None:
    document = read("tolls.ipynb")
    assert parts(document) == [
        "Tolls",
        "The toll rose in 2022.",
        "total = 410 + 96\nprint(total)",
        "506",
        "Boat | Count\nBarge | 410",
    ]
    assert omitted(document) == {"image": 1, "error message": 1}
    with pytest.raises(DocumentError, match="notebook"):
        parse_document(b"[" * 100_000, "x.ipynb")


def test_subtitles_are_sentences_with_their_speakers() -> None:
    assert read("talk.srt").text == "The lock of Ardmouth was opened in 1884.\n- Who keeps it?\n- Runa Falk does."
    assert parts(read("talk.vtt")) == ["Ole: The lock of Ardmouth was opened & blessed in 1884.", "Runa: In May."]
    dialogue = "Dialogue: 0,0:00:01.00,0:00:02.00,Default,Ole,0,0,0,,{\\an8}The gate,\\Nsaid he."
    assert parse_document(dialogue.encode(), "x.ass").text == "Ole: The gate, said he."


def test_rolling_captions_are_told_once() -> None:
    cues = ["the lock", "the lock\nwas opened", "was opened\nin May."]
    text = "WEBVTT\n\n" + "".join(f"00:0{n}.000 --> 00:0{n + 1}.000\n{cue}\n\n" for n, cue in enumerate(cues))
    assert parse_document(text.encode(), "x.vtt").text == "the lock was opened in May."


def test_a_chat_is_one_line_a_message_under_its_day() -> None:
    document = read("chat.txt")
    assert parts(document) == [
        "04/03/2025 09:01:40, Ole Børk: When does the gate come?\n"
        "04/03/2025 09:02:05, Runa: On Thursday. It weighs nine tonnes.",
        "05/03/2025 07:16:00, Runa: The crane is ready: come at ten.",
    ]
    assert [place.heading for place in document.places] == ["04/03/2025", "05/03/2025"]
    assert omitted(document) == {"message of the chat program": 1, "attachment": 1, "deleted message": 1}
    dashed = "".join(f"3/4/25, 9:0{n}\u202fAM - Ole: message {n}\n" for n in range(3))
    assert "3/4/25 9:01 AM, Ole: message 1" in parse_document(dashed.encode(), "a.txt").text


def test_a_diary_is_no_chat() -> None:
    diary = "The lock was opened.\n\n04/03/2025, 09:00 - Rain: none.\n\nNothing else was said about it that day.\n" * 3
    assert "04/03/2025, 09:00 - Rain: none." in parse_document(diary.encode(), "diary.txt").text


@pytest.mark.parametrize(
    "export",
    [
        [
            {
                "type": "message",
                "ts": "1741078800.000100",
                "user": "U1",
                "user_profile": {"real_name": "Runa"},
                "text": "Ten.",
            }
        ],
        {"messages": [{"timestamp": "2025-03-04T09:00:00+00:00", "author": {"name": "Runa"}, "content": "Ten."}]},
        {"messages": [{"date": "2025-03-04T09:00:00", "from": "Runa", "text": ["Te", {"type": "bold", "text": "n."}]}]},
    ],
    ids=["slack", "discord", "telegram"],
)
def test_exports_of_chats_in_json_are_read_and_other_json_is_refused(export: object) -> None:
    assert parse_document(json.dumps(export).encode(), "x.json").text == "2025-03-04 09:00, Runa: Ten."
    for other in ({"a": 1}, {"messages": []}, {"messages": [{"x": {}}]}):
        with pytest.raises(DocumentError, match="write what it says"):
            parse_document(json.dumps(other).encode(), "x.json")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.msg", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "save it as docx"),
        ("a.xlsb", zipped({"xl/workbook.bin": "x"}), "save it as xlsx"),
        ("a.key", zipped({"Index/a.iwa": "x"}), "export it"),
        ("a.srt", b"No time at all.", "no line with a time"),
        ("a.eml", b"Only words.", "with its headers"),
        ("a.mht", b"MIME-Version: 1.0\nContent-Type: text/plain\n\nx", "with a page in it"),
        ("a.xlsx", b"words", "misnamed"),
        ("a.py", b"x = 1", "source of a program"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_do(name: str, content: bytes, expected: str) -> None:
    with pytest.raises(DocumentError, match=expected) as caught:
        parse_document(content, name)
    assert "\n" not in str(caught.value)


def test_entities_of_a_sheet_are_not_expanded() -> None:
    levels = "".join(f'<!ENTITY x{n} "{f"&x{n - 1};" * 10}">' for n in range(1, 9))
    workbook = f'<workbook {OFFICE}><sheets><sheet name="A" r:id="r1"/></sheets></workbook>'
    relations = '<Relationships><Relationship Id="r1" Target="worksheets/sheet1.xml"/></Relationships>'
    sheet = f'<!DOCTYPE w [<!ENTITY x0 "lol">{levels}]><worksheet><sheetData><row><c t="str"><v>a&x8;b</v></c>'
    sheet += "</row></sheetData></worksheet>"
    data = zipped(
        {"xl/workbook.xml": workbook, "xl/_rels/workbook.xml.rels": relations, "xl/worksheets/sheet1.xml": sheet}
    )
    try:
        assert "lol" not in parse_document(data, "x.xlsx").text
    except DocumentError as error:
        assert "\n" not in str(error)
