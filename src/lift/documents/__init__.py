"""Any file -> Document: text, title, and the pages or headings of the original.

read.py        which reader a file needs; the limits; the errors of files
encoding.py    bytes -> text
plain_text.py  markdown.py  html.py  pdf.py  docx.py  xlsx.py  pptx.py  opendocument.py  rtf.py  epub.py  mail.py
delimited.py   notebook.py  subtitles.py  chat.py                one format each -> blocks
html_furniture.py  docx_numbering.py  number_formats.py  charts.py  symbol_fonts.py    parts of these formats
tables.py      formulas.py  rows and formulas -> lines, for all formats
zip_archive.py what Office files and e-books share: an archive opened with limits
blocks.py      blocks -> Document, the one place where offsets are counted
cleaning.py    the normal form of every text
document.py    what a document is
"""

from lift.documents.document import Document, Place
from lift.documents.read import document_from_text, read_document

__all__ = ["Document", "Place", "document_from_text", "read_document"]
