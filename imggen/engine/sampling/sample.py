"""Seeds to noise to images to files, batch by batch."""

from __future__ import annotations

import math
import os
import re
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imggen.engine.checkpoints import LoadedModel, open_model
from imggen.engine.device import precision_name
from imggen.engine.directions import find_directions
from imggen.engine.distributed import ProcessGroup
from imggen.engine.noise import SampleSpec
from imggen.engine.options import MAX_SEED, SampleOptions
from imggen.engine.outputs import MAX_GRID_SIDE, output_kind
from imggen.engine.provenance import settings, settings_of_files
from imggen.engine.render import sample_batches
from imggen.engine.seeds import format_seeds, parse_seeds, seed_range
from imggen.errors import UsageError
from imggen.io.atomic import atomic_write
from imggen.io.image import ImageArray, encode, encode_image, encode_png_fast, format_of, grid
from imggen.io.palette import reduce_colors, with_palette
from imggen.models.base import Backend
from imggen.models.config import list_classes
from imggen.reporting import Reporter

NUMBER = re.compile(r"\d{1,19}")  # of a file's name
SampleBatches = Callable[..., Iterator[Any]]  # `sample_batches` with the model and its options bound


@dataclass(frozen=True)
class SamplePlan:
    """The seeds and labels to generate: every seed with every label, one row of the grid for each label."""

    seeds: Sequence[int]
    labels: tuple[int | None, ...]
    columns: int | None

    def __len__(self) -> int:
        return len(self.seeds) * len(self.labels)

    def __getitem__(self, index: int) -> SampleSpec:
        """Sample number `index`, in the order of the grid."""
        row, column = divmod(index, len(self.seeds))
        return SampleSpec(self.seeds[column], self.labels[row])


def sample(options: SampleOptions, reporter: Reporter) -> dict[str, Any]:
    """Generate and write what the options ask for; see `imggen.engine.sampling.run`."""
    began, processes = time.monotonic(), ProcessGroup.from_environment()
    kind = output_kind(options.output)
    loaded, plan = open_with_plan(options, reporter)
    backend = loaded.for_inference()
    result: dict[str, Any] = {
        "paths": [],
        "count": len(plan),
        "seeds": format_seeds(plan.seeds),
        "weights": str(loaded.path),
        "hash": loaded.hash,
        "device": str(backend.device),
    }
    move = mover(options, loaded, reporter)
    batches: SampleBatches = partial(
        sample_batches,
        backend,
        options=options.sampling,
        batch=options.batch,
        precision=loaded.dtype,
        on_smaller=lambda size: reporter.warn(f"not enough memory: generating {size} images at a time"),
        change=lambda specs, noise: move(noise),
    )
    if kind in ("folder", "pattern"):
        writer = FileWriter(options, plan, loaded)
        result["written"] = _write_files(writer, processes, backend.device, batches, reporter)
    else:
        encoded = _encode_grid(options, plan, loaded, batches, reporter)
        if kind == "stdout":
            result["png"] = encoded
        else:
            atomic_write(Path(options.output), encoded)
    if kind != "stdout":
        result["paths"] = [options.output]
    result["seconds"] = round(time.monotonic() - began, 3)
    return result


def mover(options: SampleOptions, loaded: LoadedModel, reporter: Reporter) -> Callable[[Tensor], Tensor]:
    """What moves noise to the values along directions that are asked for. Raises UsageError."""
    if not options.direction:
        return lambda noise: noise
    directions, values = find_directions(loaded, reporter), dict(options.direction)
    directions.check(values)
    for number, value in values.items():
        reporter.info(f"direction {number} at {value:g}: {directions.known[number - 1].name or 'without a name'}")
    return lambda noise: directions.move(noise, values)


def describe_plan(options: SampleOptions, reporter: Reporter) -> dict[str, Any]:
    """What `sample` would do; see `imggen.engine.sampling.dry_run`."""
    loaded, plan = open_with_plan(options, reporter)
    return {
        "model": str(loaded.path),
        "hash": loaded.hash,
        "count": len(plan),
        "seeds": format_seeds(plan.seeds),
        "columns": plan.columns,
        "temperature": options.temperature,
        **options.sampling.changed(),
        **({"direction": dict(options.direction)} if options.direction else {}),
        "precision": precision_name(loaded.dtype),
        "output": options.output,
        "kind": output_kind(options.output),
    }


def open_with_plan(options: SampleOptions, reporter: Reporter) -> tuple[LoadedModel, SamplePlan]:
    """Open the model and choose seeds and labels. Raises UsageError, CheckpointError and DeviceError."""
    loaded = open_model(options, options.model, reporter, precision=options.precision)
    return loaded, _make_plan(options, loaded.backend, reporter)


def _make_plan(options: SampleOptions, backend: Backend, reporter: Reporter) -> SamplePlan:
    all_classes = options.label == "all" and "all" not in backend.classes
    if all_classes and not backend.classes:
        raise UsageError("this model has no classes", "leave --class out")
    labels: tuple[int | None, ...] = (None,)
    if all_classes:
        labels = backend.config.trained_classes
        if untrained := [name for i, name in enumerate(backend.classes) if i not in labels]:
            reporter.warn(f"left out, as the model was trained on no image of them: {list_classes(untrained)}")
    elif options.label is not None:
        labels = (backend.config.class_index(options.label),)
    seeds: Sequence[int]
    if options.seeds is not None:
        seeds = parse_seeds(options.seeds)
    else:
        seeds = seed_range(options.seed or 0, math.ceil(options.count / len(labels)))
    return SamplePlan(seeds, labels, options.columns or (len(seeds) if all_classes else None))


def check_grid(count: int, columns: int, backend: Backend) -> None:
    """Raise UsageError if a grid of `count` images is larger than MAX_GRID_SIDE."""
    height, width = backend.config.image_shape[1:]
    rows = math.ceil(count / columns)
    if max(columns * (width + 2), rows * (height + 2)) > MAX_GRID_SIDE:
        raise UsageError(f"a grid of {count:,} images is too large for one file", "fewer images, or -o folder/")


def _encode_grid(
    options: SampleOptions,
    plan: SamplePlan,
    loaded: LoadedModel,
    batches: SampleBatches,
    reporter: Reporter,
) -> bytes:
    """Generate all samples and return the bytes of one image file."""
    columns = min(len(plan), plan.columns or math.ceil(math.sqrt(len(plan))))
    check_grid(len(plan), columns, loaded.backend)

    # Generate the images
    parts: list[ImageArray] = []
    with reporter.task("sampling", len(plan)) as task:
        for images in batches(plan[index] for index in range(len(plan))):
            parts.append(images)
            task.update(sum(map(len, parts)))

    # Encode them with the settings and the command that makes the file again
    name = options.output if output_kind(options.output) == "grid" else f"grid.{options.format or 'png'}"
    resolved = {"seed": None, "count": None, "seeds": format_seeds(plan.seeds), "output": name}
    info = settings("sample", options, loaded, **resolved, columns=columns if len(plan) > 1 else None)
    format = options.format or format_of(Path(name))
    if len(plan) == 1:  # the same bytes as a file of a folder, whose command makes one sample
        return _encode_sample(parts[0][0], format, info, options.colors)
    samples = np.concatenate(parts)
    if options.colors is not None:
        samples = np.stack([reduce_colors(image, options.colors) for image in samples])
    return encode(grid(samples, columns), format, info)


def _encode_sample(image: ImageArray, format: str, info: dict[str, Any], colors: int | None) -> bytes:
    """The bytes of a file of one sample (H, W, C), a PNG with a palette if it has at most `colors` different ones."""
    if colors is not None:
        image = reduce_colors(image, colors)
        palette_image = with_palette(image) if format == "png" else None
        if palette_image is not None:
            return encode_image(palette_image, info)
    return encode_png_fast(image, info) if format == "png" else encode(image, format, info)


class FileWriter:
    """Writes each sample to its own file, with the settings that made it inside."""

    def __init__(self, options: SampleOptions, plan: SamplePlan, loaded: LoadedModel) -> None:
        self.options, self.plan = options, plan
        self.classes = loaded.backend.classes
        self.target = Path(options.output)
        self.has_pattern = output_kind(options.output) == "pattern"
        self.format = options.format or (format_of(self.target) if self.has_pattern else "png")
        self._number_start = self.target.name.index("%") if self.has_pattern else 0  # of the seed in a file's name
        self.by_class = len(plan.labels) > 1
        if self.has_pattern and self.by_class:
            raise UsageError(
                "--class all with a pattern would write each name once per class", "-o folder/ makes a folder per class"
            )
        varying = ("seeds", "output") if options.label is None else ("seeds", "label", "output")
        unused = {"seed": None, "count": None, "columns": None}
        self._settings_of_file = settings_of_files("sample", options, loaded, *varying, **unused)

    def make_folders(self) -> None:
        """Make the folders of all files."""
        if self.has_pattern:
            self.target.parent.mkdir(parents=True, exist_ok=True)
        else:
            for label in self.plan.labels:
                self.folder(label).mkdir(parents=True, exist_ok=True)

    def folder(self, label: int | None) -> Path:
        """The output folder, or if all classes are sampled a folder in it named after the class."""
        if not self.by_class or label is None:
            return self.target
        name, safe_name = self.classes[label], _safe_file_name(self.classes[label])
        return self.target / (name if name == safe_name else f"{label:03d}-{safe_name}")

    def path(self, spec: SampleSpec) -> Path:
        """The file of a sample: name-00007.png of a pattern, or 00000007.png in a folder."""
        folder = self.target.parent if self.has_pattern else self.folder(spec.label)
        return folder / self._name(spec.seed)

    def _name(self, seed: int) -> str:
        if self.has_pattern:
            return self.target.name % seed
        return f"{seed:08d}.{'jpg' if self.format == 'jpeg' else self.format}"

    def existing_seeds(self, label: int | None) -> array[int]:
        """The seeds of a class whose files exist, sorted: one listing of the folder, and 8 bytes a file."""
        folder = self.target.parent if self.has_pattern else self.folder(label)
        with os.scandir(folder) as entries:
            numbers = ((entry.name, NUMBER.search(entry.name, self._number_start)) for entry in entries)
            found = (int(number[0]) for name, number in numbers if number and self._name(int(number[0])) == name)
            seeds = np.fromiter((seed for seed in found if seed <= MAX_SEED), dtype=np.int64)
        seeds.sort()
        return array("q", seeds.tobytes())

    def write(self, specs: list[SampleSpec], images: ImageArray) -> int:
        """Encode and write images (B, H, W, C); returns how many."""
        for spec, image in zip(specs, images, strict=True):
            path = self.path(spec)
            values = {"seeds": str(spec.seed), "output": path.name}
            if spec.label is not None:
                values["label"] = self.classes[spec.label]
            info = self._settings_of_file(**values)
            atomic_write(path, _encode_sample(image, self.format, info, self.options.colors))
        return len(specs)


def _write_files(
    writer: FileWriter, processes: ProcessGroup, device: torch.device, batches: SampleBatches, reporter: Reporter
) -> int:
    """Generate and write the samples, of which each process has a part; returns the number of files written by all."""
    processes.start(device)
    try:
        processes.barrier()  # no process may write before every process has checked that the folder is empty
        written = _write_part(writer, processes, batches, reporter)
        return int(processes.sums([written], device)[0])
    finally:
        processes.stop()


def _write_part(writer: FileWriter, processes: ProcessGroup, batches: SampleBatches, reporter: Reporter) -> int:
    writer.make_folders()
    indices = range(processes.rank, len(writer.plan), processes.size)
    existing = {label: writer.existing_seeds(label) for label in writer.plan.labels} if writer.options.resume else {}
    written, skipped, began = 0, 0, time.monotonic()

    def missing_samples() -> Iterator[SampleSpec]:
        nonlocal skipped
        for spec in (writer.plan[index] for index in indices):
            if spec.label in existing and _contains(existing[spec.label], spec.seed):
                skipped += 1
            else:
                yield spec

    with reporter.task("sampling", len(indices)) as task:
        for count in batches(missing_samples(), writer.write):
            written += count
            rate = processes.size * written / max(time.monotonic() - began, 1e-9)
            task.update(written + skipped, f"{rate:,.0f} images/s")
    return written


def _contains(numbers: array[int], number: int) -> bool:
    """Whether a sorted array has this number."""
    index = bisect_left(numbers, number)
    return index < len(numbers) and numbers[index] == number


def _safe_file_name(name: str) -> str:
    # Whoever made the model named its classes: a name must not lead out of the folder.
    return "".join(letter if letter.isalnum() or letter in " -_." else "_" for letter in name).strip(". ") or "_"
