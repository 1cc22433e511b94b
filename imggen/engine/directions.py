"""The directions of a model: where they are kept, and noise moved along them. `direction_search.py` finds them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imggen.data.cache_dir import default_cache_dir
from imggen.documents import FRACTION, NUMBER, TEXT, DocumentError, read_fields
from imggen.engine.checkpoints import LoadedModel
from imggen.engine.options import MAX_DIRECTIONS
from imggen.engine.run_dir import RunDir
from imggen.errors import CheckpointError, DataError, UsageError, first_line
from imggen.io.checkpoint import read_header, read_tensors, write_checkpoint
from imggen.reporting import Reporter

MAX_SKEW = 1e-3  # of kept directions: how far their products may be from 0 and 1


@dataclass(frozen=True)
class Direction:
    """One direction: how much it changes, and its name.

    share: the fraction of the variance of small images that it accounts for. name: the quantity that it changes, empty
    if none follows it closely. correlation: of that quantity with the value along the direction.
    """

    share: float
    name: str
    correlation: float


@dataclass(frozen=True)
class Directions:
    """Orthogonal unit vectors (K, *noise_shape) of a model's noise, float32, and their names.

    A sample's value along a direction is the product of its noise with the vector: standard normal, as the noise is.
    Directions are numbered from 1.
    """

    vectors: Tensor
    known: tuple[Direction, ...]

    def __len__(self) -> int:
        return len(self.known)

    def values(self, noise: Tensor) -> Tensor:
        """The values (B, K), float64, of noise (B, *noise_shape); row i depends on row i alone."""
        return noise.cpu().double().flatten(1) @ self.vectors.double().flatten(1).T

    def move(self, noise: Tensor, values: Mapping[int, float | Tensor]) -> Tensor:
        """Noise (B, *noise_shape) with these values along the directions of these numbers, and else as it was.

        A value, in standard deviations, is one number, or (B,) of them. It replaces the noise's own, so that moved
        noise is as plausible as the value is. Raises UsageError for a direction that there is not.
        """
        if not values:
            return noise
        self.check(values)
        rows = [number - 1 for number in values]
        wanted = [torch.as_tensor(value, dtype=torch.float64).expand(len(noise)) for value in values.values()]
        change = torch.stack(wanted, 1) - self.values(noise)[:, rows]
        moved = noise.cpu().double().flatten(1) + change @ self.vectors[rows].double().flatten(1)
        return moved.view(noise.shape).to(noise)

    def check(self, numbers: Mapping[int, Any]) -> None:
        """Raise UsageError for a number of no direction."""
        for number in numbers:
            if not 1 <= number <= len(self):
                raise UsageError(
                    f"there is no direction {number}: this model has {len(self)}", "imggen directions MODEL lists them"
                )

    def listing(self) -> list[dict[str, Any]]:
        """A document for each direction: `number`, `share`, `name` and `correlation`."""
        return [
            {"number": number, "share": each.share, "name": each.name, "correlation": each.correlation}
            for number, each in enumerate(self.known, 1)
        ]


def find_directions(loaded: LoadedModel, reporter: Reporter) -> Directions:
    """The directions of a model from where they are kept, or else found, which takes seconds, and kept.

    The same model has the same directions. Raises UsageError for a model that has none.
    """
    backend = loaded.backend
    if reason := backend.limitation("directions"):
        raise UsageError(f"{loaded.path} has no directions: {reason}", "use a GAN or a VAE, such as vae")
    path = _place(loaded)
    if path.exists():
        try:
            directions = _read(path, loaded.hash, backend.noise_shape)
        except CheckpointError as error:
            reporter.warn(f"the directions are found again: {error.message}")
        else:
            with suppress(OSError):
                os.utime(path)  # of the cache, what was used last is removed last to make room
            if directions is not None:
                return directions
    from imggen.engine.direction_search import search_directions

    began = time.monotonic()
    directions = search_directions(backend, reporter)
    reporter.info(f"found {len(directions)} directions in {time.monotonic() - began:.0f} s")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, directions, loaded)
    except (OSError, DataError) as error:
        reporter.warn(f"the directions cannot be kept, so they are found each time: {first_line(error)}")
    return directions


def _place(loaded: LoadedModel) -> Path:
    """Where directions are kept: beside a run's weights; those of other models, or of a run of others, in the cache."""
    run = RunDir(loaded.path.parent)
    if loaded.path == run.weights and run.metrics.exists() and os.access(run.path, os.W_OK):
        return run.directions
    return default_cache_dir() / "directions" / f"{loaded.hash}.safetensors"


def _write(path: Path, directions: Directions, loaded: LoadedModel) -> None:
    document: dict[str, Any] = {"model": loaded.model.config.family, "hash": loaded.hash}
    for number, each in enumerate(directions.known, 1):
        document |= {f"share {number}": each.share, f"name {number}": each.name}
        document[f"correlation {number}"] = each.correlation
    write_checkpoint(path, {"vectors": directions.vectors}, document, kind="directions")


def _read(path: Path, model_hash: str, noise_shape: tuple[int, ...]) -> Directions | None:
    """Read what `_write` wrote; None if it was for other weights, as those of a run before it was resumed.

    Raises CheckpointError for anything else.
    """
    header = read_header(path, kind="directions")
    if header.document.get("hash") != model_hash:
        return None
    vectors = read_tensors(path, header, None).get("vectors", torch.empty(0))
    if vectors.dtype != torch.float32 or vectors.shape[1:] != noise_shape or len(vectors) > MAX_DIRECTIONS:
        raise CheckpointError(f"{path} does not fit the model")
    rows = vectors.flatten(1)
    if not torch.allclose(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=MAX_SKEW):
        raise CheckpointError(f"{path} holds no orthogonal unit vectors")
    kinds = {"share": FRACTION, "name": TEXT, "correlation": NUMBER}
    try:
        known = [
            read_fields(header.document, {f"{name} {number}": kind for name, kind in kinds.items()})
            for number in range(1, len(vectors) + 1)
        ]
    except DocumentError as error:
        raise CheckpointError(f"{path} has a damaged description") from error
    return Directions(vectors, tuple(Direction(*fields.values()) for fields in known))
