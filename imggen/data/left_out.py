"""What a listing leaves out: counted by ending, and named where the user may have meant it to be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from imggen.reporting import Reporter

FORMATS = "PNG, JPEG, WebP, GIF, BMP and TIFF"
_UNREAD_IMAGES = """
.heic .heif .hif .avif .jxl .jp2 .j2k .jpf .jpx .jxr .dng .cr2 .cr3 .crw .nef .nrw .arw .orf .rw2 .raf .pef .srw .raw
.ppm .pgm .pbm .pnm .pfm .svg .svgz .psd .psb .xcf .kra .exr .hdr .ico .icns .tga .dds .dcm .nii .fits .pcx .mng .apng
"""
_ARCHIVES = ".zip .tar .tgz .txz .tbz2 .tar.gz .tar.xz .tar.bz2 .tar.zst .rar .7z"
# Images that imggen does not read: without a word, a smaller data set would be taken for all of it.
UNREAD_IMAGE_ENDINGS = frozenset(_UNREAD_IMAGES.split())
ARCHIVE_ENDINGS = frozenset(_ARCHIVES.split())
MAX_NAMED = 5


@dataclass
class LeftOut:
    """Files that a listing does not read.

    `endings` counts regular files that are not images by the last part of their names, in lower case; `unreadable`
    are folders and files that may not be read, with the reason; `broken_links` are links that lead to nothing or to
    themselves; `special` are pipes, devices and sockets with the name of an image.
    """

    endings: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    broken_links: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """The number of regular files."""
        return sum(self.endings.values())

    def add(self, name: str) -> None:
        """Count a regular file that is not an image."""
        *_, first, last = "", "", *PurePosixPath(name.lower()).suffixes
        self.endings[first + last if first + last in ARCHIVE_ENDINGS else last] += 1

    def with_other(self, other: LeftOut) -> LeftOut:
        """This and everything that another listing left out."""
        return LeftOut(
            self.endings + other.endings,
            self.unreadable + other.unreadable,
            self.broken_links + other.broken_links,
            self.special + other.special,
        )

    def report(self, source: str, reporter: Reporter) -> None:
        """Show the user what is left out."""
        for line in self.warnings(source):
            reporter.warn(line)
        for line in self.notes(source):
            reporter.info(line)

    def warnings(self, source: str) -> list[str]:
        """One line for each kind of thing that the user may miss."""
        lines = []
        if missed := {ending: n for ending, n in self.endings.items() if ending in UNREAD_IMAGE_ENDINGS}:
            lines.append(f"{source}: {_counts(missed)} left out: imggen reads {FORMATS}")
        if archives := {ending: n for ending, n in self.endings.items() if ending in ARCHIVE_ENDINGS}:
            lines.append(f"{source}: {_counts(archives)} left out: archives are not read beside other files")
        if self.unreadable:
            lines.append(f"{source}: what cannot be read is left out: {_first(self.unreadable)}")
        if self.broken_links:
            lines.append(f"{source}: links that lead to no file are left out: {_first(self.broken_links)}")
        if self.special:
            lines.append(f"{source}: these are no regular files and are left out: {_first(self.special)}")
        return lines

    def notes(self, source: str) -> list[str]:
        """One line about the other files."""
        rest = {e: n for e, n in self.endings.items() if e not in UNREAD_IMAGE_ENDINGS | ARCHIVE_ENDINGS}
        if not rest:
            return []
        files = "file that is not an image" if sum(rest.values()) == 1 else "files that are not images"
        return [f"{source}: ignored {sum(rest.values()):,} {files} ({_by_ending(rest)})"]

    def describe(self) -> str:
        """What there is in place of images, for an error."""
        parts = [f"what is there: {_by_ending(self.endings)}"] if self.endings else []
        if self.unreadable:
            parts.append(f"what cannot be read: {_first(self.unreadable)}")
        if self.broken_links or self.special:
            parts.append(f"no files: {_first(self.broken_links + self.special)}")
        return "; ".join([*parts, f"imggen reads {FORMATS}"] if parts else ["it is empty", f"imggen reads {FORMATS}"])


def _first(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - MAX_NAMED:,} more" if len(listed) > MAX_NAMED else ""
    return ", ".join(listed[:MAX_NAMED]) + more


def _by_ending(endings: dict[str, int]) -> str:
    """The most frequent endings with their counts."""
    common = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    return _first(f"{count:,} {ending or 'without an ending'}" for ending, count in common)


def _counts(endings: dict[str, int]) -> str:
    """The same as the subject of a sentence."""
    total = sum(endings.values())
    return f"{_by_ending(endings)} {'file is' if total == 1 else 'files are'}"
