"""Seeds → noise → pictures → files, batch by batch; picture k is the noise of seed k, whatever the batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imggen.engine.checkpoints import LoadedModel, open_model
from imggen.engine.device import precision_name
from imggen.engine.distributed import ProcessGroup
from imggen.engine.noise import SampleSpec
from imggen.engine.options import SampleOptions
from imggen.engine.outputs import check_grid, check_sample_output, output_kind
from imggen.engine.provenance import command_of, settings_of
from imggen.engine.render import sample_batches
from imggen.engine.seeds import MAX_SEED, format_seeds, parse_seeds
from imggen.errors import UsageError
from imggen.io.atomic import atomic_write
from imggen.io.image import ImageArray, encode, encode_png_fast, format_of, grid
from imggen.models.base import Backend
from imggen.reporting import Reporter


@dataclass(frozen=True)
class SamplePlan:
    """Which pictures go where."""

    seeds: Sequence[int]
    labels: tuple[int | None, ...]
    columns: int | None

    def __len__(self) -> int:
        return len(self.seeds) * len(self.labels)

    def __getitem__(self, index: int) -> SampleSpec:
        """Row by row: one label a row, the same seeds in each."""
        row, column = divmod(index, len(self.seeds))
        return SampleSpec(self.seeds[column], self.labels[row])


def _plan(options: SampleOptions, backend: Backend) -> SamplePlan:
    every = options.label == "all" and "all" not in backend.classes
    if every and not backend.classes:
        raise UsageError("this model has no classes", "leave --class out")
    first = options.seed or 0
    count = options.count
    if every:
        count = math.ceil(count / len(backend.classes))
    if first + count - 1 > MAX_SEED:
        raise UsageError(f"the seeds from {first} on are too large", f"the largest is {MAX_SEED}")
    seeds = parse_seeds(options.seeds) if options.seeds is not None else range(first, first + count)
    labels: tuple[int | None, ...] = (None,)
    if every:
        labels = tuple(range(len(backend.classes)))
    elif options.label is not None:
        labels = (backend.config.class_index(options.label),)
    return SamplePlan(seeds, labels, options.columns or (len(seeds) if every else None))


def sample(options: SampleOptions, reporter: Reporter) -> dict[str, Any]:
    """Draw what was asked for; returns paths, seeds, hash and timings.

    Raises UsageError, CheckpointError, DeviceError, and DataError when the disk refuses.
    """
    check_sample_output(options)
    began, world = time.monotonic(), ProcessGroup.from_environment()
    kind = output_kind(options.output)
    if kind in ("grid", "stdout") and world.size > 1:
        raise UsageError("several processes share the pictures of a folder, not of one file", "-o folder/")
    loaded, plan, dtype = prepared(options, reporter)
    backend = loaded.backend.for_inference()
    settings = settings_of(options, loaded, dtype)
    seeds = format_seeds(plan.seeds)
    result: dict[str, Any] = {
        "paths": [],
        "count": len(plan),
        "seeds": seeds,
        "weights": str(loaded.path),
        "hash": loaded.hash,
        "device": str(backend.device),
    }

    paint = partial(
        sample_batches,
        backend,
        options=options.sampling,
        batch=options.batch,
        precision=dtype,
        on_smaller=lambda size: reporter.warn(f"not enough memory: drawing {size} pictures at a time"),
    )
    if kind in ("folder", "pattern"):
        files = Files(options, plan, backend, settings)
        device = backend.device
        world.start(device)
        try:
            world.barrier()  # until every process has found the folder empty
            result["written"] = _write_files(files, world, paint, reporter)
            world.barrier()
        finally:
            world.stop()
        result["paths"] = [options.output]
    else:
        name = options.output if kind == "grid" else f"grid.{options.format or 'png'}"
        picture_format = options.format or format_of(Path(name))
        columns = min(len(plan), plan.columns or math.ceil(math.sqrt(len(plan))))
        info = {
            **settings,
            "seeds": seeds,
            "columns": columns,
            "command": command_of(settings, ["--seeds", seeds], name, columns),
        }
        encoded = encode(_sheet(plan, columns, backend, paint, reporter), picture_format, info)
        if kind == "stdout":
            result["png"] = encoded
        else:
            atomic_write(Path(options.output), encoded)
            result["paths"] = [options.output]
    result["seconds"] = round(time.monotonic() - began, 3)
    return result


def _sheet(
    plan: SamplePlan, columns: int, backend: Backend, paint: Callable[..., Any], reporter: Reporter
) -> ImageArray:
    check_grid(len(plan), columns, backend)
    pieces: list[ImageArray] = []
    with reporter.task("drawing", len(plan)) as task:
        for pictures in paint((plan[index] for index in range(len(plan))), lambda _, pictures: pictures):
            pieces.append(pictures)
            task.update(sum(map(len, pieces)))
    return grid(np.concatenate(pieces), columns)


class Files:
    """One file a picture: its name, its settings, its bytes."""

    def __init__(self, options: SampleOptions, plan: SamplePlan, backend: Backend, settings: dict[str, Any]) -> None:
        self.options, self.plan, self.settings = options, plan, settings
        self.classes = backend.classes
        self.target = Path(options.output)
        self.pattern = output_kind(options.output) == "pattern"
        self.format = options.format or (format_of(self.target) if self.pattern else "png")
        self.by_class = len(plan.labels) > 1
        if self.pattern and self.by_class:
            raise UsageError("--class all into a pattern would write a name twice", "-o folder/ makes a folder a class")

    def make_folders(self) -> None:
        """Before the first file."""
        if self.pattern:
            self.target.parent.mkdir(parents=True, exist_ok=True)
        else:
            for label in self.plan.labels:
                self.folder(label).mkdir(parents=True, exist_ok=True)

    def folder(self, label: int | None) -> Path:
        """The folder itself, or one of the class where all classes are drawn."""
        if not self.by_class or label is None:
            return self.target
        name, safe = self.classes[label], _safe(self.classes[label])
        return self.target / (name if name == safe else f"{label:03d}-{safe}")

    def path(self, item: SampleSpec) -> Path:
        """name-00007.png of the pattern, or 00000007.png in the folder."""
        if self.pattern:
            return self.target.with_name(self.target.name % item.seed)
        return self.folder(item.label) / f"{item.seed:08d}.{'jpg' if self.format == 'jpeg' else self.format}"

    def write(self, items: list[SampleSpec], pictures: ImageArray) -> int:
        """Encode and write some; returns how many."""
        for item, picture in zip(items, pictures, strict=True):
            path = self.path(item)
            info = {**self.settings, "seeds": str(item.seed)}
            if item.label is not None:
                info["class"] = self.classes[item.label]
            info["command"] = command_of(info, ["--seeds", str(item.seed)], path.name)
            png = self.format == "png"
            atomic_write(path, encode_png_fast(picture, info) if png else encode(picture, self.format, info))
        return len(items)


def _write_files(files: Files, world: ProcessGroup, paint: Callable[..., Any], reporter: Reporter) -> int:
    """This process's share of the pictures; returns how many were drawn."""
    files.make_folders()
    mine = range(world.rank, len(files.plan), world.size)
    drawn, there, began = 0, 0, time.monotonic()

    def missing() -> Iterator[SampleSpec]:
        nonlocal there
        for item in (files.plan[index] for index in mine):
            if files.options.resume and files.path(item).exists():
                there += 1
            else:
                yield item

    with reporter.task("drawing", len(mine)) as task:
        for written in paint(missing(), files.write):
            drawn += written
            task.update(drawn + there, f"{drawn / max(time.monotonic() - began, 1e-9):,.0f} pictures/s")
    return drawn


def _safe(name: str) -> str:
    # A class is named by whoever made the model: its name must not climb out of the folder.
    return "".join(letter if letter.isalnum() or letter in " -_." else "_" for letter in name).strip(". ") or "_"


def prepared(options: SampleOptions, reporter: Reporter) -> tuple[LoadedModel, SamplePlan, torch.dtype]:
    """The model, which pictures of it, and in what precision. Raises UsageError, CheckpointError, DeviceError."""
    loaded = open_model(options, options.model, reporter, precision=options.precision)
    plan = _plan(options, loaded.backend)
    if len(plan) == 0:
        raise UsageError("no pictures were asked for", "-n is at least 1")
    return loaded, plan, loaded.dtype


def plan(options: SampleOptions, reporter: Reporter) -> dict[str, Any]:
    """What `sample` would do, resolved, without drawing."""
    check_sample_output(options)
    loaded, chosen, dtype = prepared(options, reporter)
    return {
        "model": str(loaded.path),
        "hash": loaded.hash,
        "count": len(chosen),
        "seeds": format_seeds(chosen.seeds),
        "columns": chosen.columns,
        "temperature": options.temperature,
        **options.sampling.changed(),
        "precision": precision_name(dtype),
        "output": options.output,
        "kind": output_kind(options.output),
    }
