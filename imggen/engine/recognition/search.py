"""Exact search by cosine similarity, and groups of near-duplicates."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imggen.data.decode import UnreadableError, fit_image, load_image
from imggen.data.readers import FolderReader, Source
from imggen.data.scan import open_images
from imggen.engine.options import SearchOptions
from imggen.engine.recognition.eyes import Eyes, open_eyes
from imggen.engine.recognition.sheet import Cell, draw_sheet
from imggen.engine.recognition.vectors import Vectors, embed_source, index_source, unit
from imggen.io.atomic import atomic_write
from imggen.io.image import encode, format_of
from imggen.reporting import Reporter

DUPLICATES_ABOVE = 0.98
BLOCK_ROWS = 2048  # of similarities computed at a time
SHEET_ROWS, SHEET_SIDE = 40, 96  # at most; in pixels


@dataclass(frozen=True)
class Match:
    """A found image by its index, and its similarity to the query, -1 to 1."""

    index: int
    score: float


def search(options: SearchOptions, reporter: Reporter) -> dict[str, Any]:
    """Search; see `imggen.engine.recognition.run_search`."""
    began = time.monotonic()
    exclude = [] if options.output is None else [options.output]
    source = open_images(options.data, reporter, exclude=exclude)
    eyes = open_eyes(options.model, options.weights, options.device, options.batch, reporter)
    index = index_source(source, eyes, reporter)
    find = _find_duplicates if options.duplicates else _find_similar
    result, rows = find(options, source, index, eyes, reporter)
    if options.output is not None:
        sheet = draw_sheet(rows[:SHEET_ROWS], SHEET_SIDE)
        atomic_write(options.output, encode(sheet, format_of(options.output), None))
        result["paths"] = [str(options.output)]
    return {**result, "count": len(index), "hash": eyes.hash, "seconds": round(time.monotonic() - began, 3)}


def _find_similar(
    options: SearchOptions, source: Source, index: Vectors, eyes: Eyes, reporter: Reporter
) -> tuple[dict[str, Any], list[list[Cell]]]:
    """The images most similar to each query, and the rows of a sheet."""
    assert options.image is not None
    queries = open_images(options.image, reporter)
    seen = embed_source(queries, eyes, reporter)
    center = index.center
    directions, wanted = index.directions(center), unit(seen.vectors.float() - center)
    results: list[dict[str, Any]] = []
    rows: list[list[Cell]] = []
    for number, name in enumerate(seen.names):
        hidden = np.empty(0, np.int64) if options.own else np.flatnonzero(index.pixels == seen.pixels[number])
        matches = nearest(directions, wanted[number], hidden, options.count, options.above)
        found = [
            {"path": path_of(options.data, source, index.names[each.index]), "score": round(each.score, 6)}
            for each in matches
        ]
        results.append({"query": path_of(options.image, queries, name), "matches": found})
        if options.output is not None and len(rows) < SHEET_ROWS:
            cells = [Cell(_thumbnail(queries, name), name)]
            for match in matches:
                found_name = index.names[match.index]
                cells.append(Cell(_thumbnail(source, found_name), f"{match.score:.3f}", Path(found_name).parent.name))
            rows.append(cells)
    return {"queries": results}, rows


def nearest(
    directions: Tensor, wanted: Tensor, hidden: np.ndarray[Any, Any], count: int, above: float | None
) -> list[Match]:
    """The `count` directions (N, D) nearest to `wanted` (D,), best first; equal ones in their order.

    The indices `hidden`, and what is less similar than `above`, are left out.
    """
    scores = directions @ wanted
    scores[torch.from_numpy(hidden)] = -torch.inf
    order = scores.sort(descending=True, stable=True).indices
    left_out = set(hidden.tolist())
    kept = (index for index in order.tolist() if index not in left_out)
    matches = [Match(index, min(1.0, max(-1.0, float(scores[index])))) for index in kept][:count]
    return [match for match in matches if above is None or round(match.score, 6) >= above]


def _find_duplicates(
    options: SearchOptions, source: Source, index: Vectors, eyes: Eyes, reporter: Reporter
) -> tuple[dict[str, Any], list[list[Cell]]]:
    """Groups of near-duplicates, the file to keep first, and the rows of a sheet."""
    above = DUPLICATES_ABOVE if options.above is None else options.above
    groups = group_duplicates(index.directions(index.center), index.pixels, above, reporter)
    sizes = dict(zip(source.names, source.fingerprints, strict=True)) if source.fingerprints else {}

    def rank(number: int) -> tuple[int, str]:
        name = index.names[number]
        return -int(sizes.get(name, "0").split()[0]), name

    ordered = sorted((sorted(group, key=rank) for group in groups), key=lambda group: index.names[group[0]])
    paths = [[path_of(options.data, source, index.names[number]) for number in group] for group in ordered]
    rows: list[list[Cell]] = []
    for group in ordered if options.output is not None else []:
        names = [index.names[number] for number in group]
        rows.append([Cell(_thumbnail(source, name), Path(name).name) for name in names])
    return {"groups": paths}, rows


def group_duplicates(
    directions: Tensor, pixels: np.ndarray[Any, Any], above: float, reporter: Reporter
) -> list[list[int]]:
    """Groups of two and more images connected by similarities of at least `above`, or by equal pixels.

    Union-find over all pairs: the groups depend neither on the order of the images nor on a limit.
    """
    parent = list(range(len(directions)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def join(first: int, second: int) -> None:
        one, other = sorted((root(first), root(second)))
        parent[other] = one

    _, first_of, inverse = np.unique(pixels, return_index=True, return_inverse=True)
    for number, value in enumerate(inverse.ravel().tolist()):
        join(int(first_of[value]), number)
    with reporter.task("comparing", len(directions)) as task:
        for start in range(0, len(directions), BLOCK_ROWS):
            similar = directions[start : start + BLOCK_ROWS] @ directions[start:].T >= above
            for row, column in similar.triu(1).nonzero().tolist():
                join(start + row, start + column)
            task.update(min(len(directions), start + BLOCK_ROWS))
    groups: dict[int, list[int]] = {}
    for number in range(len(directions)):
        groups.setdefault(root(number), []).append(number)
    return [group for group in groups.values() if len(group) > 1]


def path_of(spec: str, source: Source, name: str) -> str:
    """The path of an image of a source that was given as `spec`; in an archive its name there."""
    if not isinstance(source.reader, FolderReader):
        return name
    path = Path(spec)
    return str(path / name if path.is_dir() else path)


def _thumbnail(source: Source, name: str) -> np.ndarray[Any, Any]:
    try:
        return fit_image(load_image(source, source.names.index(name)), SHEET_SIDE, 4, "pad", name)
    except UnreadableError:
        return np.full((SHEET_SIDE, SHEET_SIDE, 4), 128, np.uint8)
