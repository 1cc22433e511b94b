"""List the images of a folder, of archives or of a named data set, without decoding them."""

from __future__ import annotations

import gc
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from imggen.data.cache_dir import default_cache_dir, expand_user
from imggen.data.decode import refuse_pipe
from imggen.data.files import list_folder, no_images
from imggen.data.layout import arrange, is_image_file
from imggen.data.left_out import LeftOut
from imggen.data.readers import ArchiveReader, FolderReader, ImageReader, Origin, Source
from imggen.data.shards import archive_kind, expand_braces, is_archive, list_archives
from imggen.errors import DataError, UsageError, nearest
from imggen.reporting import Reporter

TORCHVISION_SETS = ("mnist", "cifar10", "cifar100")
SPLIT_CHOICES = ("train", "test", "val", "all")
Listing = TypeVar("Listing")

_kept_listings: ContextVar[dict[Any, Any] | None] = ContextVar("kept_listings", default=None)


class _Names(NamedTuple):
    """The images of a source: their names, paths that say split and class, fingerprints of the contents."""

    names: list[str]
    folders: list[str]
    fingerprints: list[str]


def digest(parts: Iterable[object]) -> str:
    """A hash of the parts in order, 32 hexadecimal digits; the parts are separated, so that no two lists collide."""
    text = "".join([f"{part}\0" for part in parts])
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]


@contextmanager
def keeping_listings() -> Iterator[None]:
    """In this block folders and archives are listed once, for all their splits; later changes are not seen."""
    token = _kept_listings.set({})
    try:
        yield
    finally:
        _kept_listings.reset(token)


def _listed(list_files: Callable[..., Listing], *given: Any) -> Listing:
    """What `list_files` returns, kept within `keeping_listings`."""
    kept, call = _kept_listings.get(), (list_files, *given)
    if kept is None:
        return list_files(*given)
    if call not in kept:
        kept[call] = list_files(*given)
    listing: Listing = kept[call]
    return listing


def open_source(
    spec: str,
    *,
    split: str = "train",
    use_classes: bool = True,
    cache_dir: Path,
    exclude: Sequence[Path] = (),
) -> Source:
    """List the images of `spec`: a folder, a .zip or tar, several as in `{00..99}.tar`, `mnist` … or `imagenet:PATH`.

    A path that exists takes precedence over a name. A folder that holds archives in place of images is read as one
    data set. Of a folder, what lies in or at a path of `exclude` is left out. Raises DataError if there are no images,
    UsageError for an unknown split and for a pipe.
    """
    if split not in SPLIT_CHOICES:
        raise UsageError(f"there is no split {split!r}", f"choose one of {', '.join(SPLIT_CHOICES)}")
    path = expand_user(spec)
    refuse_pipe(path)
    try:
        with _without_garbage_collection():
            if not path.exists():
                return _open_named(spec, path, split, use_classes, cache_dir, exclude)
            if path.is_dir():
                return _open_folder(path, split, use_classes, cache_dir, exclude)
            if is_archive(path):
                return _open_archives(path, [path], None, split, use_classes, cache_dir)
    except OSError as error:
        raise DataError(
            f"cannot read {spec}: {error.strerror or error}", "check the disk and its permissions"
        ) from error
    hint = (
        "give the folder that contains it" if is_image_file(path.name) else "give a folder, a .zip or a .tar of images"
    )
    raise DataError(f"{spec} is neither a folder nor an archive", hint)


def refuse_own_targets(targets: str, images: Path) -> None:
    """Raise UsageError where the targets of `images` are these images themselves."""
    if expand_user(targets).resolve() == images.resolve():
        raise UsageError(f"the images in {targets} would be their own targets", "give another folder")


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Let the block make many small objects, none of which are in cycles, without Python looking for cycles.

    It would look through all of torch's objects too, again and again: a third of the time of listing 100,000 files.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def open_images(spec: str, reporter: Reporter, *, exclude: Sequence[Path] = ()) -> Source:
    """All images of a data set, without classes, or a single image file as a source of one.

    Raises what `open_source` raises.
    """
    path = expand_user(spec)
    if path.is_file() and not is_archive(path):
        status = path.stat()
        fingerprint = f"{status.st_size} {status.st_mtime_ns}"
        reader = FolderReader(str(path.parent), [path.name])
        key = digest([path.resolve(), fingerprint])
        labels = np.zeros(1, np.int64)
        return Source(path.name, (), [path.name], labels, key, 0, reader, fingerprints=[fingerprint])
    source = open_source(spec, split="all", use_classes=False, cache_dir=default_cache_dir(), exclude=exclude)
    source.report(reporter)
    return source


def is_set_of_archives(spec: str) -> bool:
    """Whether `spec` is an archive, or several of them in braces, by the endings of their names."""
    path = expand_user(spec)
    return archive_kind(path) is not None and (path.exists() or len(expand_braces(spec)) > 1)


def _open_named(
    spec: str, path: Path, split: str, use_classes: bool, cache_dir: Path, exclude: Sequence[Path]
) -> Source:
    """Archives named in braces, or a data set given by its name. Raises DataError, with a near name, for neither."""
    archives = [expand_user(name) for name in expand_braces(spec)]
    if len(archives) > 1:
        missing = [archive for archive in archives if not archive.is_file()]
        if missing:
            raise DataError(f"there is no {missing[0]}", f"{len(missing):,} of {len(archives):,} archives are missing")
        if other := next((archive for archive in archives if not is_archive(archive)), None):
            raise DataError(f"{other} is not an archive", "braces name several .zip or .tar files")
        root = expand_user(spec.partition("{")[0] + "x").parent
        return _open_archives(path, archives, root, split, use_classes, cache_dir)
    if spec.lower() in TORCHVISION_SETS:
        from imggen.data.torchvision_sets import open_torchvision_set

        return open_torchvision_set(spec.lower(), split, use_classes, cache_dir)
    if spec.lower().startswith("imagenet:"):
        return _open_imagenet(expand_user(spec[len("imagenet:") :]), split, use_classes, cache_dir, exclude)
    raise _missing(spec, path)


def _missing(spec: str, path: Path) -> DataError:
    """The error for a path that does not exist, with the nearest name that does."""
    siblings: list[str] = []
    if path.parent.is_dir():
        siblings = [p.name for p in path.parent.iterdir() if not p.name.startswith(".")]
    if near := nearest(path.name, siblings):
        return DataError(f"there is no {spec}", f"did you mean {path.with_name(near)}?")
    if near := nearest(spec.lower(), TORCHVISION_SETS):
        return DataError(f"there is no {spec}", f"did you mean {near}?")
    return DataError(
        f"there is no {spec}",
        f"give a folder, a .zip or a .tar of images, {', '.join(TORCHVISION_SETS)}, or imagenet:PATH",
    )


def _make_source(
    path: Path,
    listed: _Names,
    left_out: LeftOut,
    split: str,
    use_classes: bool,
    make_reader: Callable[[list[int]], ImageReader],
    *,
    salt: Sequence[str] = (),
) -> Source:
    """Sort the images by name, derive split and classes from their folders, and make the source.

    The key is a hash of the path, `salt`, and the name, fingerprint and label of every image. `make_reader` takes the
    chosen images as indices into `listed`.
    """
    if not listed.names:
        raise no_images(path, left_out)
    entries = list(zip(listed.names, listed.fingerprints, strict=True))
    order = sorted(range(len(entries)), key=entries.__getitem__)
    layout = arrange([listed.folders[i] for i in order], split, use_classes, source=str(path))
    chosen = [order[i] for i in layout.chosen]
    identities = (
        f"{name}\0{mark}\0{label}"
        for (name, mark), label in zip(map(entries.__getitem__, chosen), layout.labels, strict=True)
    )
    name = path.resolve().name
    return Source(
        name=name,
        classes=layout.classes,
        names=[listed.names[i] for i in chosen],
        labels=np.asarray(layout.labels, dtype=np.int64),
        key=digest([path.resolve(), salt, *layout.classes, "", *identities]),
        ignored=left_out.total,
        reader=make_reader(chosen),
        origin=Origin(str(path.resolve()), split, use_classes),
        # The members of a tar often have all the same time: their size and time do not tell whether they have changed.
        fingerprints=[] if any(salt) else [listed.fingerprints[i] for i in chosen],
        warnings=(*left_out.warnings(name), *layout.warnings),
        notes=tuple(left_out.notes(name)),
    )


def _open_folder(path: Path, split: str, use_classes: bool, cache_dir: Path, exclude: Sequence[Path]) -> Source:
    listing = _listed(list_folder, path, tuple(exclude))
    archives = [path / name for name in listing.others if is_archive(Path(name))]
    if archives and not listing.images:
        beside = replace(listing.left_out, endings=Counter())
        for name in listing.others:
            if not is_archive(Path(name)):
                beside.add(name)
        return _open_archives(path, sorted(archives), path, split, use_classes, cache_dir, beside)
    names = [file.name for file in listing.images]
    fingerprints = [f"{file.size} {file.mtime_ns}" for file in listing.images]
    root = str(path.resolve())

    def make_reader(chosen: list[int]) -> FolderReader:
        return FolderReader(root, [names[i] for i in chosen])

    return _make_source(path, _Names(names, names, fingerprints), listing.left_out, split, use_classes, make_reader)


def _open_archives(
    path: Path,
    archives: Sequence[Path],
    root: Path | None,
    split: str,
    use_classes: bool,
    cache_dir: Path,
    beside: LeftOut | None = None,
) -> Source:
    """One archive, or several below `root` as one data set; `beside` are the files there that are left out."""
    listing = _listed(list_archives, tuple(archives), cache_dir, root)
    left_out = listing.left_out if beside is None else listing.left_out.with_other(beside)

    def make_reader(chosen: list[int]) -> ArchiveReader:
        return ArchiveReader(listing.paths, [listing.members[i] for i in chosen])

    source = _make_source(
        path,
        _Names(listing.names, listing.folders, listing.fingerprints),
        left_out,
        split,
        use_classes,
        make_reader,
        salt=tuple(listing.stamp),
    )
    source.locks = tuple(listing.locks)
    several = () if root is None else (f"{source.name}: {len(archives):,} archives are read as one data set",)
    source.warnings = (*listing.warnings, *source.warnings)
    source.notes = (*several, *listing.notes, *source.notes)
    return source


def _open_imagenet(path: Path, split: str, use_classes: bool, cache_dir: Path, exclude: Sequence[Path]) -> Source:
    """ImageNet as torchvision unpacks it: the folders train and val, and in them one folder per class.

    It is read like any other folder, because torchvision would unpack archives into the user's folder.
    """
    if not path.is_dir():
        raise DataError(f"there is no folder {path}", "give the folder of ImageNet that contains train and val")
    if not (path / "train").is_dir():
        raise DataError(
            f"{path} contains no folder train", "unpack ILSVRC2012_img_train.tar into folders train/<class>"
        )
    return _open_folder(path, "val" if split == "test" else split, use_classes, cache_dir, exclude)
