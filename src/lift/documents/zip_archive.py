"""The zip archives that docx and epub files are: opened with limits, their XML parsed without entities or network."""

from __future__ import annotations

import io
import posixpath
import struct
import zipfile
import zlib
from typing import Any
from urllib.parse import unquote

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
                f"{self.name}: expected {member} to be packed by deflate as in every docx and epub file, got another "
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
            reason = " ".join(str(error).split())
            raise DocumentError(
                f"{self.name}: {member} in the archive is not well-formed XML ({reason}); get the file anew"
            ) from error


def resolve(base: str, reference: str) -> str:
    """The member that a relative `reference` (a URL without host) in the member `base` points to."""
    path = unquote(reference.partition("#")[0])
    return posixpath.normpath(posixpath.join(posixpath.dirname(base), path))
