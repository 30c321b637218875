"""Documents: every format gives the same clean text with its places, and every bad file one clear sentence."""

from __future__ import annotations

import io
import random
import unicodedata
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lift.documents import Document, document_from_text, parse, read_document, zip_archive
from lift.documents import read as reading
from lift.documents.blocks import Block, assemble
from lift.documents.cleaning import clean_text
from lift.documents.encoding import decode
from lift.documents.parse import parse_document
from lift.documents.sentences import split_sentences
from lift.errors import DocumentError

WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def zipped(members: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def pdf(pages: list[list[tuple[float, float, str]]], title: str = "", extra: str = "") -> bytes:
    """A PDF by hand: each page a list of (type size, height above the page's foot, text)."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    numbers = []
    for page in pages:
        drawing = "".join(f"BT /F1 {size} Tf 1 0 0 1 72 {y} Tm ({text}) Tj ET\n" for size, y, text in page)
        objects.append(f"<< /Length {len(drawing)} >>\nstream\n{drawing}endstream")
        resources = "/Resources << /Font << /F1 3 0 R >> >>"
        contents = f"/Contents {len(objects)} 0 R"
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] {resources} {contents} >>")
        numbers.append(len(objects))
    objects[1] = f"<< /Type /Pages /Count {len(numbers)} /Kids [{' '.join(f'{n} 0 R' for n in numbers)}] >>"
    objects.append(f"<< /Title ({title}) >>")
    body, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R {extra} >>"
    start = len(body)
    whole = (
        f"{body}xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n{trailer}\nstartxref\n{start}\n%%EOF\n"
    )
    return whole.encode("latin-1")


def lines(top: float, *texts: str, size: float = 11, leading: float = 13) -> list[tuple[float, float, str]]:
    return [(size, top - index * leading, text) for index, text in enumerate(texts)]


def docx(body: str, **members: str) -> bytes:
    document = f"<w:document {WORD}><w:body>{body}</w:body></w:document>"
    others = {name.replace("__", "/") + ".xml": content for name, content in members.items()}
    return zipped({"[Content_Types].xml": "<Types/>", "word/document.xml": document, **others})


def paragraph(text: str, properties: str = "") -> str:
    return f'<w:p><w:pPr>{properties}</w:pPr><w:r><w:t xml:space="preserve">{text}</w:t></w:r></w:p>'


def epub(chapters: dict[str, str], **members: str) -> bytes:
    items = "".join(f'<item id="{name}" href="{name}.xhtml" media-type="application/xhtml+xml"/>' for name in chapters)
    spine = "".join(f'<itemref idref="{name}"/>' for name in chapters)
    ncx = '<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>'
    points = "".join(
        f'<navPoint><navLabel><text>Contents name of {name}</text></navLabel><content src="{name}.xhtml"/></navPoint>'
        for name in chapters
    )
    rootfile = '<container><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>'
    dublin_core = "<dc:title xmlns:dc='http://purl.org/dc/elements/1.1/'>The Lighthouse</dc:title>"
    package = (
        f"<package><metadata>{dublin_core}</metadata><manifest>{items}{ncx}</manifest><spine>{spine}</spine></package>"
    )
    pages = {
        f"OPS/{name}.xhtml": f'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head>'
        f"<body>{body}</body></html>"
        for name, body in chapters.items()
    }
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": rootfile,
            "OPS/book.opf": package,
            "OPS/toc.ncx": f"<ncx><navMap>{points}</navMap></ncx>",
            **pages,
            **{name.replace("__", "/") + ".xml": content for name, content in members.items()},
        }
    )


def refusal(source: Path | str) -> str:
    with pytest.raises(DocumentError) as caught:
        read_document(source)
    message = str(caught.value)
    assert "\n" not in message
    assert str(source) in message or source == "-"
    return message


def place_of(document: Document, words: str) -> tuple[int | None, str | None]:
    """Page and heading of the sentence that holds `words`."""
    sentence = next(sentence for sentence in split_sentences(document.text) if words in sentence.text)
    place = document.place_at(sentence.start)
    return (place.page, place.heading) if place else (None, None)


# Plain text


def test_hard_wrapped_prose_is_joined_and_verse_and_lists_are_not(tmp_path: Path) -> None:
    wrapped = (
        "It was a bright cold day in April, and the clocks were striking\n"
        "thirteen. The keeper, his chin nuzzled into his breast in an\n"
        "effort to escape the vile wind, slipped quickly through the glass\n"
        "doors of the tower, though not quickly enough to prevent a swirl\n"
        "of gritty dust from entering along with him.\n\n"
        "Roses are red,\nViolets are blue,\nThe sea is wide.\n\n"
        "- one lamp\n- two lenses\n"
    )
    document = read_document(write(tmp_path / "the_keepers-log.txt", wrapped))
    assert document.title == "The keepers log"
    assert "striking thirteen. The keeper, his chin nuzzled into his breast in an effort to escape" in document.text
    assert "Roses are red,\nViolets are blue,\nThe sea is wide." in document.text
    assert "- one lamp\n- two lenses" in document.text


def test_turns_of_a_conversation_stay_on_their_lines() -> None:
    turns = "\n".join(
        f"Speaker {name}: {text}" for name, text in [("A", "Hello there."), ("B", "yes"), ("A", "Go on " * 40)]
    )
    assert document_from_text(turns, "Talk").text == turns.strip()


def test_word_divided_at_a_line_end_is_made_whole_and_a_compound_keeps_its_hyphen() -> None:
    text = (
        "The keeper walked to the window of the tower and looked at the light-\n"
        "house across the strait, for the other lighthouse had been dark since\n"
        "the morning and he wondered whether the people in the drawing-\n"
        "room had seen it from their window, because the drawing-room was\n"
        "the only place in the house from which the strait could be seen.\n"
    )
    joined = document_from_text(text, "Lights").text
    assert "at the lighthouse across" in joined
    assert "the drawing-room had" in joined
    assert "\n" not in joined


def test_chapters_of_a_plain_text_are_places() -> None:
    document = document_from_text("Chapter 1\n\nThe sea was calm.\n\nCHAPTER II. The Storm\n\nThe wind rose.\n", "Sea")
    assert place_of(document, "calm") == (None, "Chapter 1")
    assert place_of(document, "wind rose") == (None, "CHAPTER II. The Storm")
    assert document.text == "Chapter 1\n\nThe sea was calm.\n\nCHAPTER II. The Storm\n\nThe wind rose."


def test_characters_are_normalised() -> None:
    raw = "Cafe\u0301 of\ufb01ce\u00a0co\u00adoperate\x00\x07 \ud800end\r\nnext\r\n\r\n\r\n\r\nlast\tcell"
    assert document_from_text(raw, "T").text == "Café office cooperate end\nnext\n\nlast cell"


@given(st.text(alphabet=st.characters(), max_size=200))
def test_clean_text_has_one_normal_form(raw: str) -> None:
    clean = clean_text(raw)
    assert clean_text(clean) == clean
    assert unicodedata.is_normalized("NFC", clean)
    clean.encode("utf-8")
    assert not any(unicodedata.category(character) in {"Cc", "Cs"} and character != "\n" for character in clean)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("He paid £5 for a “café au lait”.", "utf-8"),
        ("He paid £5 for a “café au lait”.", "utf-8-sig"),
        ("He paid £5 for a “café au lait”.", "utf-16"),
        ("He paid £5 for a “café au lait”.", "utf-16-be"),
        ("He paid £5 for a “café au lait”.", "utf-32"),
        ("He paid £5 for a “café au lait”.", "cp1252"),
        ("Съешь же ещё этих мягких французских булок, да выпей чаю.", "cp1251"),
        ("Zażółć gęślą jaźń, proszę państwa. Łódź leży w Polsce.", "cp1250"),
        ("日本語の文章です。これはテストです。", "shift_jis"),
    ],
)
def test_encodings_are_told(tmp_path: Path, text: str, encoding: str) -> None:
    assert read_document(write(tmp_path / "a.txt", text.encode(encoding))).text == text


def test_a_few_wrong_bytes_do_not_turn_utf8_into_another_encoding(tmp_path: Path) -> None:
    data = ("Zażółć gęślą jaźń. " * 20).encode() + b"\xff" + "Łódź.".encode()
    assert read_document(write(tmp_path / "a.txt", data)).text.endswith("jaźń. Łódź.")


def test_same_text_has_same_hash_whatever_the_file(tmp_path: Path) -> None:
    first = read_document(write(tmp_path / "a.txt", "One line.\r\n\r\nAnother.\r\n"))
    second = read_document(write(tmp_path / "b.txt", "\ufeffOne line.\n\n\n\nAnother."))
    assert first.sha256 == second.sha256
    assert first.source != second.source


# Markdown and HTML

MARKDOWN = """---
title: "The *Log*"
---
# Lights

The lamp
was **lit** by [Ada](https://example.org) in `1850`.

Storms
------

- first
- second
  continued
  1. inner

| Name | Year |
|------|------|
| Ada  | 1850 |

    code  stays
"""


def test_markdown_loses_its_markup_and_keeps_lists_and_tables(tmp_path: Path) -> None:
    document = read_document(write(tmp_path / "log.md", MARKDOWN))
    assert document.title == "The *Log*"
    assert document.text.split("\n\n") == [
        "Lights",
        "The lamp was lit by Ada in 1850.",
        "Storms",
        "- first\n- second continued\n  1. inner",
        "Name | Year\nAda | 1850",
        "code stays",
    ]
    assert place_of(document, "was lit") == (None, "Lights")
    assert place_of(document, "Ada | 1850") == (None, "Storms")


def test_html_keeps_the_reading_matter_only(tmp_path: Path) -> None:
    page = """<!DOCTYPE html><html><head><title>Lights - Site</title><style>p {}</style></head><body>
    <header><a href="/">Site</a></header><nav>Home</nav><script>var x = "no";</script>
    <article><header><h1>The Lights</h1></header><p>It was <b>lit</b> in&nbsp;1850<sup><a href="#n">[1]</a></sup>.</p>
    <div style="display:none">secret</div><p>An area of 5 m<sup>2</sup>.<br>Second line.</p>
    <h2>Keepers</h2><ol start="3"><li>Ada</li><li>Ben<ul><li>boy</li></ul></li></ol>
    <table><tr><th>Name</th><th>Year</th></tr><tr><td>Ada</td><td><p>1850</p></td></tr></table>
    <pre>a  b
    c</pre></article><aside>Advert</aside><footer>Imprint</footer></body></html>"""
    document = read_document(write(tmp_path / "page.html", page))
    assert document.title == "The Lights"
    assert document.text.split("\n\n") == [
        "The Lights",
        "It was lit in 1850.",
        "An area of 5 m^2.\nSecond line.",
        "Keepers",
        "3. Ada\n4. Ben\n  - boy",
        "Name | Year\nAda | 1850",
        "a b\n    c",
    ]
    assert place_of(document, "lit in 1850") == (None, "The Lights")
    assert place_of(document, "4. Ben") == (None, "Keepers")


def test_html_is_told_by_its_bytes_and_its_declared_encoding_is_used(tmp_path: Path) -> None:
    page = '<html><head><meta charset="iso-8859-7"></head><body><p>Ο φάρος</p></body></html>'
    assert read_document(write(tmp_path / "page", page.encode("iso-8859-7"))).text == "Ο φάρος"


def test_deeply_nested_html_is_read(tmp_path: Path) -> None:
    def page(depth: int) -> str:
        return "<html><body>" + "<div>" * depth + "<p>Deep text.</p>" + "</div>" * depth + "</body></html>"

    assert read_document(write(tmp_path / "deep.html", page(1500))).text == "Deep text."
    assert "nested" in refusal(write(tmp_path / "deeper.html", page(3000)))


# PDF


def test_pdf_pages_headings_and_paragraphs(tmp_path: Path) -> None:
    filler = "The lamp was lit by Ada every evening at six, and it burned"
    first = [
        *lines(760, "Keepers of the north 1"),
        *lines(700, "The Lights", size=20),
        *lines(
            660,
            filler,
            "until the morning. The oil was brought from the main-",
            "land by a boat that came once a month.",
        ),
        *lines(600, filler, "when the storm broke, and nobody saw that the"),
    ]
    second = [
        *lines(760, "Keepers of the north 2"),
        *lines(720, "glass had cracked.", "Ben repaired it in the year 1851 with glass from France, which"),
        *lines(694, "was thicker than before."),
        *lines(640, "Storms", size=16),
        *lines(610, filler, "through every storm of that year."),
        *lines(40, "2"),
    ]
    third = [*lines(760, "Keepers of the north 3"), *lines(720, "The end came in 1902."), *lines(40, "3")]
    document = read_document(write(tmp_path / "a.pdf", pdf([first, second, third])))
    assert document.title == "The Lights"
    assert "Keepers of the north" not in document.text
    assert document.text.split("\n\n")[:2] == [
        "The Lights",
        f"{filler} until the morning. The oil was brought from the mainland by a boat that came once a month.",
    ]
    assert f"{filler} when the storm broke, and nobody saw that the glass had cracked." in document.text
    assert place_of(document, "mainland") == (1, "The Lights")
    assert place_of(document, "thicker than before") == (2, "The Lights")
    assert place_of(document, "through every storm") == (2, "Storms")
    assert place_of(document, "1902") == (3, "Storms")
    assert document.place_at(document.text.index("glass had cracked")).page == 2  # type: ignore[union-attr]


def test_title_of_pdf_properties_comes_first_and_the_argument_before_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pdf", pdf([lines(700, "Some text of the page.")], title="Annual Report"))
    assert read_document(path).title == "Annual Report"
    assert read_document(path, title=" My\ntitle ").title == "My title"
    named = write(tmp_path / "board_minutes-2024-03-01.pdf", pdf([lines(700, "Some text.")], title="minutes.docx"))
    assert read_document(named).title == "Board minutes 2024-03-01"


def test_a_file_may_be_called_otherwise_than_its_path(tmp_path: Path) -> None:
    path = tmp_path / "file-0123"
    path.write_text("# Not a heading in a txt file\n\nThe museum owns 42 lenses.", "utf-8")
    document = read_document(path, name="board_minutes.txt")
    assert (document.title, document.source) == ("Board minutes", "board_minutes.txt")
    path.write_bytes(b"no pdf")
    with pytest.raises(DocumentError, match=r"^minutes\.pdf: expected a pdf"):
        read_document(path, name="minutes.pdf")


def test_a_pdf_of_too_many_pages_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ("Ada Quill founded the museum.", "A storm took the tower.", "Nobody came back.")
    source = write(tmp_path / "long.pdf", pdf([[(12, 700, text)] for text in said]))
    assert said[2] in read_document(source).text
    monkeypatch.setattr("lift.documents.pdf.pdf_reader.MAX_PAGES", 2)
    with pytest.raises(DocumentError, match="at most 2 pages"):
        parse_document(source.read_bytes(), source.name)


def test_scanned_encrypted_and_broken_pdf_are_refused(tmp_path: Path) -> None:
    assert "--ocr" in refusal(write(tmp_path / "scan.pdf", pdf([[], []])))
    whole = pdf([lines(700, "Some text.")])
    assert "cannot be read" in refusal(write(tmp_path / "broken.pdf", b"%PDF-1.4\n" + b"rubbish " * 50))
    assert "cannot be read" in refusal(write(tmp_path / "short.pdf", whole[:60]))
    key = "0" * 64
    lock = f"/Encrypt << /Filter /Standard /V 1 /R 2 /P -44 /O <{key}> /U <{key}> >> /ID [<{key}> <{key}>]"
    locked = pdf([lines(700, "Some text.")], extra=lock)
    assert "encrypted" in refusal(write(tmp_path / "locked.pdf", locked))


# DOCX

STYLES = f"""<w:styles {WORD}>
<w:style w:styleId="Titel"><w:name w:val="Title"/></w:style>
<w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>
<w:style w:styleId="Mine"><w:name w:val="My heading"/><w:basedOn w:val="berschrift1"/></w:style>
<w:style w:styleId="Verzeichnis1"><w:name w:val="toc 1"/></w:style></w:styles>"""
NUMBERING = f"""<w:numbering {WORD}><w:abstractNum w:abstractNumId="7">
<w:lvl w:ilvl="0"><w:start w:val="2"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1."/></w:lvl>
<w:lvl w:ilvl="1"><w:numFmt w:val="lowerRoman"/><w:lvlText w:val="%1.%2"/></w:lvl></w:abstractNum>
<w:num w:numId="1"><w:abstractNumId w:val="7"/></w:num></w:numbering>"""


def numbered(text: str, level: int) -> str:
    return paragraph(text, f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="1"/></w:numPr>')


def test_docx_headings_lists_tables_notes_and_changes(tmp_path: Path) -> None:
    cell = "<w:tc>{}</w:tc>".format
    body = (
        paragraph("Harbour Rules", '<w:pStyle w:val="Titel"/>')
        + paragraph("1 Lamps 3", '<w:pStyle w:val="Verzeichnis1"/>')
        + paragraph("Lamps", '<w:pStyle w:val="berschrift1"/>')
        + "<w:p><w:r><w:t>Lit at </w:t></w:r><w:ins><w:r><w:t>six</w:t></w:r></w:ins><w:del><w:r><w:delText>seven"
        "</w:delText></w:r></w:del><w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r><w:r><w:tab/><w:t>daily.</w:t>"
        '</w:r><w:r><w:footnoteReference w:id="2"/></w:r></w:p>'
        + paragraph("Boats", '<w:pStyle w:val="Mine"/>')
        + numbered("Ada", 0)
        + numbered("oars", 1)
        + numbered("sails", 1)
        + numbered("Ben", 0)
        + f"<w:tbl><w:tr>{cell(paragraph('Name'))}{cell(paragraph('Year'))}</w:tr>"
        f"<w:tr>{cell(paragraph('Ada'))}{cell(paragraph('1850'))}</w:tr></w:tbl>"
    )
    notes = (
        f'<w:footnotes {WORD}><w:footnote w:type="separator" w:id="0"><w:p/></w:footnote>'
        f'<w:footnote w:id="2">{paragraph("Except Sundays.")}</w:footnote></w:footnotes>'
    )
    data = docx(body, word__styles=STYLES, word__numbering=NUMBERING, word__footnotes=notes)
    document = read_document(write(tmp_path / "rules.docx", data))
    assert document.title == "Harbour Rules"
    assert document.text.split("\n\n") == [
        "Harbour Rules",
        "Lamps",
        "Lit at six daily.",
        "Note 1: Except Sundays.",
        "Boats",
        "2. Ada\n  2.i oars\n  2.ii sails\n3. Ben",
        "Name | Year\nAda | 1850",
    ]
    assert place_of(document, "six daily") == (None, "Lamps")
    assert place_of(document, "Ada | 1850") == (None, "Boats")


def test_docx_title_of_core_properties(tmp_path: Path) -> None:
    core = '<c xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Lamp Manual</dc:title></c>'
    path = write(tmp_path / "x.docx", docx(paragraph("Some text."), docProps__core=core))
    assert read_document(path).title == "Lamp Manual"


def test_docx_without_wholeness_or_words_is_refused(tmp_path: Path) -> None:
    whole = docx(paragraph("Some text."))
    assert "broken" in refusal(write(tmp_path / "cut.docx", whole[: len(whole) // 2]))
    assert "not well-formed" in refusal(write(tmp_path / "bad.docx", zipped({"word/document.xml": "<a><b></a>"})))
    assert "white space" in refusal(write(tmp_path / "blank.docx", docx(paragraph(" "))))
    assert "misnamed" in refusal(write(tmp_path / "text.docx", "only text"))


def test_xml_entities_are_not_expanded(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.txt", "password")
    attack = f'<!DOCTYPE d [<!ENTITY x SYSTEM "{secret.as_uri()}">]><w:document {WORD}><w:body>'
    attack += "<w:p><w:r><w:t>Before &x; after</w:t></w:r></w:p></w:body></w:document>"
    document = read_document(write(tmp_path / "x.docx", zipped({"word/document.xml": attack})))
    assert "password" not in document.text


def test_exponential_entities_are_refused(tmp_path: Path) -> None:
    levels = "".join(f'<!ENTITY x{n} "{f"&x{n - 1};" * 10}">' for n in range(1, 10))
    attack = f'<!DOCTYPE d [<!ENTITY x0 "lol">{levels}]><w:document {WORD} a="&x9;"><w:body/></w:document>'
    assert "not well-formed" in refusal(write(tmp_path / "x.docx", zipped({"word/document.xml": attack})))


# EPUB


def test_epub_follows_the_spine_and_names_chapters_without_headings(tmp_path: Path) -> None:
    chapters = {
        "b": "<h1>One</h1><p>The sea&nbsp;was calm<a epub:type='noteref' xmlns:epub='http://www.idpf.org/2007/ops'>1</a>.</p>",
        "a": "<p><a id='x'/>The wind rose.</p>",
    }
    document = read_document(write(tmp_path / "x.epub", epub(chapters)))
    assert document.title == "The Lighthouse"
    assert document.text == "One\n\nThe sea was calm.\n\nThe wind rose."
    assert place_of(document, "calm") == (None, "One")
    assert place_of(document, "wind") == (None, "Contents name of a")


def test_locked_and_broken_epub_are_refused(tmp_path: Path) -> None:
    lock = '<e><CipherReference URI="OPS/a.xhtml"/></e>'
    locked = epub({"a": "<p>x</p>"}, **{"META-INF__encryption": lock})
    assert "DRM" in refusal(write(tmp_path / "locked.epub", locked))
    empty = zipped({"META-INF/container.xml": "<container/>"})
    assert "package" in refusal(write(tmp_path / "broken.epub", empty))


# Limits and bad files


def test_zip_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = docx(paragraph("x" * 50_000))
    monkeypatch.setattr(zip_archive, "MAX_UNCOMPRESSED_BYTES", 10_000)
    with pytest.raises(DocumentError, match="10,000 bytes when unpacked"):
        parse_document(bomb, "bomb.docx")
    monkeypatch.setattr(zip_archive, "MAX_MEMBERS", 1)
    with pytest.raises(DocumentError, match="at most 1 files"):
        parse_document(bomb, "bomb.docx")


def test_file_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 10)
    monkeypatch.setattr(parse, "MAX_BYTES", 10)
    assert "at most 10 bytes" in refusal(write(tmp_path / "long.txt", "eleven chars"))
    assert read_document(write(tmp_path / "short.txt", "ten chars!")).text == "ten chars!"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b" \n\t \n", "white space"),
        (random.Random(0).randbytes(5000), "binary"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "JPEG"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "docx"),
        (b"\xff\xfeh\x00\x00\xd8", "UTF-8"),
    ],
)
def test_files_without_text_are_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    assert expected in refusal(write(tmp_path / "file.txt", content))


def test_other_archive_missing_file_and_directory_are_refused(tmp_path: Path) -> None:
    assert "another zip" in refusal(write(tmp_path / "x.zip", zipped({"a.txt": "text"})))
    assert "none" in refusal(tmp_path / "missing.txt")
    assert "directory" in refusal(tmp_path)
    assert "cannot be read" in refusal("nul\0name.txt")


def test_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "mine.txt", "text")
    monkeypatch.setattr(Path, "open", deny)
    assert "permission" in refusal(path)


def test_standard_input_is_sniffed(monkeypatch: pytest.MonkeyPatch) -> None:
    def feed(data: bytes) -> Document:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        return read_document("-")

    assert feed(b"# Lights\n\nThe *lamp*.\n").text == "Lights\n\nThe lamp."
    assert feed(pdf([lines(700, "Some text of the page.")])).place_at(0).page == 1  # type: ignore[union-attr]
    assert feed(b"plain words").source == "standard input"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    assert "empty" in refusal("-")


def test_title_of_a_text_in_memory_and_refusal_of_none() -> None:
    assert document_from_text("Words.", " A\n title ").title == "A title"
    with pytest.raises(DocumentError, match="white space"):
        document_from_text(" \u200b\n", "Empty")


# Places


@given(
    st.lists(
        st.builds(
            Block,
            text=st.text(alphabet="ab \n\u0301\u00ad", max_size=12),
            heading=st.none() | st.sampled_from(["One", "Two"]),
            page=st.none() | st.integers(1, 3),
            separator=st.sampled_from(["\n\n", "\n", " ", ""]),
        ),
        max_size=12,
    )
)
def test_assembled_places_are_ordered_and_inside_the_text(blocks: list[Block]) -> None:
    if not any(clean_text(block.text).strip() for block in blocks):
        with pytest.raises(DocumentError):
            assemble("T", "s", blocks)
        return
    document = assemble("T", "s", blocks)
    starts = [place.start for place in document.places]
    assert starts == sorted(starts)
    assert all(0 <= start < len(document.text) for start in starts)
    assert document.text == document.text.strip()


@pytest.mark.parametrize("name", ["minutes.txt", "minutes.md", "minutes.html", "minutes.pdf"])
def test_what_a_reader_would_take_is_known_without_reading_it(name: str) -> None:
    content = pdf([[(12, 700, "Ada Quill.")]]) if name.endswith("pdf") else b"<html><p>Ada Quill."
    reading.check_readable(content, name, len(content))
    for refused in (b"", b"\x89PNG\r\n", b"PK\x03\x04broken"):
        with pytest.raises(DocumentError, match=name):
            reading.check_readable(refused, name, len(refused))


@settings(deadline=None)
@given(
    st.sampled_from(
        ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "gb18030", "shift_jis"]
    ),
    st.sampled_from(["The mill of Ødegård — ", "水车建于河边", "naïve café 𝔸𝔹 ", "粉ひき。小屋、"]),
    st.integers(0, 9),
)
def test_a_long_text_is_not_refused_for_where_its_beginning_is_cut(encoding: str, unit: str, shift: int) -> None:
    try:
        whole = ("x" * shift + unit * 20_000).encode(encoding)
        decode(whole[: reading.HEAD_BYTES * 2], "whole.txt")
    except (UnicodeEncodeError, DocumentError):
        assume(False)
    reading.check_readable(whole[: reading.HEAD_BYTES], "long.txt", len(whole))


def _wrapped(text: str, width: int) -> str:
    return "\n".join(text[start : start + width] for start in range(0, len(text), width))


@pytest.mark.parametrize(
    "text",
    [
        "港口位于岛的南端，每天早上九点有一班渡船开往对岸的小镇。渡船由安德斯家族经营了三代，船长从未换过。"
        "冬天如果结冰，渡船会停航，镇上的人就只能绕远路走陆桥去买东西。",
        "灯台は島の南にあり、毎朝九時に対岸の町へ渡し船が出る。船は三代にわたって同じ家族が動かしてきた。"
        "冬に氷が張ると船は休みになり、町の人々は遠回りをして陸の橋を渡って買い物に行く。",
    ],
)
@pytest.mark.parametrize("width", [18, 20, 30])
def test_wrapped_lines_of_scripts_without_spaces_are_joined_without_any(text: str, width: int) -> None:
    assert document_from_text(_wrapped(text, width), "T").text == text


def test_wrapped_lines_of_a_script_without_capitals_are_joined() -> None:
    words = "הנמל נמצא בדרום האי וכל בוקר בתשע יוצאת ממנו מעבורת אל העיירה שמעבר למים וחוזרת בצהריים עם דואר ולחם"
    lines, line = [], ""
    for word in words.split():
        if len(line) + len(word) > 44:
            lines.append(line.strip())
            line = ""
        line += f"{word} "
    assert document_from_text("\n".join([*lines, line.strip()]), "T").text == words


def test_lines_of_a_poem_without_capitals_stay() -> None:
    poem = "床前明月光，\n疑是地上霜。\n举头望明月，\n低头思故乡。"
    assert document_from_text(poem, "T").text == poem


def test_line_break_in_the_source_of_a_page_is_no_space_between_wide_characters(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("<html><body><p>灯台は南に\n   ある。The lamp\nis lit.</p></body></html>", "utf-8")
    assert read_document(file).text == "灯台は南にある。The lamp is lit."


def test_items_under_marks_of_a_wrapped_text_stay_apart() -> None:
    items = [
        f"{mark} Every guest brings a coat and a pair of boots that keep the water out"
        for mark in ("●", "○", "·", "➢", "✓", "→", "\uf0a7")
    ]
    prose = "The list below names all that a guest has to bring along\nwhen the ferry leaves in the early morning hours"
    text = document_from_text("\n".join([prose, "", *items]), "T").text
    assert text.split("\n\n")[1].split("\n") == items
