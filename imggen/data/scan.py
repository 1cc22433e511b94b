"""List the pictures of a folder, an archive or a well-known data set, without decoding them."""

from __future__ import annotations

import difflib
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from imggen.data.layout import arrange, is_hidden, is_image_file
from imggen.data.readers import FolderReader, ImageReader, Source, TarReader, ZipReader
from imggen.data.tars import TAR_SUFFIXES, list_tar
from imggen.errors import DataError, UsageError

TORCHVISION_SETS = ("mnist", "cifar10", "cifar100")
SPLIT_CHOICES = ("train", "test", "val", "all")

# What a lister gives: for each picture its name, a fingerprint of its contents, and where it lies.
Entry = tuple[str, str]


def digest(parts: Iterable[object]) -> str:
    """A hex hash of the parts, in order; unequal sequences never run together."""
    state = hashlib.sha256()
    for part in parts:
        state.update(str(part).encode("utf-8", "backslashreplace") + b"\0")
    return state.hexdigest()[:32]


def open_source(spec: str, *, split: str = "train", use_classes: bool = True, cache_dir: Path) -> Source:
    """List the pictures of `spec`: a folder, a .zip, a tar, `mnist`, `cifar10`, `cifar100` or `imagenet:PATH`.

    A path that exists wins over a name. Raises `DataError` when there is nothing to use.
    """
    if split not in SPLIT_CHOICES:
        raise UsageError(f"there is no split {split!r}", f"choose one of {', '.join(SPLIT_CHOICES)}")
    path = Path(spec).expanduser()
    try:
        if not path.exists():
            if spec.lower() in TORCHVISION_SETS:
                from imggen.data.torchvision_sets import open_torchvision_set

                return open_torchvision_set(spec.lower(), split, use_classes, cache_dir)
            if spec.lower().startswith("imagenet:"):
                return _open_imagenet(Path(spec[len("imagenet:") :]).expanduser(), split, use_classes)
            raise _missing(spec, path)
        if path.is_dir():
            return _open_folder(path, split, use_classes)
        name = path.name.lower()
        if name.endswith(".zip"):
            return _open_zip(path, split, use_classes)
        if name.endswith(TAR_SUFFIXES):
            return _open_tar(path, split, use_classes, cache_dir)
    except OSError as error:
        raise DataError(
            f"cannot read {spec}: {error.strerror or error}", "check the disk and its permissions"
        ) from error
    hint = "give the folder it lies in" if is_image_file(path.name) else "give a folder, a .zip or a .tar of pictures"
    raise DataError(f"{spec} is neither a folder nor an archive", hint)


def is_archive(path: Path) -> bool:
    """Whether a file's name says that it holds files."""
    return path.name.lower().endswith((".zip", *TAR_SUFFIXES))


def _missing(spec: str, path: Path) -> DataError:
    """The error for a path that is not there, with the nearest name that is."""
    siblings: list[str] = []
    if path.parent.is_dir():
        siblings = [p.name for p in path.parent.iterdir() if not p.name.startswith(".")]
    near = difflib.get_close_matches(path.name, siblings, n=1)
    if near:
        return DataError(f"there is no {spec}", f"did you mean {path.with_name(near[0])}?")
    near = difflib.get_close_matches(spec.lower(), TORCHVISION_SETS, n=1)
    if near:
        return DataError(f"there is no {spec}", f"did you mean {near[0]}?")
    return DataError(
        f"there is no {spec}",
        f"give a folder, a .zip or a .tar of pictures, or one of {', '.join(TORCHVISION_SETS)}, imagenet:PATH",
    )


def _assemble(
    path: Path,
    entries: list[Entry],
    ignored: int,
    choice: tuple[str, bool],
    make_reader: Callable[[list[int]], ImageReader],
    salt: object = "",
) -> Source:
    """Sort the entries, read splits and classes off their names, and make the source."""
    if not entries:
        raise DataError(
            f"there are no pictures in {path}",
            f"{ignored:,} other files are there; imggen reads png, jpeg, webp, gif, bmp and tiff"
            if ignored
            else "it is empty; imggen reads png, jpeg, webp, gif, bmp and tiff",
        )
    order = sorted(range(len(entries)), key=lambda i: entries[i])
    names = [entries[i][0] for i in order]
    layout = arrange(names, *choice, source=str(path))
    chosen = [order[i] for i in layout.chosen]
    marks = (f"{entries[i][0]}\0{entries[i][1]}\0{label}" for i, label in zip(chosen, layout.labels, strict=True))
    return Source(
        name=path.resolve().name,
        classes=layout.classes,
        names=[entries[i][0] for i in chosen],
        labels=np.asarray(layout.labels, dtype=np.int64),
        key=digest([path.resolve(), salt, *layout.classes, "", *marks]),
        ignored=ignored,
        reader=make_reader(chosen),
    )


def _walk(root: Path) -> Iterable[os.DirEntry[str]]:
    """Every file below `root`; linked folders are followed, each real folder is visited once.

    Links wait until all real folders are done, so that a file keeps its own path, not a link's.
    """
    seen: set[tuple[int, int]] = set()
    folders, links = [str(root)], list[str]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        run = (Path(folder) / "metrics.jsonl").exists() and (Path(folder) / "config.toml").exists()
        if run and folder != str(root):
            continue  # a run of our own: its previews are not data
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as found:
            for entry in sorted(found, key=lambda e: e.name):
                if is_hidden(entry.name) or (run and entry.name == "samples"):
                    continue
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(entry.path)
                elif entry.is_file():
                    yield entry


def _open_folder(path: Path, split: str, use_classes: bool) -> Source:
    entries: list[Entry] = []
    ignored = 0
    for entry in _walk(path):
        if not is_image_file(entry.name):
            ignored += 1
            continue
        status = entry.stat()
        name = Path(entry.path).relative_to(path).as_posix()
        entries.append((name, f"{status.st_size} {status.st_mtime_ns}"))
    return _assemble(
        path,
        entries,
        ignored,
        (split, use_classes),
        lambda chosen: FolderReader(str(path.resolve()), [entries[i][0] for i in chosen]),
    )


def _open_zip(path: Path, split: str, use_classes: bool) -> Source:
    entries: list[Entry] = []
    members: list[str] = []
    ignored = 0
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DataError(
            f"{path} is not a usable zip: {error}", "it may be cut short; fetch or make it again"
        ) from error
    for info in infos:
        name = info.filename.replace("\\", "/").lstrip("/")
        if info.is_dir() or is_hidden(name):
            continue
        if not is_image_file(name):
            ignored += 1
            continue
        if info.flag_bits & 1:
            raise DataError(f"{path} is encrypted", "unpack it with its password and give the folder")
        entries.append((name, f"{info.CRC} {info.file_size}"))
        members.append(info.filename)
    return _assemble(
        path,
        entries,
        ignored,
        (split, use_classes),
        lambda chosen: ZipReader(str(path.resolve()), [members[i] for i in chosen]),
    )


def _open_tar(path: Path, split: str, use_classes: bool, cache_dir: Path) -> Source:
    plain, members = list_tar(path, cache_dir)
    entries: list[Entry] = []
    spans: list[tuple[int, int]] = []
    ignored = 0
    for member in members:
        if is_hidden(member.name):
            continue
        if not is_image_file(member.name):
            ignored += 1
            continue
        entries.append((member.name, f"{member.size} {member.mtime}"))
        spans.append((member.offset, member.size))
    status = path.stat()
    return _assemble(
        path,
        entries,
        ignored,
        (split, use_classes),
        lambda chosen: TarReader(str(plain), [spans[i] for i in chosen]),
        salt=(status.st_size, status.st_mtime_ns),
    )


def _open_imagenet(path: Path, split: str, use_classes: bool) -> Source:
    """ImageNet as torchvision unpacks it: folders train and val, and in them one folder per class.

    It is read as any other folder: torchvision itself would unpack archives into the user's folder.
    """
    if not path.is_dir():
        raise DataError(f"there is no folder {path}", "give the folder of ImageNet that holds train and val")
    if not (path / "train").is_dir():
        raise DataError(f"{path} holds no folder train", "unpack ILSVRC2012_img_train.tar into folders train/<class>")
    return _open_folder(path, "val" if split == "test" else split, use_classes)
