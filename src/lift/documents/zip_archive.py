"""The zip archives that docx and epub files are: opened with limits, their XML parsed without entities or network."""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from typing import Any
from urllib.parse import unquote

from lift.errors import DocumentError

MAX_MEMBERS = 20_000
MAX_UNCOMPRESSED_BYTES = 200 * 1024 * 1024


class Archive:
    """The members of a zip archive by name.

    Raises DocumentError, naming the file as `name`, for an archive that is broken, has more than MAX_MEMBERS members,
    or of which more than MAX_UNCOMPRESSED_BYTES would be unpacked: zip bombs are small until they are opened.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
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

    def __contains__(self, member: str) -> bool:
        return member in self._members

    @property
    def members(self) -> frozenset[str]:
        """The names of all members."""
        return frozenset(self._members)

    def read(self, member: str) -> bytes:
        """The bytes of a member; raises DocumentError where it is missing, broken, encrypted, or too much."""
        info = self._members.get(member)
        if info is None:
            raise DocumentError(f"{self.name}: expected {member} in the archive, got none; the file is not whole")
        # zipfile never unpacks more of a member than its header states, so the stated size can be relied on.
        self._unpacked_bytes += info.file_size
        if self._unpacked_bytes > MAX_UNCOMPRESSED_BYTES:
            raise DocumentError(
                f"{self.name}: expected at most {MAX_UNCOMPRESSED_BYTES:,} bytes when unpacked, "
                f"got at least {self._unpacked_bytes:,}; split the file"
            )
        try:
            return self._zip.read(info)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, OSError) as error:
            raise DocumentError(f"{self.name}: {member} in the archive is broken ({error}); get it anew") from error
        except RuntimeError as error:
            raise DocumentError(f"{self.name}: the archive is encrypted; save it without a password") from error

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
