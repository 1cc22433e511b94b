"""Data sets in archives: one, or several that are read as one, such as `shards/{000..099}.tar`.

The members are named as webdataset names them: KEY.png, and beside it KEY.cls with the class, if there are labels.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from imggen.data.layout import is_hidden, is_image_file, is_split_name, split_names_of
from imggen.data.left_out import LeftOut
from imggen.data.readers import LABEL_ENDING, Member
from imggen.data.tars import TAR_SUFFIXES, list_tar
from imggen.data.zips import list_zip
from imggen.errors import DataError, UsageError
from imggen.io.locks import Lock

MAX_ARCHIVES = 100_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_DIGITS = re.compile(r"\d+")


@dataclass
class ArchiveListing:
    """The images in one or more archives.

    `names` are those of the members, of several archives with the archive's before them; `folders` are paths from
    which splits and classes follow; `stamp` is what the contents of tars are recognized by; `locks` keep the unpacked
    copies of compressed tars in the cache.
    """

    paths: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    fingerprints: list[str] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    stamp: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)


class _Image(NamedTuple):
    """An image in an archive, with the class that a .cls file beside it gives, if there is one."""

    name: str
    fingerprint: str
    member: Member
    label: str | None


@dataclass
class _Contents:
    """The files of one archive that are not hidden: images, and the names of the others."""

    path: str
    images: list[_Image] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    broken_links: list[str] = field(default_factory=list)
    stamp: str = ""
    note: str = ""
    lock: Lock | None = None


def archive_kind(path: Path) -> Literal["zip", "tar"] | None:
    """The kind of archive, by the file name's ending."""
    name = path.name.lower()
    if name.endswith(".zip"):
        return "zip"
    return "tar" if name.endswith(TAR_SUFFIXES) else None


def is_archive(path: Path) -> bool:
    """Whether the file name's ending is that of a .zip or a tar."""
    return archive_kind(path) is not None


def expand_braces(spec: str) -> list[str]:
    """`{000..099}` and `{a,b}` written out, as a shell does it; a name without braces is returned alone.

    Raises UsageError for more than MAX_ARCHIVES names.
    """
    parts, end, count = list[list[str]](), 0, 1
    for match in _BRACES.finditer(spec):
        choices = _choices(match[1], MAX_ARCHIVES // count)
        if choices is None:
            continue
        count *= len(choices)
        parts += [[spec[end : match.start()]], choices]
        end = match.end()
    return ["".join(words) for words in itertools.product(*parts, [spec[end:]])]


def _choices(text: str, most: int) -> list[str] | None:
    """What stands for the inside of a pair of braces; None if it is neither a range nor a list."""
    if (match := _RANGE.fullmatch(text)) is not None:
        first, last = int(match[1]), int(match[2])
        if abs(last - first) >= most:
            raise UsageError(f"{{{text}}} is too long", f"at most {MAX_ARCHIVES:,} archives")
        width = max(map(len, match.groups())) if any(end[0] == "0" and len(end) > 1 for end in match.groups()) else 0
        step = 1 if last >= first else -1
        return [f"{number:0{width}}" for number in range(first, last + step, step)]
    words = text.split(",")
    if len(words) > most:
        raise UsageError("the list in braces is too long", f"at most {MAX_ARCHIVES:,} archives")
    return words if len(words) > 1 else None


def list_archives(paths: Sequence[Path], cache_dir: Path, root: Path | None = None) -> ArchiveListing:
    """List the images of archives; of several, `root` is the folder that their names are shown relative to.

    Raises DataError if one cannot be read or is encrypted.
    """
    listing = ArchiveListing()
    contents = [_list_zip(path) if archive_kind(path) == "zip" else _list_tar(path, cache_dir) for path in paths]
    images = [image for each in contents for image in each.images]
    unlabeled = sum(image.label is None for image in images)
    use_labels = unlabeled == 0
    if 0 < unlabeled < len(images):
        listing.warnings.append(
            f"{unlabeled:,} of {len(images):,} images have no class in a .cls file beside them: "
            "classes are taken from folders"
        )
    prefixes = _split_prefixes(paths, root)
    for number, (path, each) in enumerate(zip(paths, contents, strict=True)):
        shown = "" if root is None else _relative(path, root) + "/"
        listing.paths.append(each.path)
        listing.stamp.append(each.stamp)
        listing.left_out.broken_links += [shown + name for name in each.broken_links]
        for name in each.others:
            if not (use_labels and name.endswith(LABEL_ENDING)):
                listing.left_out.add(name)
        if each.lock is not None:
            listing.locks.append(each.lock)
        if each.note:
            listing.notes.append(f"{path}: {each.note}")
        for image in each.images:
            folder = _labeled_name(image.name, image.label) if use_labels and image.label else image.name
            listing.names.append(shown + image.name)
            listing.folders.append(prefixes[number] + folder)
            listing.fingerprints.append(image.fingerprint)
            listing.members.append(image.member._replace(archive=number) if number else image.member)
    return listing


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _split_prefixes(paths: Sequence[Path], root: Path | None) -> list[str]:
    """A folder for each archive, from which its split follows: its own folder, and train of data-train-000.tar."""
    if root is None:
        return [""] * len(paths)
    stems = [_DIGITS.sub("", path.name.split(".")[0]) for path in paths]
    splits = split_names_of(set(stems))
    folders = [_relative(path.parent, root) for path in paths]
    if splits is not None and len(set(splits.values())) > 1:
        folders = [f"{folder}/{splits[stem]}" for folder, stem in zip(folders, stems, strict=True)]
    return [f"{folder}/".removeprefix("./") for folder in folders]


def _list_zip(path: Path) -> _Contents:
    entries, assumed = list_zip(path)
    visible = [entry for entry in entries if not is_hidden(entry.name)]
    images = [entry for entry in visible if is_image_file(entry.name)]
    if any(entry.is_encrypted for entry in images):
        raise DataError(f"{path} is encrypted", "unpack it with its password and give the folder")
    labels = _labels({entry.name: entry.label for entry in visible})
    contents = _Contents(str(path.resolve()), note=assumed)
    for entry in images:
        fingerprint = f"{entry.member.crc} {entry.member.size}"
        contents.images.append(_Image(entry.name, fingerprint, entry.member, labels.get(_key(entry.name))))
    contents.others = [entry.name for entry in visible if not is_image_file(entry.name)]
    return contents


def _list_tar(path: Path, cache_dir: Path) -> _Contents:
    status = path.stat()
    uncompressed, entries, broken_links, lock = list_tar(path, cache_dir)
    visible = [entry for entry in entries if not is_hidden(entry.name)]
    labels = _labels({entry.name: entry.label for entry in visible})
    contents = _Contents(str(uncompressed), stamp=f"{status.st_size} {status.st_mtime_ns}", lock=lock)
    for entry in visible:
        if is_image_file(entry.name):
            member, fingerprint = Member(0, entry.offset, entry.size), f"{entry.size} {entry.mtime}"
            contents.images.append(_Image(entry.name, fingerprint, member, labels.get(_key(entry.name))))
        else:
            contents.others.append(entry.name)
    contents.broken_links = [name for name in broken_links if is_image_file(name) and not is_hidden(name)]
    return contents


def _key(name: str) -> str:
    """The name up to the first period of its last part, by which webdataset joins the files of one sample."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".", 1)[0]


def _labels(contents: dict[str, bytes | None]) -> dict[str, str]:
    """The class of each key, from the contents of .cls files; what is no word and no number is left out."""
    labels = {}
    for name, data in contents.items():
        text = (data or b"").decode("utf-8", "replace").strip().replace("/", "_")
        if text.strip(".") and text.isprintable():
            labels[_key(name)] = text
    return labels


def _labeled_name(name: str, label: str) -> str:
    """The path from which layout takes the class: a folder with the label in place of the member's own folders."""
    first, slash, _ = name.partition("/")
    split = first + slash if slash and is_split_name(first) else ""
    return f"{split}{label}/{name.rpartition('/')[2]}"
