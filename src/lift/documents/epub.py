"""EPUB -> blocks: the chapters in the order of the book's spine, named by its table of contents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lift.documents.blocks import Block, Content
from lift.documents.document import Omission
from lift.documents.html import label_of, parse_xhtml, read_xhtml
from lift.documents.zip_archive import Archive, ArchiveLimitError, resolve
from lift.errors import DocumentError

_BROKEN_CHAPTER = "chapter that does not open"
_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_CHAPTER_TYPES = frozenset(["application/xhtml+xml", "text/html", "application/xml", "text/x-oeb1-document"])


def read_epub(archive: Archive) -> Content:
    """Read an EPUB 2 or 3; chapters that are missing or broken are told as omissions.

    Raises DocumentError where the book is locked (DRM), or no chapter can be read for what is broken.
    """
    package_path = _package_path(archive)
    package = archive.xml(package_path)
    items = {item.get("id"): item for item in _elements(package, "item")}
    references = dict.fromkeys(reference.get("idref") for reference in _elements(package, "itemref"))
    spine = [items[reference] for reference in references if reference in items]
    names = _chapter_names(archive, package_path, items.values())
    locked = _locked_members(archive)
    blocks: list[Block] = []
    omissions = [Omission(_BROKEN_CHAPTER) for reference in references if reference not in items]
    refusal: DocumentError | None = None
    known: set[str] = set()
    for item in spine:
        member = resolve(package_path, item.get("href") or "")
        is_contents = "nav" in (item.get("properties") or "").split()
        if is_contents or member in known:
            continue
        known.add(member)
        if item.get("media-type") not in _CHAPTER_TYPES:
            omissions.append(Omission("image" if "image" in (item.get("media-type") or "") else _BROKEN_CHAPTER))
            continue
        if member in locked:
            raise DocumentError(f"{archive.name}: the book is locked by copy protection (DRM); give an unlocked copy")
        try:
            content = read_xhtml(archive.read(member), archive.name)
        except ArchiveLimitError:
            raise
        except DocumentError as error:
            refusal = refusal or error
            omissions.append(Omission(_BROKEN_CHAPTER))
            continue
        chapter = content.blocks
        omissions += content.omissions
        if chapter and member in names and not any(block.heading for block in chapter):
            chapter[0] = replace(chapter[0], heading=names[member])
        blocks += chapter
    if not blocks and refusal is not None:
        raise refusal
    title = next((label_of(element) for element in _elements(package, "title")), None)
    return Content(title=title or None, blocks=blocks, omissions=tuple(omissions))


def _package_path(archive: Archive) -> str:
    for rootfile in _elements(archive.xml(_CONTAINER), "rootfile"):
        if path := rootfile.get("full-path"):
            return str(path)
    raise DocumentError(f"{archive.name}: expected the path of the book's package in {_CONTAINER}, got none")


def _elements(root: Any, name: str) -> list[Any]:
    return [element for element in root.iter("{*}" + name)]


def _chapter_names(archive: Archive, package_path: str, items: Any) -> dict[str, str]:
    """Member -> name in the table of contents, from the EPUB 3 navigation document and the EPUB 2 NCX."""
    names: dict[str, str] = {}
    known: set[str] = set()
    for item in items:
        member = resolve(package_path, item.get("href") or "")
        if member not in archive or member in known:
            continue
        if "nav" in (item.get("properties") or "").split():
            links = [
                (link.get("href"), link) for link in _elements(parse_xhtml(archive.read(member), archive.name), "a")
            ]
        elif item.get("media-type") == "application/x-dtbncx+xml":
            points = [
                (point.find("{*}content"), point.find("{*}navLabel"))
                for point in _elements(archive.xml(member), "navPoint")
            ]
            links = [(target.get("src"), label) for target, label in points if target is not None]
        else:
            continue
        known.add(member)
        for target, label in links:
            if target and label is not None and (name := label_of(label)):
                names.setdefault(resolve(member, target), name)
    return names


def _locked_members(archive: Archive) -> frozenset[str]:
    """The files that encryption.xml lists; publishers use it for obfuscated fonts too, which are no text."""
    if _ENCRYPTION not in archive:
        return frozenset()
    references = _elements(archive.xml(_ENCRYPTION), "CipherReference")
    return frozenset(resolve("", reference.get("URI") or "") for reference in references)
