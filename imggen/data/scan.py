"""List the images of a folder, an archive or a named data set, without decoding them."""

from __future__ import annotations

import difflib
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np

from imggen.data.cache_dir import expand_user
from imggen.data.layout import arrange, is_hidden, is_image_file
from imggen.data.readers import FolderReader, ImageReader, Origin, Source, TarReader, ZipReader
from imggen.data.tars import TAR_SUFFIXES, list_tar
from imggen.errors import DataError, UsageError
from imggen.io.locks import share

TORCHVISION_SETS = ("mnist", "cifar10", "cifar100")
SPLIT_CHOICES = ("train", "test", "val", "all")
# A folder with both files is the folder of a training run of imggen, whose previews must not become training data.
TRAINING_RUN_FILES = ("metrics.jsonl", "config.toml")
TRAINING_RUN_PREVIEWS = "samples"

Position = TypeVar("Position")


@dataclass
class _Listing(Generic[Position]):
    """The image files of a folder or an archive: name, fingerprint of the contents, and position for the reader.

    `ignored` counts the other files.
    """

    names: list[str] = field(default_factory=list)
    fingerprints: list[str] = field(default_factory=list)
    positions: list[Position] = field(default_factory=list)
    ignored: int = 0

    def add(self, name: str, fingerprint: str, position: Position) -> None:
        """Add one image."""
        self.names.append(name)
        self.fingerprints.append(fingerprint)
        self.positions.append(position)


def digest(parts: Iterable[object]) -> str:
    """A hash of the parts in order, 32 hexadecimal digits; the parts are separated, so that no two lists collide."""
    state = hashlib.sha256()
    for part in parts:
        state.update(str(part).encode("utf-8", "backslashreplace") + b"\0")
    return state.hexdigest()[:32]


def open_source(spec: str, *, split: str = "train", use_classes: bool = True, cache_dir: Path) -> Source:
    """List the images of `spec`: a folder, a .zip, a tar, `mnist`, `cifar10`, `cifar100` or `imagenet:PATH`.

    A path that exists takes precedence over a name. Raises DataError if there are no images, UsageError for an
    unknown split.
    """
    if split not in SPLIT_CHOICES:
        raise UsageError(f"there is no split {split!r}", f"choose one of {', '.join(SPLIT_CHOICES)}")
    path = expand_user(spec)
    try:
        if not path.exists():
            return _open_named(spec, path, split, use_classes, cache_dir)
        if path.is_dir():
            return _open_folder(path, split, use_classes)
        kind = archive_kind(path)
        if kind == "zip":
            return _open_zip(path, split, use_classes)
        if kind == "tar":
            return _open_tar(path, split, use_classes, cache_dir)
    except OSError as error:
        raise DataError(
            f"cannot read {spec}: {error.strerror or error}", "check the disk and its permissions"
        ) from error
    hint = (
        "give the folder that contains it" if is_image_file(path.name) else "give a folder, a .zip or a .tar of images"
    )
    raise DataError(f"{spec} is neither a folder nor an archive", hint)


def archive_kind(path: Path) -> Literal["zip", "tar"] | None:
    """The kind of archive, by the file name's ending."""
    name = path.name.lower()
    if name.endswith(".zip"):
        return "zip"
    return "tar" if name.endswith(TAR_SUFFIXES) else None


def is_archive(path: Path) -> bool:
    """Whether the file name's ending is that of a .zip or a tar."""
    return archive_kind(path) is not None


def _open_named(spec: str, path: Path, split: str, use_classes: bool, cache_dir: Path) -> Source:
    """A data set given by its name. Raises DataError, with the nearest name, if there is none such."""
    if spec.lower() in TORCHVISION_SETS:
        from imggen.data.torchvision_sets import open_torchvision_set

        return open_torchvision_set(spec.lower(), split, use_classes, cache_dir)
    if spec.lower().startswith("imagenet:"):
        return _open_imagenet(expand_user(spec[len("imagenet:") :]), split, use_classes)
    raise _missing(spec, path)


def _missing(spec: str, path: Path) -> DataError:
    """The error for a path that does not exist, with the nearest name that does."""
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
        f"give a folder, a .zip or a .tar of images, {', '.join(TORCHVISION_SETS)}, or imagenet:PATH",
    )


def _make_source(
    path: Path,
    listing: _Listing[Position],
    split: str,
    use_classes: bool,
    make_reader: Callable[[list[Position]], ImageReader],
    *,
    salt: object = "",
) -> Source:
    """Sort the images by name, derive split and classes from the names, and make the source.

    The key is a hash of the path, `salt`, and the name, fingerprint and label of every image.
    """
    if not listing.names:
        formats = "imggen reads png, jpeg, webp, gif, bmp and tiff"
        contents = f"{listing.ignored:,} other files are there" if listing.ignored else "it is empty"
        raise DataError(f"there are no images in {path}", f"{contents}; {formats}")
    entries = list(zip(listing.names, listing.fingerprints, strict=True))
    order = sorted(range(len(entries)), key=lambda i: entries[i])
    layout = arrange([listing.names[i] for i in order], split, use_classes, source=str(path))
    chosen = [order[i] for i in layout.chosen]
    identities = ("\0".join((*entries[i], str(label))) for i, label in zip(chosen, layout.labels, strict=True))
    return Source(
        name=path.resolve().name,
        classes=layout.classes,
        names=[listing.names[i] for i in chosen],
        labels=np.asarray(layout.labels, dtype=np.int64),
        key=digest([path.resolve(), salt, *layout.classes, "", *identities]),
        ignored=listing.ignored,
        reader=make_reader([listing.positions[i] for i in chosen]),
        origin=Origin(str(path.resolve()), split, use_classes),
        # The members of a tar often have all the same time: their size and time do not tell whether they have changed.
        fingerprints=[] if salt else [listing.fingerprints[i] for i in chosen],
    )


def _is_training_run(folder: str) -> bool:
    return all((Path(folder) / name).exists() for name in TRAINING_RUN_FILES)


def _files_below(root: Path) -> Iterator[os.DirEntry[str]]:
    """Every file below `root`; symlinked folders are followed, and each real folder is visited once.

    Symlinks come after all real folders, so that a file is listed by its own path and not by a link's. Folders of
    training runs are left out; if `root` is one itself, only its previews are.
    """
    visited: set[tuple[int, int]] = set()
    folders, links = [str(root)], list[str]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        is_run = _is_training_run(folder)
        if is_run and folder != str(root):
            continue
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if is_hidden(entry.name) or (is_run and entry.name == TRAINING_RUN_PREVIEWS):
                    continue
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(entry.path)
                elif entry.is_file():
                    yield entry


def _open_folder(path: Path, split: str, use_classes: bool) -> Source:
    listing = _Listing[str]()
    for entry in _files_below(path):
        if not is_image_file(entry.name):
            listing.ignored += 1
            continue
        status = entry.stat()
        name = Path(entry.path).relative_to(path).as_posix()
        listing.add(name, f"{status.st_size} {status.st_mtime_ns}", name)
    root = str(path.resolve())
    return _make_source(path, listing, split, use_classes, lambda names: FolderReader(root, names))


def _open_zip(path: Path, split: str, use_classes: bool) -> Source:
    listing = _Listing[str]()
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DataError(
            f"{path} is not a usable zip: {error}", "it may be incomplete: download or create it again"
        ) from error
    for info in infos:
        name = info.filename.replace("\\", "/").lstrip("/")
        if info.is_dir() or is_hidden(name):
            continue
        if not is_image_file(name):
            listing.ignored += 1
            continue
        if info.flag_bits & 1:
            raise DataError(f"{path} is encrypted", "unpack it with its password and give the folder")
        listing.add(name, f"{info.CRC} {info.file_size}", info.filename)
    archive_path = str(path.resolve())
    return _make_source(path, listing, split, use_classes, lambda members: ZipReader(archive_path, members))


def _open_tar(path: Path, split: str, use_classes: bool, cache_dir: Path) -> Source:
    uncompressed, members = list_tar(path, cache_dir)
    listing = _Listing[tuple[int, int]]()
    for member in members:
        if is_hidden(member.name):
            continue
        if not is_image_file(member.name):
            listing.ignored += 1
            continue
        listing.add(member.name, f"{member.size} {member.mtime}", (member.offset, member.size))
    status = path.stat()
    salt = (status.st_size, status.st_mtime_ns)
    source = _make_source(
        path, listing, split, use_classes, lambda spans: TarReader(str(uncompressed), spans), salt=salt
    )
    # Nobody removes the unpacked copy from the cache while this source exists.
    source.lock = None if uncompressed == path.resolve() else share(uncompressed)
    return source


def _open_imagenet(path: Path, split: str, use_classes: bool) -> Source:
    """ImageNet as torchvision unpacks it: the folders train and val, and in them one folder per class.

    It is read like any other folder, because torchvision would unpack archives into the user's folder.
    """
    if not path.is_dir():
        raise DataError(f"there is no folder {path}", "give the folder of ImageNet that contains train and val")
    if not (path / "train").is_dir():
        raise DataError(
            f"{path} contains no folder train", "unpack ILSVRC2012_img_train.tar into folders train/<class>"
        )
    return _open_folder(path, "val" if split == "test" else split, use_classes)
