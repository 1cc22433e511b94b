"""List the members of zips. They are found by their entries and not by their names: a name may be there twice."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, NamedTuple

from imggen.data.layout import relative_name
from imggen.data.readers import LABEL_ENDING, LOCAL_HEADER_BYTES, MAX_LABEL_BYTES, Member, expand_zip_member
from imggen.data.zip_names import decode_names
from imggen.errors import DataError, in_one_line

_ENCRYPTED = 1


class ZipFileEntry(NamedTuple):
    """A file in a zip: its name with slashes, as a relative path, and where the archive number 0 has it.

    `label` are the contents of a small file whose name ends in .cls.
    """

    name: str
    member: Member
    is_encrypted: bool
    label: bytes | None = None


def list_zip(path: Path) -> tuple[list[ZipFileEntry], str]:
    """The files of a zip, and a sentence about the encoding that their names were taken to have; empty if declared.

    Raises DataError if the zip is damaged, or if members overlap, by which a small zip can expand without end.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
            names, assumed = decode_names(infos)
        except Exception as error:  # damaged zips make zipfile raise nearly anything
            raise _damaged(path, in_one_line(error)) from error
        entries = [
            _entry(file, info, name) for info, name in zip(infos, names, strict=True) if not name.endswith(("/", "\\"))
        ]
    by_offset = sorted(entry.member for entry in entries)
    for this, following in pairwise(by_offset):
        if this.offset + LOCAL_HEADER_BYTES + this.stored > following.offset:
            raise _damaged(path, "its members overlap")
    return entries, assumed


def _entry(file: IO[bytes], info: zipfile.ZipInfo, raw_name: str) -> ZipFileEntry:
    """The entry of a file, with the label if it is one."""
    name = relative_name(raw_name.split("\0")[0].replace("\\", "/"))
    member = Member(0, info.header_offset, info.file_size, info.compress_type, info.compress_size, info.CRC)
    is_encrypted, label = bool(info.flag_bits & _ENCRYPTED), None
    if name.endswith(LABEL_ENDING) and member.size <= MAX_LABEL_BYTES and not is_encrypted:
        with suppress(Exception):  # a label that cannot be read is missing
            label = expand_zip_member(file, member).read(member.size)
    return ZipFileEntry(name, member, is_encrypted, label)


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path} is not a usable zip: {reason}", "it may be incomplete: download or create it again")
