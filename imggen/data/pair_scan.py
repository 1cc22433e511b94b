"""Find the target of each image of a source: a mask, or another image, by its name; and survey the targets."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from imggen.data.class_names import names_beside_masks, read_names
from imggen.data.decode import (
    PIXEL_BUDGET,
    UnreadableError,
    decode_or_explain,
    image_size,
    read_source,
)
from imggen.data.masks import (
    MaskStatistics,
    MaskTable,
    Shares,
    make_table,
    open_mask,
    palette_conflict,
    statistics_of,
)
from imggen.data.pairs import PairReader, check_size
from imggen.data.readers import ArchiveReader, ArrayReader, FolderReader, Origin, Source
from imggen.data.scan import digest, open_source, refuse_own_targets
from imggen.data.survey import SURVEY_THREADS, Survey, survey_source
from imggen.errors import DataError, UsageError
from imggen.reporting import Reporter

MAX_NAMED = 3  # files in a message
MAX_SHOWN_CLASSES = 30
MANY_GRAY_CLASSES = 32
T = TypeVar("T")


@dataclass(frozen=True)
class TargetOptions:
    """Where the targets of images are, a source as in `open_source`, and how they are read.

    With `masks` they are masks, else images of `channels` (None: chosen to suit them), which without `matched` belong
    to no image. `table` is that of a model, None to make one of the masks by `void`, `lossy` and `names` (names of
    classes, or a file of them).
    """

    spec: str
    masks: bool
    channels: int | None = None
    table: MaskTable | None = None
    void: str = "auto"
    lossy: bool = False
    resize: bool = False
    names: str | None = None
    matched: bool = True


@dataclass(frozen=True)
class Targets:
    """What the targets of a data set have in common: `channels`, the table of masks, and the survey of images."""

    channels: int
    table: MaskTable | None = None
    survey: Survey | None = None
    shares: Shares | None = field(default=None, compare=False)


def pair_sources(
    source: Source, options: TargetOptions, cache_dir: Any, exclude: Sequence[Path], reporter: Reporter
) -> tuple[Source, Targets]:
    """The images of `source` that have a target, with it, and what the targets have in common.

    What lies at a path of `exclude`, which is left out of `source`, is no target either. Raises UsageError, and
    DataError if no names match, or a target cannot be read or is of another size.
    """
    spec = options.spec
    if source.origin.path:
        refuse_own_targets(spec, Path(source.origin.path))
    split = "all" if options.matched else source.origin.split
    around = (*exclude, Path(source.origin.path)) if source.origin.path else exclude
    targets = open_source(spec, split=split, use_classes=False, cache_dir=cache_dir, exclude=around)
    if not options.matched:
        targets.report(reporter)
        count = max(len(source), len(targets))
        rows, partners = ([row % len(each) for row in range(count)] for each in (source, targets))
        return _joined(source, targets, rows, partners, _survey_images(targets, options), options)
    rows, partners = match_names(source.names, targets.names)
    noun = "mask" if options.masks else "partner"
    if not rows:
        raise DataError(
            f"no image of {source.name} has a {noun} in {targets.name}",
            f"{source.names[0]} needs {PurePosixPath(source.names[0]).with_suffix('.png')} there, of any ending",
        )
    _report_unmatched(source, targets, rows, partners, noun, exclude, reporter)
    images, chosen = _subset(source, rows), _subset(targets, partners)
    if not options.masks:
        found = _survey_images(chosen, options)
    elif options.table is not None:
        found = Targets(1, options.table)
    else:
        names = names_beside_masks(spec, cache_dir) if options.names is None else read_names(options.names)
        found = _survey_masks(images, chosen, options, names, reporter)
    return _joined(source, targets, rows, partners, found, options)


def _survey_images(targets: Source, options: TargetOptions) -> Targets:
    survey = survey_source(targets)
    return Targets(options.channels or survey.channels, survey=survey)


def _joined(
    source: Source, targets: Source, rows: list[int], partners: list[int], found: Targets, options: TargetOptions
) -> tuple[Source, Targets]:
    """The pairs of some rows of two sources as one source."""
    images, chosen = _subset(source, rows), _subset(targets, partners)
    table, resize, matched = found.table, options.resize, options.matched
    reader = PairReader(images.reader, chosen.reader, chosen.names, found.channels, table, resize, matched)
    has_marks = images.fingerprints and chosen.fingerprints
    pairs = zip(images.fingerprints, chosen.fingerprints, strict=True) if has_marks else ()
    salt = digest([found.channels, table, resize, *(() if matched else ("unmatched",))])
    # Each use of the same two sources has an entry of its own in the cache.
    use = "masks" if options.masks else "pairs" if matched else "unpaired"
    path = f"{source.origin.path} + {targets.origin.path} ({use})"
    return replace(
        images,
        key=digest([source.key, targets.key, salt]),
        reader=reader,
        origin=Origin(path, source.origin.split, use_classes=False),
        fingerprints=[f"{one}\0{other}\0{salt}" for one, other in pairs],
        locks=(*images.locks, *chosen.locks),
    ), found


def match_names(names: Sequence[str], targets: Sequence[str]) -> tuple[list[int], list[int]]:
    """Indices of the names that have a target of the same path but for the ending, and of those targets.

    Names are equal that differ only in how Unicode composes their letters. Where none match, they are compared without
    the first folder (or the shard) of both, of the names or of the targets, unless two names are then equal. Raises
    DataError for a name with two targets.
    """
    for strip_names, strip_targets in ((False, False), (True, True), (True, False), (False, True)):
        by_stem: dict[str, int] = {}
        twice: dict[str, str] = {}
        for index, name in enumerate(targets):
            stem = _stem(name, strip=strip_targets)
            if stem in by_stem:
                twice[stem] = name
            by_stem.setdefault(stem, index)
        stems = [_stem(name, strip=strip_names) for name in names]
        rows = [row for row, stem in enumerate(stems) if stem in by_stem]
        if strip_names and len({stems[row] for row in rows}) < len(rows):
            continue
        for row in rows:
            if other := twice.get(stems[row]):
                target = targets[by_stem[stems[row]]]
                raise DataError(f"{names[row]} has two targets: {target} and {other}", "keep one of them")
        if rows:
            return rows, [by_stem[stems[row]] for row in rows]
    return [], []


def _stem(name: str, *, strip: bool) -> str:
    path = PurePosixPath(unicodedata.normalize("NFC", name)).with_suffix("")
    return str(PurePosixPath(*path.parts[1:])) if strip and len(path.parts) > 1 else str(path)


def _report_unmatched(
    source: Source,
    targets: Source,
    rows: list[int],
    partners: list[int],
    noun: str,
    exclude: Sequence[Path],
    reporter: Reporter,
) -> None:
    """Say which images have no target; name targets without an image, unless they belong to another split."""
    without = sorted(set(range(len(source))) - set(rows))
    if without:
        reporter.info(f"left out {len(without):,} images without a {noun}: {_some(source.names, without)}")
    unused = sorted(set(range(len(targets))) - set(partners))
    is_whole = source.origin.split == "all" or not _has_splits(source, exclude)
    if unused and is_whole:
        reporter.warn(f"{len(unused):,} {noun}s belong to no image: {_some(targets.names, unused)}")


def _has_splits(source: Source, exclude: Sequence[Path]) -> bool:
    """Whether the source is one split of several."""
    with suppress(DataError, UsageError):
        whole = open_source(source.origin.path, split="all", use_classes=False, cache_dir=Path(), exclude=exclude)
        return len(whole) != len(source)
    return True


def _some(names: Sequence[str], indices: list[int]) -> str:
    more = ", …" if len(indices) > MAX_NAMED else ""
    return ", ".join(names[index] for index in indices[:MAX_NAMED]) + more


def _subset(source: Source, rows: list[int]) -> Source:
    """Some images of a source, without classes. Raises DataError for a reader that cannot be divided."""
    reader: Any = source.reader
    if isinstance(reader, FolderReader):
        reader = FolderReader(reader.root, [reader.names[row] for row in rows])
    elif isinstance(reader, ArchiveReader):
        reader = ArchiveReader(reader.paths, [reader.members[row] for row in rows])
    elif isinstance(reader, ArrayReader):
        reader = ArrayReader(reader.pixels[rows])
    return replace(
        source,
        classes=(),
        names=[source.names[row] for row in rows],
        labels=np.zeros(len(rows), np.int64),
        reader=reader,
        fingerprints=[source.fingerprints[row] for row in rows] if source.fingerprints else [],
    )


def _survey_masks(
    images: Source, masks: Source, options: TargetOptions, names: list[str] | None, reporter: Reporter
) -> Targets:
    """Read all masks, and the sizes of their images. Raises DataError for what does not fit or cannot be read."""

    def examine(index: int) -> MaskStatistics | UnreadableError:
        try:
            mask, is_lossy = open_mask(masks, index, PIXEL_BUDGET)
            check_size(mask.size, decode_or_explain(image_size, read_source(images, index)), resize=options.resize)
            return statistics_of(mask, lossy=is_lossy)
        except UnreadableError as error:
            return error

    statistics = []
    with reporter.task("reading masks", len(masks)) as task:
        for index, found in enumerate(_in_threads(examine, len(masks))):
            if isinstance(found, UnreadableError):
                hint = "--resize-masks takes the nearest pixels" if "mask is" in str(found) else "repair or remove it"
                raise DataError(f"{masks.names[index]} cannot be a mask: {found}", hint)
            statistics.append(found)
            task.update(index + 1)
    if conflict := palette_conflict(statistics, masks.names):
        reporter.warn(f"{conflict}: they are one class; if colors are the classes, save all masks as RGB")
    table, shares = make_table(statistics, void=options.void, lossy=options.lossy, names=names)
    _show(table, shares, reporter)
    if len(table.values) > MANY_GRAY_CLASSES and not names and not any(one.colors or one.palette for one in statistics):
        reporter.warn(f"{len(table.values)} classes of gray values: if these are soft masks, make them black and white")
    return Targets(1, table, shares=shares)


def _in_threads(function: Callable[[int], T], count: int) -> Any:
    with ThreadPoolExecutor(SURVEY_THREADS) as threads:
        yield from threads.map(function, range(count))


def _show(table: MaskTable, shares: Shares, reporter: Reporter) -> None:
    """The table of classes, one a line: number, value, name, share of the pixels, masks that have it."""
    lines = zip(table.values, table.names, shares.pixels, shares.masks, strict=True)
    reporter.info(f"classes  {'':>3} {'value':>7}  {'name':16} {'pixels':>7}  masks")
    for number, (value, name, share, masks) in enumerate(lines):
        if number == MAX_SHOWN_CLASSES:
            reporter.info(f"class    … and {len(table.values) - number:,} more")
            break
        reporter.info(f"class    {number:>3} {table.shown(value):>7}  {name:16} {share:>7.2%}  {masks:,}")
    if table.void >= 0:
        reporter.info(f"void         {table.shown(table.void):>7}  {'(ignored)':16} {shares.void:>7.2%}")
