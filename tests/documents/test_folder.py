"""Several files and folders: everything readable is read in order, and what is not is told and counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from lift.documents.folder import read_files
from lift.errors import DocumentError


def test_a_folder_is_read_in_order_and_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "rent.md").write_text("# Lease\n\nThe rent is 10 crowns.", "utf-8")
    (tmp_path / "a.md").write_text("# Lease\n\nThe rent is 20 crowns.", "utf-8")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (tmp_path / ".hidden.txt").write_text("secret", "utf-8")
    said: list[str] = []
    document = read_files([str(tmp_path)], None, said.append)
    assert [part.source for part in document.parts] == [str(tmp_path / "a.md"), str(tmp_path / "b" / "rent.md")]
    assert len(said) == 1 and "photo.png" in said[0] and "PNG image" in said[0]
    assert [each.kind for each in document.omissions] == ["file that cannot be read"]
    assert "photo.png" in document.warnings[0]
    assert "secret" not in document.text
    place = document.place_at(document.text.index("10 crowns"))
    assert place is not None and place.file == "rent.md"


def test_a_file_that_is_named_itself_must_be_readable(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("It rained all day.", "utf-8")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with pytest.raises(DocumentError, match="PNG image"):
        read_files([str(tmp_path / "a.txt"), str(tmp_path / "b.png")], None, print)


def test_a_folder_with_nothing_to_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with pytest.raises(DocumentError, match="expected a folder with a file that can be read"):
        read_files([str(tmp_path)], None, lambda _: None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DocumentError, match="expected a folder"):
        read_files([str(tmp_path / "empty")], None, print)
