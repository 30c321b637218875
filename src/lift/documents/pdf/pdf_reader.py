"""A PDF file -> its content, and all that was left out of it."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from lift.documents.blocks import Content, one_line
from lift.documents.document import READ_BY_RECOGNITION, Omission
from lift.documents.pdf.page_blocks import MAX_HEADING_CHARS, blocks_of_pages, squeezed
from lift.documents.pdf.page_lines import PageLine, lines_of_page
from lift.documents.pdf.running_heads import HEADING_SCALE, body_size, without_contents, without_running_heads
from lift.documents.pdf.words import MUCH_TEXT_CHARS, PageWords, read_page_words
from lift.errors import DocumentError

if TYPE_CHECKING:
    import pypdfium2

MAX_PAGES = 10_000
_MAX_OUTLINE_ENTRIES = 20_000
_MIN_IMAGE_SHARE = 0.15
_MAX_UNREADABLE_SHARE = 0.3
_MAX_PAGES_OF_SLANTED_TEXT = 2


def read_pdf(data: bytes, name: str, ocr: bool = False) -> Content:
    """Read a PDF's text with its pages; `ocr`: pages whose text is a picture are read by character recognition.

    Raises DocumentError, naming the file as `name`, where it is broken, locked by a password, a scan without text, or
    of more than MAX_PAGES pages.
    """
    file = _opened(data, name)
    try:
        count = len(file)
        if count > MAX_PAGES:
            raise DocumentError(f"{name}: expected at most {MAX_PAGES:,} pages, got more; split the file")
        pages, omissions = _pages(file)
        if ocr:
            pages, omissions = _recognised(file, pages, omissions, name)
        outline = _outline(file)
        title = one_line(file.get_metadata_dict().get("Title") or "")
    finally:
        file.close()
    if not any(line.text for lines in pages for line in lines):
        raise _without_text(name, count, ocr)
    size = body_size([line for lines in pages for line in lines])
    kept, contents = without_contents(without_running_heads(pages, size))
    if not any(kept):
        kept, contents = pages, []
    content_omissions = sorted([*omissions, *contents], key=lambda omission: omission.page or 0)
    return Content(
        title=_real_title(title) or _printed_title(kept[0]),
        blocks=blocks_of_pages(kept, outline),
        omissions=tuple(content_omissions),
    )


def _opened(data: bytes, name: str) -> pypdfium2.PdfDocument:
    import pypdfium2
    import pypdfium2.raw as pdfium

    try:
        file = pypdfium2.PdfDocument(data)
        if len(file) > 0:
            return file
        reason = "it has no pages"
    except pypdfium2.PdfiumError as error:
        if error.err_code in {pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY}:
            raise DocumentError(f"{name}: the PDF is encrypted; save it without a password and try again") from error
        reason = "its structure is damaged"
    raise DocumentError(
        f"{name}: expected a whole PDF, got one that cannot be read ({reason}); repair it or print it to PDF again"
    )


def _pages(file: pypdfium2.PdfDocument) -> tuple[list[list[PageLine]], list[Omission]]:
    """The lines of each page, and what of it is not in them."""
    import pypdfium2

    form = _form(file)
    pages: list[list[PageLine]] = []
    omissions: list[Omission] = []
    slanted = list[tuple[int, str]]()
    for number in range(1, len(file) + 1):
        try:
            page = file[number - 1]
        except pypdfium2.PdfiumError:
            pages.append([])
            omissions.append(Omission("broken page", number))
            continue
        try:
            words = read_page_words(page, number, form)
        except pypdfium2.PdfiumError:
            pages.append([])
            omissions.append(Omission("broken page", number))
            continue
        finally:
            page.close()
        pages.append(lines_of_page(words))
        omissions += _left_out(words)
        if words.slanted:
            slanted.append((number, words.slanted))
    pages_of_text = Counter(text for _, text in slanted)
    omissions += [
        Omission("slanted line", number)
        for number, text in slanted
        if pages_of_text[text] <= _MAX_PAGES_OF_SLANTED_TEXT  # what comes again is a watermark
    ]
    return pages, omissions


def _left_out(words: PageWords) -> list[Omission]:
    found = []
    if words.unreadable_share > _MAX_UNREADABLE_SHARE:
        found.append(Omission("page with unreadable characters", words.number))
    elif not words.characters:
        found.append(Omission("page without text", words.number))
    elif words.characters < MUCH_TEXT_CHARS and words.largest_image_share >= _MIN_IMAGE_SHARE:
        found.append(Omission("image", words.number))
    return found + [Omission("comment", words.number)] * words.comments


def _form(file: pypdfium2.PdfDocument) -> Any:
    """The handle of the file's form, None where it has none."""
    file.init_forms()
    return file.formenv.raw if file.formenv else None


def _outline(file: pypdfium2.PdfDocument) -> frozenset[tuple[int, str]]:
    """The page and the squeezed words of each entry of the file's own table of contents."""
    import pypdfium2

    found = set()
    try:
        for count, entry in enumerate(file.get_toc(max_depth=6)):
            if count >= _MAX_OUTLINE_ENTRIES:
                break
            target = entry.get_dest()
            index = target.get_index() if target else None
            if index is not None:
                found.add((index + 1, squeezed(entry.get_title())))
    except pypdfium2.PdfiumError:
        return frozenset()
    return frozenset(found)


def _recognised(
    file: pypdfium2.PdfDocument, pages: list[list[PageLine]], omissions: list[Omission], name: str
) -> tuple[list[list[PageLine]], list[Omission]]:
    """The pages, those whose text is a picture read by character recognition; and what was left out of them."""
    from lift.documents.pdf.ocr import TextRecognition

    wanted = {
        omission.page
        for omission in omissions
        if omission.kind in {"page without text", "image", "page with unreadable characters"}
    }
    if not wanted:
        return pages, omissions
    recognition = TextRecognition(name)
    left = [omission for omission in omissions if omission.page not in wanted]
    found = list(pages)
    for number in sorted(page for page in wanted if page is not None):
        lines = lines_of_page(recognition.words_of_page(file[number - 1], number))
        known = {squeezed(line.text) for line in pages[number - 1]}
        garbled = any(each.page == number and each.kind.endswith("characters") for each in omissions)
        if garbled or not pages[number - 1]:
            found[number - 1] = lines
        else:
            found[number - 1] = pages[number - 1] + [line for line in lines if squeezed(line.text) not in known]
        if lines:
            left.append(Omission(READ_BY_RECOGNITION, number))
        else:
            left += [omission for omission in omissions if omission.page == number]
    return found, left


def _without_text(name: str, count: int, ocr: bool) -> DocumentError:
    pages = f"{count} page{'s' if count > 1 else ''}"
    if ocr:
        return DocumentError(
            f"{name}: expected text, got a PDF of {pages} in which character recognition found none; "
            "give a sharper scan or the text"
        )
    return DocumentError(
        f"{name}: expected text, got a PDF of {pages} without any, probably a scan; "
        "read it with --ocr (it needs lift-memory[ocr])"
    )


def _printed_title(first_page: list[PageLine]) -> str | None:
    """The largest type of the first page, where it is one run of lines and larger than the page's text."""
    lines = [line for line in first_page if not line.is_turned]
    if not lines:
        return None
    largest = max(line.size for line in lines)
    if largest < HEADING_SCALE * body_size(lines):
        return None
    run = [index for index, line in enumerate(lines) if abs(line.size - largest) <= 0.08 * largest]
    if run[-1] - run[0] != len(run) - 1:
        return None
    title = " ".join(lines[index].text for index in run)
    return title if len(title) <= MAX_HEADING_CHARS and re.search(r"[^\W\d]{2}", title) else None


def _real_title(title: str) -> str | None:
    """The title in the file's properties, unless it is only a file name that a program has left there."""
    is_file_name = re.search(
        r"\.(docx?|tex|dvi|pdf|indd|odt|rtf|txt|html?|pptx?)$|^(untitled|microsoft word)\b", title, re.I
    )
    return None if not title or is_file_name else title
