"""The zip archives that Office files and e-books are: opened with limits, their XML parsed without entities."""

from __future__ import annotations

import io
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from lift.documents.cleaning import clean_text
from lift.errors import DocumentError

MAX_MEMBERS = 20_000
MAX_UNCOMPRESSED_BYTES = 200 * 1024 * 1024
# Text is packed to a tenth, rarely a fiftieth; what unpacks to more than this times the file was made to.
MAX_RATIO = 200
_ALWAYS_ALLOWED_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 1 << 16
# Python unpacks others of unknown size at once; neither Word nor any e-book uses them.
_PACKINGS = frozenset([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
_ENCRYPTED_FLAGS = 0x1 | 0x40


# What zipfile lets through when a damaged archive breaks an assumption of its code.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    LookupError,
    ArithmeticError,
    NotImplementedError,
    RuntimeError,
    OSError,
)


class ArchiveLimitError(DocumentError):
    """More was unpacked than any document holds: nothing of the archive is read further."""


class Archive:
    """The members of a zip archive by name.

    Raises DocumentError, naming the file as `name`, for an archive that is broken, or has more than MAX_MEMBERS
    members. At most MAX_UNCOMPRESSED_BYTES are unpacked of all members together, and of a small archive at most
    MAX_RATIO times its own size beyond the first 16 MiB: zip bombs are small until they are opened.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except _BROKEN as error:
            raise DocumentError(
                f"{name}: expected a whole zip archive, got a broken one ({error}); get it anew"
            ) from error
        self._members = {info.filename: info for info in self._zip.infolist()}
        if len(self._members) > MAX_MEMBERS:
            raise DocumentError(
                f"{name}: expected at most {MAX_MEMBERS:,} files in the archive, got {len(self._members):,}; "
                "save the text alone"
            )
        self._unpacked_bytes = 0
        self._most_bytes = min(MAX_UNCOMPRESSED_BYTES, max(_ALWAYS_ALLOWED_BYTES, MAX_RATIO * len(data)))

    def __contains__(self, member: str) -> bool:
        return member in self._members

    @property
    def members(self) -> frozenset[str]:
        """The names of all members."""
        return frozenset(self._members)

    def read(self, member: str) -> bytes:
        """The bytes of a member; raises DocumentError where it is missing, broken, encrypted, or too much.

        It is unpacked piece by piece and counted: the size that the archive states for it may be a lie.
        """
        info = self._members.get(member)
        if info is None:
            raise DocumentError(f"{self.name}: expected {member} in the archive, got none; the file is not whole")
        if info.flag_bits & _ENCRYPTED_FLAGS:
            raise DocumentError(f"{self.name}: the archive is encrypted; save it without a password")
        if info.compress_type not in _PACKINGS:
            raise DocumentError(
                f"{self.name}: expected {member} to be packed by deflate as in every document, got another "
                f"method ({info.compress_type}); save the file anew"
            )
        chunks: list[bytes] = []
        try:
            with self._zip.open(info) as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    chunks.append(chunk)
                    self._count(len(chunk))
        except _BROKEN as error:
            raise DocumentError(f"{self.name}: {member} in the archive is broken ({error}); get it anew") from error
        return b"".join(chunks)

    def _count(self, unpacked_bytes: int) -> None:
        self._unpacked_bytes += unpacked_bytes
        if self._unpacked_bytes > self._most_bytes:
            raise ArchiveLimitError(
                f"{self.name}: expected at most {self._most_bytes:,} bytes when unpacked, got more; "
                "split the file, or save it in another format"
            )

    def xml(self, member: str) -> Any:
        """The root element of an XML member; raises DocumentError where it is not well-formed."""
        from lxml import etree

        parser = etree.XMLParser(
            resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True
        )
        try:
            return etree.fromstring(self.read(member), parser)
        except etree.XMLSyntaxError as error:
            raise self._not_well_formed(member, error) from error

    def iterate(self, member: str, *names: str) -> Iterator[Any]:
        """The elements of these local names of an XML member, one after the other; each is emptied behind the next.

        For members that are too large to be held as a tree. Raises DocumentError where it is not well-formed.
        """
        from lxml import etree

        walk = etree.iterparse(
            io.BytesIO(self.read(member)),
            events=("end",),
            tag=[f"{{*}}{name}" for name in names],
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            remove_comments=True,
            remove_pis=True,
        )
        try:
            for _, element in walk:
                yield element
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
        except etree.XMLSyntaxError as error:
            raise self._not_well_formed(member, error) from error

    def _not_well_formed(self, member: str, error: Exception) -> DocumentError:
        reason = " ".join(str(error).split())
        return DocumentError(
            f"{self.name}: {member} in the archive is not well-formed XML ({reason}); get the file anew"
        )


def related_parts(archive: Archive, member: str) -> dict[str, str]:
    """Relation id -> member, of all that a part of an Office file refers to within the archive."""
    folder, name = posixpath.split(member)
    relations = f"{folder}/_rels/{name}.rels" if folder else f"_rels/{name}.rels"
    if relations not in archive:
        return {}
    return {
        relation.get("Id") or "": _part(member, relation.get("Target") or "")
        for relation in archive.xml(relations)
        if relation.get("TargetMode") != "External"
    }


def _part(base: str, target: str) -> str:
    return target.lstrip("/") if target.startswith("/") else resolve(base, target)


def core_title(archive: Archive) -> str | None:
    """The title in the properties of an Office file."""
    member = "docProps/core.xml"
    if member not in archive:
        return None
    try:
        found = archive.xml(member).find("{http://purl.org/dc/elements/1.1/}title")
    except ArchiveLimitError:
        raise
    except DocumentError:
        return None
    return " ".join(clean_text(found.text or "").split()) or None if found is not None else None


def resolve(base: str, reference: str) -> str:
    """The member that a relative `reference` (a URL without host) in the member `base` points to."""
    path = unquote(reference.partition("#")[0])
    return posixpath.normpath(posixpath.join(posixpath.dirname(base), path))
