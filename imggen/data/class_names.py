"""The names of the classes of masks: of an option, or of a file beside the masks."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path, PurePosixPath

from imggen.data.cache_dir import expand_user
from imggen.data.decode import refuse_pipe
from imggen.data.readers import expand_zip_member
from imggen.data.shards import archive_kind
from imggen.data.tars import list_tar
from imggen.data.zips import list_zip
from imggen.errors import DataError, UsageError

NAMES_HINT = "names of classes are separated by commas, or in a file, a name a line"
CLASSES_FILE, MAX_CLASSES_BYTES = "classes.txt", 1 << 17


def read_names(given: str) -> list[str]:
    """The names of an option: in the file of that path, a name a line, or separated by commas.

    Raises DataError for a file that is missing or cannot be read, UsageError for a folder and a pipe.
    """
    path = expand_user(given)
    if path.is_file():
        try:
            return _lines(_read(path), given)
        except OSError as error:
            raise DataError(f"{given} cannot be read: {error.strerror}", NAMES_HINT) from error
    refuse_pipe(path)
    if path.is_dir():
        raise UsageError(f"{given} is a folder", NAMES_HINT)
    if path.suffix and "," not in given:
        raise DataError(f"there is no file {given}", NAMES_HINT)
    return [name.strip() for name in given.split(",")]


def names_beside_masks(spec: str, cache_dir: Path) -> list[str] | None:
    """The names in classes.txt of the masks' folder, zip or tar; None if there is none, or it cannot be read.

    Of several files called so, the one in the fewest folders counts. Raises DataError for one that is not UTF-8.
    """
    path, data = expand_user(spec), None
    with suppress(Exception):  # damaged archives raise nearly anything
        if path.is_dir():
            found = [*path.glob(CLASSES_FILE), *path.glob(f"*/{CLASSES_FILE}")]
            files = sorted((each for each in found if each.is_file()), key=lambda each: len(each.parts))
            data = _read(files[0]) if files else None
        elif kind := archive_kind(path):
            data = _in_zip(path) if kind == "zip" else _in_tar(path, cache_dir)
    return None if data is None else _lines(data, f"{CLASSES_FILE} of {spec}")


def _in_zip(path: Path) -> bytes | None:
    members = {entry.name: entry.member for entry in list_zip(path)[0] if not entry.is_encrypted}
    name = _shallowest(list(members))
    if name is None:
        return None
    with path.open("rb") as file:
        return expand_zip_member(file, members[name]).read(MAX_CLASSES_BYTES + 1)


def _in_tar(path: Path, cache_dir: Path) -> bytes | None:
    listing = list_tar(path, cache_dir)
    entries = {entry.name: entry for entry in listing.entries}
    name = _shallowest(list(entries))
    if name is None:
        return None
    with listing.path.open("rb") as file:
        file.seek(entries[name].offset)
        return file.read(min(entries[name].size, MAX_CLASSES_BYTES + 1))


def _shallowest(names: list[str]) -> str | None:
    """The name of the classes' file that lies in the fewest folders."""
    found = [name for name in names if PurePosixPath(name).name == CLASSES_FILE]
    return min(found, key=lambda name: (name.count("/"), name), default=None)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_CLASSES_BYTES + 1)


def _lines(data: bytes, file: str) -> list[str]:
    """A name a line; "3 eyes" and "3: eyes" are the name of class 3 where every line begins with its number.

    Raises DataError for what is too long, or is not UTF-8, with or without a byte order mark.
    """
    if len(data) > MAX_CLASSES_BYTES:
        raise DataError(f"{file} is longer than {MAX_CLASSES_BYTES:,} bytes", NAMES_HINT)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8", "save it in this encoding") from error
    if "\0" in text:
        raise DataError(f"{file} is not UTF-8: it has NUL characters", "save it in this encoding")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    parts = [line.replace(":", " ").split(None, 1) for line in lines]
    if parts and all(len(part) == 2 and part[0] == str(number) for number, part in enumerate(parts)):
        return [part[1] for part in parts]
    return lines
