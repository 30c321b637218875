"""Web pages, Word files and Markdown: what a reader would miss is kept, what is furniture is told."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lift.documents import Document
from lift.documents.formulas import set_high
from lift.documents.parse import parse_document
from lift.errors import DocumentError

WORD = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
)
PROSE = "<p>The lock was opened in 1884 by the canal company and lifts boats by six metres.</p>"


def page(body: str, charset: str = "utf-8") -> Document:
    html = f'<html><head><meta charset="{charset}"></head><body>{body}</body></html>'
    return parse_document(html.encode("cp1252" if charset != "utf-8" else "utf-8"), "page.html")


def text_of(body: str) -> list[str]:
    return page(body).text.split("\n\n")


def omitted(document: Document) -> dict[str, int]:
    return dict(Counter(omission.kind for omission in document.omissions))


def word(body: str, **members: str) -> Document:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("word/document.xml", f"<w:document {WORD}><w:body>{body}</w:body></w:document>")
        for name, content in members.items():
            archive.writestr(f"word/{name}.xml", content)
    return parse_document(buffer.getvalue(), "x.docx")


def run(text: str, properties: str = "") -> str:
    return f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(*runs: str, properties: str = "") -> str:
    return f"<w:p><w:pPr>{properties}</w:pPr>{''.join(runs)}</w:p>"


def markdown(text: str, name: str = "x.md") -> Document:
    return parse_document(text.encode(), name)


# Web pages


@pytest.mark.parametrize("label", ["iso-8859-1", "latin1", "us-ascii", "windows-1252"])
def test_a_page_labelled_latin_1_is_read_as_browsers_read_it(label: str) -> None:
    assert page("<p>“It’s €4 – or 5…”</p>", label).text == "“It’s €4 – or 5…”"


def test_a_page_inside_a_form_is_read_and_a_form_beside_a_text_is_told() -> None:
    assert text_of(f"<form><h2>Hours</h2>{PROSE}</form>")[0] == "Hours"
    document = page(f"{PROSE}<form><p>Your name</p></form>")
    assert "Your name" not in document.text
    assert omitted(document) == {"form": 1}


def test_collapsed_answers_are_kept_and_other_hidden_text_is_told() -> None:
    questions = (
        '<h3><button aria-expanded="false">Who keeps it?</button></h3><div hidden><p>Runa.</p></div>'
        '<button aria-controls="x" aria-expanded="false">When was it opened?</button>'
        '<div id="x" style="display:none"><p>In 1884.</p></div>'
        '<p>End.</p><div style="display:none">for machines</div>'
    )
    document = page(PROSE + questions)
    assert document.text.split("\n\n")[1:] == ["Who keeps it?", "Runa.", "When was it opened?", "In 1884.", "End."]
    assert omitted(document) == {"hidden panel": 1}


def test_a_caution_in_an_aside_is_kept_and_teasers_in_one_are_not() -> None:
    body = f"<main>{PROSE}<aside class='note-box warning'><p>Never run it dry.</p></aside>"
    document = page(body + "<aside class='related'><p>Ten recipes</p></aside></main>")
    assert "Never run it dry." in document.text
    assert "recipes" not in document.text
    assert omitted(document) == {"aside": 1}


@pytest.mark.parametrize(
    ("furniture", "kind"),
    [
        ('<div class="cc-banner cookie-consent"><p>We value your privacy.</p></div>', "consent banner"),
        ('<div class="social-share"><a href="#">Tweet</a></div>', "share bar"),
        ('<section class="relatedPosts"><h3>Ten recipes</h3></section>', "list of teasers"),
        ('<ul class="breadcrumb"><li>Home</li></ul>', "menu"),
        ('<div class="left-sidebar"><p>News</p></div>', "aside"),
        ('<div role="dialog"><p>Sign up!</p></div>', "dialog"),
        ("<footer><p>Imprint</p></footer>", "page footer"),
    ],
)
def test_furniture_is_told(furniture: str, kind: str) -> None:
    document = page(f"{furniture}<h1>The lock</h1>{PROSE}")
    assert document.text.startswith("The lock\n\nThe lock was")
    assert len(document.text.split("\n\n")) == 2
    assert omitted(document) == {kind: 1}


@pytest.mark.parametrize("name", ["market-share", "related", "cookie-policy", "sidebar-layout", "social-security"])
def test_a_class_alone_does_not_take_the_text_of_a_page(name: str) -> None:
    assert "opened in 1884" in page(f'<div class="{name}">{PROSE}</div>').text


def test_the_largest_of_several_articles_is_the_page_and_the_rest_is_told() -> None:
    document = page(f"<article><h1>The lock</h1>{PROSE}</article><article><p>Win a trip.</p></article>")
    assert "trip" not in document.text
    assert omitted(document) == {"part beside the article": 1}


def test_text_behind_the_end_of_the_document_is_read() -> None:
    assert text_of("<p>one</p></body></html><html><body><p>t\0wo</p>") == ["one", "two"]


def test_formulas_and_raised_numbers_are_lines_of_text() -> None:
    formula = "<math><msup><mi>c</mi><mn>2</mn></msup></math>"
    drawn = '<span class="katex-html" aria-hidden="true">c2</span>'
    body = (
        f"<p>3 × 10<sup>−6</sup> m<sup>3</sup> on the 4<sup>th</sup>, found in 2019<sup>4</sup>: "
        f'<span class="katex"><span>{formula}</span>{drawn}</span> and '
        "<math><mfrac><mrow><mi>a</mi><mo>+</mo><mn>1</mn></mrow><msqrt><mn>2</mn></msqrt></mfrac></math>, "
        f'<span style="display:none">{formula}</span>.</p><p>Now <del>5</del> <ins>4</ins> marks.</p>'
    )
    document = page(body)
    assert document.text == "3 × 10^−6 m^3 on the 4th, found in 2019[4]: c^2 and (a+1)/√(2), c^2.\n\nNow 4 marks."
    assert omitted(document) == {"struck-out passage": 1}


@given(st.text(max_size=30), st.text(max_size=12))
def test_what_is_set_high_keeps_its_characters(before: str, raised: str) -> None:
    assert raised.strip() in set_high(before, raised)


def test_cells_that_span_rows_stand_in_each_of_them() -> None:
    rows = (
        "<tr><th colspan=3>Fares</th></tr><tr><td rowspan=2>Summer</td><td>adult</td><td>4</td></tr>"
        "<tr><td>child</td><td>2</td></tr><tr><td>Winter</td><td colspan=2>closed</td></tr>"
    )
    assert text_of(f"<table>{rows}</table>") == [
        "Fares\nSummer | adult | 4\nSummer | child | 2\nWinter | closed | closed"
    ]


def test_pictures_and_embedded_pages_are_told_and_decoration_is_not() -> None:
    body = f'{PROSE}<img src="a.png"><img src="b.gif" width="1"><img src="c.png" alt=""><iframe src="x"></iframe>'
    assert omitted(page(body)) == {"image": 1, "embedded page": 1}


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [*(f"<{end}{tag}>" for tag in ("p", "table", "tr", "td rowspan=3", "sup", "form", "h2", "button", "math",
             "aside", "li", "article", "div hidden", "q") for end in ("", "/")), "words ", "10"]
        ),
        max_size=60,
    )
)  # fmt: skip
def test_no_order_of_tags_fails(tags: list[str]) -> None:
    with contextlib.suppress(DocumentError):
        page("".join(tags))


# Word


def test_superscripts_equations_and_symbols_of_word() -> None:
    raised = '<w:vertAlign w:val="superscript"/>'
    equation = (
        "<m:oMath><m:f><m:num><m:r><m:t>1</m:t></m:r></m:num><m:den><m:r><m:t>2</m:t></m:r></m:den></m:f></m:oMath>"
    )
    symbols = '<w:r><w:sym w:font="Wingdings" w:char="F0FE"/></w:r><w:r><w:sym w:font="Strange" w:char="F041"/></w:r>'
    greek = run("\uf061", '<w:rFonts w:ascii="Symbol"/>')
    body = paragraph(run("10"), run("−", raised), run("9", raised), run(" m"), run("3", raised), run(", "), equation)
    document = word(body + paragraph(symbols, run(" yes, "), greek))
    assert document.text == "10^−9 m^3, 1/2\n\n☑ yes, α"
    assert omitted(document) == {"symbol of an unknown font": 1}


def test_controls_of_word_tell_what_was_filled_in() -> None:
    placeholder = "<w:sdt><w:sdtPr><w:showingPlcHdr/></w:sdtPr><w:sdtContent>{}</w:sdtContent></w:sdt>"
    choice = (
        '<w:r><w:fldChar><w:ffData><w:ddList><w:result w:val="1"/><w:listEntry w:val="sail"/><w:listEntry w:val="oar"/>'
        "</w:ddList></w:ffData></w:fldChar></w:r>"
    )
    box = '<w:r><w:fldChar><w:ffData><w:checkBox><w:default w:val="1"/>{}</w:checkBox></w:ffData></w:fldChar></w:r>'
    body = paragraph(run("Name: "), placeholder.format(run("Click here"))) + placeholder.format(paragraph(run("Tap")))
    body += paragraph(run("Kind: "), choice, box.format(""), box.format('<w:checked w:val="0"/>'))
    assert word(body).text == "Name:\n\nKind: oar☑☐"


NUMBERING = f"""<w:numbering {WORD}><w:abstractNum w:abstractNumId="5">
<w:lvl w:ilvl="0"><w:numFmt w:val="upperRoman"/><w:lvlText w:val="%1."/></w:lvl>
<w:lvl w:ilvl="1"><w:numFmt w:val="decimal"/><w:isLgl/><w:lvlText w:val="%1.%2"/></w:lvl></w:abstractNum>
<w:num w:numId="1"><w:abstractNumId w:val="5"/></w:num><w:num w:numId="2"><w:abstractNumId w:val="5"/></w:num>
<w:num w:numId="3"><w:abstractNumId w:val="5"/><w:lvlOverride w:ilvl="0"><w:startOverride w:val="7"/></w:lvlOverride>
</w:num></w:numbering>"""


def test_lists_of_one_definition_go_on_counting_and_a_start_of_ones_own_counts() -> None:
    def item(text: str, list_id: int, level: int = 0) -> str:
        return paragraph(
            run(text), properties=f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{list_id}"/></w:numPr>'
        )

    body = item("a", 1) + item("b", 1, 1) + paragraph(run("x")) + item("c", 2) + paragraph(run("y")) + item("d", 3)
    document = word(body + item("e", 3), numbering=NUMBERING)
    assert document.text.split("\n\n") == ["I. a\n  1.1 b", "x", "II. c", "y", "VII. d\nVIII. e"]


def test_merged_cells_of_word_stand_in_each_row() -> None:
    def row(*cells: tuple[str, str]) -> str:
        return "<w:tr>" + "".join(f"<w:tc><w:tcPr>{p}</w:tcPr>{paragraph(run(t))}</w:tc>" for t, p in cells) + "</w:tr>"

    rows = row(("Summer", '<w:vMerge w:val="restart"/>'), ("adult", "")) + row(("", "<w:vMerge/>"), ("child", ""))
    assert word(f"<w:tbl>{rows}{row(('Winter', ''), ('adult', ''))}</w:tbl>").text == (
        "Summer | adult\nSummer | child\nWinter | adult"
    )


def test_what_word_leaves_out_is_told() -> None:
    deleted = "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
    picture = "<w:r><w:drawing><pic:pic xmlns:pic='p'/></w:drawing></w:r>"
    body = paragraph(run("Kept."), deleted, run("no", "<w:vanish/>"), run("old", "<w:strike/>"), picture)
    comments = f"<w:comments {WORD}><w:comment>{paragraph(run('why?'))}</w:comment></w:comments>"
    document = word(body, comments=comments, header1=f"<w:hdr {WORD}>{paragraph(run('Head'))}</w:hdr>")
    assert document.text == "Kept."
    assert omitted(document) == {
        "deleted passage": 1,
        "hidden passage": 1,
        "struck-out passage": 1,
        "image": 1,
        "comment": 1,
        "page header": 1,
    }


# Markdown


def test_links_marks_comments_and_callouts_of_obsidian() -> None:
    document = markdown(
        "# Lock\n\nBy [[Ole Børk|Ole]] in [[1884]], ==lifts== boats. %%check%% `[[code]]`\n\n![[lock.png]]\n\n"
        "> [!warning] Danger\n> Never open both.\n\n> [!tip]\n> Wait.\n\n- [ ] ask [[Runa]]\n- [x] visit\n\n"
        "```\n[[kept]] ==so==\n```\n"
    )
    assert document.text.split("\n\n") == [
        "Lock",
        "By Ole in 1884, lifts boats. [[code]]",
        "Danger",
        "Never open both.",
        "Tip",
        "Wait.",
        "- ☐ ask Runa\n- ☑ visit",
        "[[kept]] ==so==",
    ]
    assert omitted(document) == {"comment": 1, "embedded file": 1}


def test_footnotes_front_matter_and_admonitions() -> None:
    document = markdown(
        '+++\ntitle = "The lock"\n+++\n\nOpened in 1884.[^a]\n\n:::caution[Careful]\n\nBoth gates.\n\n:::\n\n'
        '!!! note "Hours"\n    Ten to *five*.\n\n[^a]: By the canal company.\n'
    )
    assert document.title == "The lock"
    assert document.text.split("\n\n") == [
        "Opened in 1884.",
        "Careful",
        "Both gates.",
        "Hours",
        "Ten to five.",
        "1. By the canal company.",
    ]


def test_components_of_mdx_leave_their_text() -> None:
    text = "import Tabs from 'x';\n\nOpen the valve.\n\n<Tabs>\n<Item value='a'>Press the button.</Item>\n</Tabs>\n"
    assert markdown(text, "x.mdx").text == "Open the valve.\n\nPress the button."


def test_a_book_with_a_broken_chapter_is_read_without_it() -> None:
    def book(**chapters: str | None) -> bytes:
        items = "".join(f'<item id="{n}" href="{n}.xhtml" media-type="application/xhtml+xml"/>' for n in chapters)
        spine = "".join(f'<itemref idref="{n}"/>' for n in chapters)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("META-INF/container.xml", '<c><rootfiles><rootfile full-path="b.opf"/></rootfiles></c>')
            archive.writestr("b.opf", f"<p><manifest>{items}</manifest><spine>{spine}</spine></p>")
            for name, body in chapters.items():
                if body is not None:
                    archive.writestr(f"{name}.xhtml", f"<html><body><p>{body}</p></body></html>")
        return buffer.getvalue()

    document = parse_document(book(a="The lock.", b=None), "x.epub")
    assert document.text == "The lock."
    assert document.warnings == ("1 chapter that does not open was left out.",)
    with pytest.raises(DocumentError, match="not whole"):
        parse_document(book(a=None, b=None), "x.epub")
