"""PDF -> blocks: glyphs at coordinates become words, lines, columns, tables, headings and paragraphs.

words.py          a page's glyphs -> words, upright, with the values of its form
lines.py          words -> segments of printed lines
columns.py        segments -> the page's columns, in reading order
tables.py         lines of a column -> rows of tables
page_lines.py     a page's words -> its lines and rows, in reading order
running_heads.py  running heads, page numbers, watermarks, line numbers and tables of contents go out
footnotes.py      notes at a page's foot stand apart from the running text
paragraphs.py     lines of all pages -> paragraphs, list items, rows and headings
ocr.py            pages without text, read by optical character recognition
read.py           the file -> its content, and all that was left out
"""
