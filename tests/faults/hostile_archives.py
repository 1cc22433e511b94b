"""Damaged archives, and folders of hostile names: listed, and every image read, as `train` does before it trains."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from PIL import Image

from imggen.cli.console import escaped
from imggen.data.decode import UnreadableError, load_image
from imggen.data.readers import Source
from imggen.data.scan import open_source
from imggen.errors import DataError
from imggen.reporting import Silent
from tests.faults.hostile import Target

BLOCK = 512
GZIP = b"\x1f\x8b"
LINK_TARGETS = {b"l": "", b"d": "nowhere", b"u": ".."}
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
NAMES = ("a/1.png", "/b/é.png", "../x.png", "c/3.cls", "c/3.png")
FILE_NAMES = (
    b"f a/1.png\0f \xff\xfe.png\0f \x1b[2J.png\0f n\new.png\0l loop.png\0d dangling.png\0p pipe.png\0u up",
    "f train/é.png\0f train/é.png\0f test/x.heic\0l a.png\0f a.png/b.png\0u s/t\0f .hidden/x.png".encode(),
    b"f " + b"x" * 250 + b".png\0f a\\b.png\0f -o.png\0f %d.png\0f {0..9}.png\0f c.tar",
)


@lru_cache(1)
def _folder() -> Path:
    """A folder for the inputs of this process."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="imggen-hostile-", dir=memory if os.access(memory, os.W_OK) else None))


def _png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (2, 2), level).save(file, "PNG")
    return file.getvalue()


IMAGE = _png(1)


def _contents(name: str, index: int) -> bytes:
    return b"7" if name.endswith(".cls") else _png(index)


def _zips() -> list[bytes]:
    seeds = []
    for method in METHODS:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for index, name in enumerate(NAMES):
                archive.writestr(zipfile.ZipInfo(name), _contents(name, index), method)
        seeds.append(file.getvalue())
    return seeds


def _tar(format: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for index, name in enumerate((*NAMES, "long/" * 30 + "4.png")):
            info, data = tarfile.TarInfo(name), _contents(name, index)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for kind, name, target in ((tarfile.LNKTYPE, "h.png", "a/1.png"), (tarfile.SYMTYPE, "s.png", "../../etc")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return file.getvalue().rstrip(b"\0") + bytes(3 * BLOCK)  # without most of the zeros at the end


def _tars() -> list[bytes]:
    return [_tar(format) for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]


def repair_tar(data: bytes) -> bytes:
    """A tar whose headers have right checksums as far as their sizes lead from one to the next."""
    repaired, at = bytearray(data), len(data) if data.startswith(GZIP) else 0
    while at + BLOCK <= len(repaired) and any(repaired[at : at + BLOCK]):
        repaired[at + 148 : at + 156] = b" " * 8
        repaired[at + 148 : at + 156] = b"%06o\0 " % (sum(repaired[at : at + BLOCK]) % 8**6)
        try:
            size = int(bytes(repaired[at + 124 : at + 136]).strip(b" \0") or b"0", 8)
        except ValueError:
            break
        at += BLOCK + max(0, -(-size // BLOCK)) * BLOCK
    return bytes(repaired)


class CheckingReporter(Silent):
    """Checks every line that the user would see."""

    def info(self, message: str) -> None:
        _check_message(message)

    def warn(self, message: str) -> None:
        _check_message(message)


def _read_all(path: Path) -> bool:
    """List a source, read every image, and check what a user would see; False if it was refused or holds no image."""
    cache = _folder() / "cache"
    try:
        source = open_source(str(path), cache_dir=cache)
        source.report(CheckingReporter())
        for name in source.classes:
            _check_message(name)
        json.dumps([source.names, source.classes])
        return _count_readable(source) > 0
    except DataError as error:
        _check_message(error.message)
        _check_message(error.hint or "")
        return False
    finally:
        for file in (cache / "archives").glob("*"):
            file.unlink()
            assert file.suffix in (".tar", ".json"), f"{file.name} was left"


def _count_readable(source: Source) -> int:
    count = 0
    for index in range(len(source)):
        with suppress(UnreadableError):
            load_image(source, index)
            count += 1
    return count


def _check_message(line: str) -> None:
    assert escaped(line).isprintable()
    escaped(line).encode()


def _run_archive(ending: str) -> Callable[[bytes], bool]:
    def run(data: bytes) -> bool:
        path = _folder() / f"x{ending}"
        path.write_bytes(data)
        return _read_all(path)

    return run


def _run_tgz(data: bytes) -> bool:
    """Read a damaged .tgz, or a damaged tar that was compressed afterwards."""
    return _run_archive(".tgz")(data if data.startswith(GZIP) else gzip.compress(data, 1))


def _make_file(root: bytes, item: bytes) -> None:
    """A link to itself, a link to nothing, a link upwards, a pipe, or an image, with the name in `item`."""
    kind, parts = item[:1], [part for part in item[2:].split(b"/") if part not in (b"", b".", b"..")]
    if not parts:
        return
    path = Path(os.fsdecode(b"/".join((root, *parts))))
    with suppress(OSError, ValueError):  # the name is too long, is there already, or holds a NUL
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == b"p":
            os.mkfifo(path)
        elif kind in LINK_TARGETS:
            path.symlink_to(LINK_TARGETS[kind] or path.name)
        else:
            with path.open("xb") as file:
                file.write(IMAGE)


def _run_names(data: bytes) -> bool:
    """Make the files, links and pipes that the data names, and read the folder."""
    root = _folder() / "names"
    root.mkdir()
    for item in data.split(b"\0")[:40]:
        _make_file(os.fsencode(root), item)
    try:
        return _read_all(root)
    finally:
        shutil.rmtree(root)


TARGETS = {
    "zip": Target(_zips, _run_archive(".zip")),
    "tar": Target(_tars, _run_archive(".tar"), repair_tar),
    "tgz": Target(lambda: [*_tars(), *(gzip.compress(tar) for tar in _tars())], _run_tgz, repair_tar),
    "names": Target(lambda: list(FILE_NAMES), _run_names),
}
