"""Exact search by cosine similarity, and groups of near-duplicates."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imggen.data.decode import UnreadableError, fit_image, load_image
from imggen.data.readers import FolderReader, Source
from imggen.data.scan import open_images
from imggen.engine.options import SearchOptions
from imggen.engine.recognition.embedder import bytes_of, mirrored, open_named_embedder, path_of
from imggen.engine.recognition.vectors import Vectors, embed_source, index_source, stamp_of, unchanged_index, unit
from imggen.engine.sheet import MAX_COLUMNS, Cell, draw_sheet
from imggen.io.atomic import atomic_write
from imggen.io.image import encode, format_of
from imggen.reporting import Reporter, Silent

DUPLICATES_ABOVE = 0.98
DEFAULT_COUNT = 12
QUERIES_AT_ONCE = 32
BLOCK_BYTES = 64 << 20  # of similarities of pairs computed at a time
SHEET_ROWS, SHEET_SIDE = 40, 96  # at most; in pixels
Draw = Callable[[], Cell]


@dataclass(frozen=True)
class Match:
    """A found image by its index, and its similarity to the query, -1 to 1."""

    index: int
    score: float


def search(options: SearchOptions, reporter: Reporter) -> dict[str, Any]:
    """Search; see `imggen.engine.recognition.run_search`."""
    began = time.monotonic()
    exclude = [] if options.output is None else [options.output]
    # The queries first: a name that does not exist must not be noticed after hours of indexing.
    queries = None if options.image is None else open_images(options.image, reporter, exclude=exclude)
    stamp = stamp_of(options.data)
    source = None if stamp else open_images(options.data, reporter, exclude=exclude)
    embedder = open_named_embedder(options, reporter)
    index = unchanged_index(options.data, stamp, embedder, reporter)
    if index is None:
        if source is None:
            source = open_images(options.data, reporter)
        index = index_source(source, stamp, embedder, reporter)
    searched = _Searched(options.data, bool(stamp), source, index)
    if queries is None:
        result, rows = _find_duplicates(options, searched, reporter)
    else:
        seen = [embed_source(queries, embedder, reporter, center=index.center)]
        if options.mirror:
            seen.append(embed_source(queries, mirrored(embedder), Silent(), center=index.center))
        result, rows = _find_similar(options, searched, queries, seen, reporter)
    result["paths"] = []
    if options.output is not None and not rows:
        reporter.info(f"{options.output} is not written: there is nothing to show")
    elif options.output is not None:
        if len(rows) > SHEET_ROWS or any(len(row) > MAX_COLUMNS for row in rows):
            reporter.info(f"{options.output} shows the first {SHEET_ROWS} rows and {MAX_COLUMNS} columns")
        drawn = [[cell() for cell in row[:MAX_COLUMNS]] for row in rows[:SHEET_ROWS]]
        atomic_write(options.output, encode(draw_sheet(drawn, SHEET_SIDE), format_of(options.output), None))
        result["paths"] = [str(options.output)]
    return {**result, "count": len(index), "hash": embedder.hash, "seconds": round(time.monotonic() - began, 3)}


class _Searched:
    """The images that are searched, and where each is in its source."""

    def __init__(self, spec: str, is_archive: bool, source: Source | None, index: Vectors) -> None:
        self.spec, self.is_archive, self.index = spec, is_archive, index
        self._opened = source

    @cached_property
    def source(self) -> Source:
        """The source: an archive whose index is known is listed only when its images are needed."""
        return open_images(self.spec, Silent()) if self._opened is None else self._opened

    @cached_property
    def positions(self) -> dict[str, int]:
        """The position of each name in the source."""
        return {name: position for position, name in enumerate(self.source.names)}

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each name in the index."""
        return {name: number for number, name in enumerate(self.index.names)}

    def number(self, path: str) -> int | None:
        """The number in the index of the file at `path`, None if it is not there."""
        if self.is_archive or not isinstance(self.source.reader, FolderReader):
            return None
        name = os.path.relpath(Path(path).resolve(), Path(self.source.reader.root).resolve())
        return self.numbers.get(Path(name).as_posix())

    def path(self, number: int) -> str:
        """The path of image `number` of the index."""
        name = self.index.names[number]
        return name if self.is_archive else path_of(self.spec, self.source, self.positions[name])

    def bytes(self, number: int) -> int:
        """The size of its file."""
        return bytes_of(self.source, self.positions[self.index.names[number]])

    def cell(self, number: int, text: str, group: str = "") -> Draw:
        """Its cell on a sheet, to be drawn if there is room."""
        return lambda: Cell(_thumbnail(self.source, self.positions[self.index.names[number]]), text, group)


def _find_similar(
    options: SearchOptions, searched: _Searched, queries: Source, seen: list[Vectors], reporter: Reporter
) -> tuple[dict[str, Any], list[list[Draw]]]:
    """The images most similar to each query, and the rows of a sheet.

    `seen` has the vectors of the queries, and those of the mirrored queries if they count, too.
    """
    assert options.image is not None
    index, spec = searched.index, options.image
    scores = _scores(index, [unit(each.vectors.float() - index.center) for each in seen])
    positions = {name: position for position, name in enumerate(queries.names)}
    results: list[dict[str, Any]] = []
    rows: list[list[Draw]] = []
    for number, name in enumerate(seen[0].names):
        position = positions[name]
        path = path_of(spec, queries, position)
        # The query itself: the same file or, if that is not in the data, the same pixels.
        own = searched.number(path)
        hidden = np.flatnonzero(index.pixels == seen[0].pixels[number]) if own is None else np.array([own])
        hidden = np.empty(0, np.int64) if options.own else hidden
        matches = nearest(next(scores), hidden, options.count or DEFAULT_COUNT, options.above)
        found = [{"path": searched.path(match.index), "score": round(match.score, 6)} for match in matches]
        results.append({"query": path, "matches": found})
        if options.output is not None:
            row: list[Draw] = [partial(_query_cell, queries, position, name)]
            for match in matches:
                folder = Path(index.names[match.index]).parent.name
                row.append(searched.cell(match.index, f"{match.score:.3f}", folder))
            rows.append(row)
    if not any(each["matches"] for each in results):
        reporter.info("nothing found" if options.above is None else f"no image is as similar as {options.above:g}")
    return {"queries": results}, rows


def _scores(index: Vectors, wanted: list[Tensor]) -> Iterator[Tensor]:
    """For each query in turn, the highest similarities (N,) of its versions to all images.

    `wanted` has the unit vectors (Q, D) of all queries, once for each version.
    """
    for versions in zip(*(torch.split(each, QUERIES_AT_ONCE) for each in wanted), strict=True):
        yield from reduce(torch.maximum, map(index.similarities, versions))


def _query_cell(queries: Source, position: int, name: str) -> Cell:
    return Cell(_thumbnail(queries, position), name)


def nearest(scores: Tensor, hidden: np.ndarray[Any, Any], count: int, above: float | None) -> list[Match]:
    """The `count` images of the highest similarities (N,), best first; equal ones in their order.

    The indices `hidden`, and what is less similar than `above`, are left out.
    """
    order = scores.sort(descending=True, stable=True).indices[: count + len(hidden)].tolist()
    left_out = set(hidden.tolist())
    kept = [index for index in order if index not in left_out][:count]
    matches = [Match(index, min(1.0, max(-1.0, float(scores[index])))) for index in kept]
    return [match for match in matches if above is None or round(match.score, 6) >= above]


def _find_duplicates(
    options: SearchOptions, searched: _Searched, reporter: Reporter
) -> tuple[dict[str, Any], list[list[Draw]]]:
    """Groups of near-duplicates, the file to keep first, and the rows of a sheet."""
    above, index = DUPLICATES_ABOVE if options.above is None else options.above, searched.index
    groups = group_duplicates(index.directions(), index.pixels, above, reporter)
    ranked = [sorted(group, key=lambda number: (-searched.bytes(number), index.names[number])) for group in groups]
    ranked.sort(key=lambda group: index.names[group[0]])
    if not ranked:
        reporter.info(f"no duplicates: no two images are as similar as {above:g}")
    rows = [[searched.cell(number, Path(index.names[number]).name) for number in group] for group in ranked]
    return {"groups": [[searched.path(number) for number in group] for group in ranked]}, rows


def group_duplicates(
    directions: Tensor, pixels: np.ndarray[Any, Any], above: float, reporter: Reporter
) -> list[list[int]]:
    """Groups of two and more images connected by similarities of at least `above`, or by equal pixels.

    All pairs are compared: the groups do not depend on the order of the images. An image of a group may be unlike
    another one, if others lie between them.
    """
    count = len(directions)
    _, first_of, inverse = np.unique(pixels, return_index=True, return_inverse=True)
    groups = first_of[inverse.ravel()]  # of each image: the smallest index in its group
    rows = max(1, BLOCK_BYTES // (4 * max(1, count)))
    with reporter.task("comparing", count) as task:
        for start in range(0, count, rows):
            similar = (directions[start : start + rows] @ directions[start:].T >= above).numpy()
            for row in range(len(similar)):
                found = np.unique(groups[start + row + np.flatnonzero(similar[row, row:])])
                if len(found) > 1:
                    groups[np.isin(groups, found)] = found[0]
            task.update(min(count, start + rows))
    order = np.argsort(groups, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    return [part.tolist() for part in parts if len(part) > 1]


def _thumbnail(source: Source, position: int) -> np.ndarray[Any, Any]:
    try:
        return fit_image(load_image(source, position), SHEET_SIDE, 4, "pad", source.names[position])
    except UnreadableError:
        return np.full((SHEET_SIDE, SHEET_SIDE, 4), 128, np.uint8)
