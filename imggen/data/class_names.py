"""The names of the classes of masks: of an option, or of a file beside the masks."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path, PurePosixPath

from imggen.data.cache_dir import expand_user
from imggen.data.readers import expand_zip_member
from imggen.data.shards import archive_kind
from imggen.data.tars import list_tar
from imggen.data.zips import list_zip

CLASSES_FILE, MAX_CLASSES_BYTES = "classes.txt", 1 << 16


def read_names(given: str) -> list[str]:
    """The names of an option: in the file of that path, a name a line, or separated by commas."""
    path = expand_user(given)
    return _lines(_read(path)) if path.is_file() else [name.strip() for name in given.split(",")]


def names_beside_masks(spec: str, cache_dir: Path) -> list[str] | None:
    """The names in classes.txt of the masks' folder, zip or tar; None if there is none, or it cannot be read.

    Of several files called so, the one in the fewest folders counts.
    """
    path = expand_user(spec)
    with suppress(Exception):  # damaged archives raise nearly anything
        if path.is_dir():
            found = sorted(
                [*path.glob(CLASSES_FILE), *path.glob(f"*/{CLASSES_FILE}")], key=lambda each: len(each.parts)
            )
            return _lines(_read(found[0])) if found else None
        if kind := archive_kind(path):
            return _in_zip(path) if kind == "zip" else _in_tar(path, cache_dir)
    return None


def _in_zip(path: Path) -> list[str] | None:
    members = {entry.name: entry.member for entry in list_zip(path)[0] if not entry.is_encrypted}
    name = _shallowest(list(members))
    if name is None:
        return None
    with path.open("rb") as file:
        return _lines(expand_zip_member(file, members[name]).read(MAX_CLASSES_BYTES))


def _in_tar(path: Path, cache_dir: Path) -> list[str] | None:
    listing = list_tar(path, cache_dir)
    entries = {entry.name: entry for entry in listing.entries}
    name = _shallowest(list(entries))
    if name is None:
        return None
    with listing.path.open("rb") as file:
        file.seek(entries[name].offset)
        return _lines(file.read(min(entries[name].size, MAX_CLASSES_BYTES)))


def _shallowest(names: list[str]) -> str | None:
    """The name of the classes' file that lies in the fewest folders."""
    found = [name for name in names if PurePosixPath(name).name == CLASSES_FILE]
    return min(found, key=lambda name: (name.count("/"), name), default=None)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_CLASSES_BYTES)


def _lines(data: bytes) -> list[str]:
    """A name a line; "3 eyes" and "3: eyes" are the name of class 3 where every line begins with its number."""
    lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
    parts = [line.replace(":", " ").split(None, 1) for line in lines]
    if parts and all(len(part) == 2 and part[0] == str(number) for number, part in enumerate(parts)):
        return [part[1] for part in parts]
    return lines
