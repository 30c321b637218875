"""Any file -> Document: text, title, and the pages or headings of the original.

read.py        which reader a file needs; the limits; the errors of files
encoding.py    bytes -> text
plain_text.py  markdown.py  html.py  pdf.py  docx.py  epub.py    one format each -> blocks
zip_archive.py what docx and epub share: an archive opened with limits
blocks.py      blocks -> Document, the one place where offsets are counted
cleaning.py    the normal form of every text
document.py    what a document is
"""

from lift.documents.document import Document, Place
from lift.documents.read import document_from_text, read_document

__all__ = ["Document", "Place", "document_from_text", "read_document"]
