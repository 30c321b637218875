"""Folders, globs, lists and tables name documents, each once, and under names that do not depend on the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lift.errors import DocumentError, UsageError
from lift.farm.sources import FarmDocument, find_documents


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    for year in ("2023", "2024"):
        (folder / year).mkdir(parents=True)
        (folder / year / "report.txt").write_text(f"The report of {year} has a mill in it.")
    (folder / "2024" / "Letter to Ada.txt").write_text("Dear Ada, the mill is sold.")
    (folder / ".hidden.txt").write_text("nothing")
    return folder


def test_a_folder_a_glob_and_a_list_name_files(archive: Path) -> None:
    found = find_documents([str(archive)])
    assert [Path(each.source).name for each in found] == ["report.txt", "Letter to Ada.txt", "report.txt"]
    letter = next(each for each in found if "Ada" in each.source)
    assert letter.name == "letter-to-ada" and letter.size_bytes == 27 and letter.read().text.startswith("Dear Ada")
    assert [each.name for each in find_documents([str(archive / "2024" / "L*")])] == ["letter-to-ada"]
    listed = archive / "list"
    listed.write_text(f"{archive}/2024/report.txt\n\n{archive}/**/report.txt\n")
    assert len(find_documents([f"@{listed}"])) == 2  # each once


def test_files_of_one_name_keep_theirs_whatever_else_is_there(archive: Path) -> None:
    before = {each.source: each.name for each in find_documents([str(archive)])}
    assert len(set(before.values())) == 3
    (archive / "2022").mkdir()
    (archive / "2022" / "report.txt").write_text("another")
    after = {each.source: each.name for each in find_documents([str(archive)])}
    assert before.items() <= after.items()


def test_tables_hold_paths_urls_or_texts(archive: Path) -> None:
    rows = [
        {"path": "2024/report.txt", "title": "The second report"},
        {"text": "A text in a table.", "title": "Tabled", "other": 7},
    ]
    table = archive / "table.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = find_documents([str(table)])
    assert [each.name for each in found] == ["the-second-report", "tabled"]
    assert found[0].read().title == "The second report"
    assert (found[1].read().title, found[1].read().text.strip()) == ("Tabled", "A text in a table.")
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    columns = {"text": [None, "A text in a table."], "path": ["2024/report.txt", None], "title": [None, "Tabled"]}
    parquet.write_table(pyarrow.table(columns), archive / "table.parquet")
    assert [each.name for each in find_documents([str(archive / "table.parquet")])] == ["report", "tabled"]


def test_urls_are_listed_and_read(archive: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe_file("/papers/first.md", b"# The first\n\nIt has a mill.")
    store.pipe_file("/papers/deep/second.txt", b"The second has a weir.")
    found = find_documents(["memory://papers"])
    assert sorted(each.name for each in found) == ["first", "second"]
    assert {each.source for each in found} == {"memory://papers/first.md", "memory://papers/deep/second.txt"}
    first = next(each for each in found if each.name == "first").read()
    assert "It has a mill." in first.text and first.source == "memory://papers/first.md"
    with pytest.raises(DocumentError, match="cannot be read"):
        FarmDocument("gone", "memory://papers/gone.txt", 1).read()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"title": "neither"}', "expected a string as path, url or text in row 1"),
        ('{"path": "a", "text": "b", "title": "both"}', "got path and text"),
        ('{"text": "no title"}', "expected a title"),
        ("[1]", "expected a JSON object in line 1"),
        ('{"path": "no-such-file.txt"}', "expected a file, a folder or a glob"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, line: str, said: str) -> None:
    table = tmp_path / "table.jsonl"
    table.write_text(line + "\n")
    with pytest.raises(UsageError, match=said):
        find_documents([str(table)])


@pytest.mark.parametrize("source", ["no-such-file.txt", "no-such-*.txt", "@no-such-list", "nosuch://bucket/x"])
def test_what_names_nothing_is_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^expected"):
        find_documents([source])
    with pytest.raises(UsageError, match=r"^expected"):
        find_documents([str(tmp_path)])


def test_two_texts_of_one_title_are_refused_and_none_is_lost(archive: Path) -> None:
    table = archive / "notes.jsonl"
    table.write_text("".join(json.dumps({"title": "Untitled", "text": text}) + "\n" for text in ("One.", "Two.")))
    with pytest.raises(UsageError, match="a title of its own"):
        find_documents([str(table)])
    table.write_text("".join(json.dumps({"title": "Untitled", "text": "One."}) + "\n" for _ in range(2)))
    assert len(find_documents([str(table)])) == 1


def test_a_table_names_the_same_texts_from_wherever_it_is_named(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = archive / "notes.jsonl"
    table.write_text(json.dumps({"title": "Note", "text": "One."}) + "\n")
    monkeypatch.chdir(archive)
    assert find_documents(["notes.jsonl"]) == find_documents([str(table)])


@pytest.mark.parametrize("path", ["../secret.txt", "/etc/hostname", "../*", "inside/secret.txt"])
def test_a_table_reaches_no_file_outside_its_folder(archive: Path, path: str) -> None:
    (archive.parent / "secret.txt").write_text("Nobody may read this.")
    (archive / "inside").symlink_to(archive.parent)
    table = archive / "table.jsonl"
    table.write_text(json.dumps({"path": path}) + "\n")
    with pytest.raises(UsageError, match="below the folder of the table"):
        find_documents([str(table)])
