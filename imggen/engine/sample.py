"""Seeds → noise → pictures → files, batch by batch; picture k is the noise of seed k, whatever the batch."""

from __future__ import annotations

import difflib
import math
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import imggen
from imggen.engine.device import find_precision, out_of_memory, precision_name, prepare, release_memory
from imggen.engine.distributed import World
from imggen.engine.load import Loaded, load_backend
from imggen.engine.options import SampleOptions
from imggen.engine.run import check_sample_output, output_kind
from imggen.errors import DeviceError, UsageError
from imggen.io.files import atomic_write
from imggen.io.image import Writer, encode, format_of, grid
from imggen.io.seeds import format_seeds, parse_seeds
from imggen.models.base import Backend
from imggen.reporting import Reporter

CPU_BATCH = 64
GPU_BATCH = 512
LONGEST_SIDE = 16_000  # WebP ends at 16,383, and no viewer is happy with more


@dataclass(frozen=True)
class Item:
    """One picture to draw; `label` none means: drawn from the seed, as often as the data has it."""

    seed: int
    label: int | None = None


def noise_of(items: Sequence[Item], backend: Backend) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The noise (B, *noise_shape) and labels (B,) of some pictures; each depends on its own seed alone."""
    noise = torch.empty(len(items), *backend.noise_shape)
    labels = torch.empty(len(items), dtype=torch.int64)
    shares = np.cumsum(np.asarray(backend.config.class_counts, dtype=np.float64))
    generator = torch.Generator()
    for row, item in enumerate(items):
        generator.manual_seed(item.seed)
        torch.randn(backend.noise_shape, generator=generator, out=noise[row])
        if backend.classes:
            place = float(torch.rand((), generator=generator, dtype=torch.float64)) * shares[-1]
            drawn = min(int(np.searchsorted(shares, place, side="right")), len(shares) - 1)
            labels[row] = drawn if item.label is None else item.label
    return noise, labels if backend.classes else None


@torch.inference_mode()
def draw(
    backend: Backend,
    items: Iterable[Item],
    *,
    temperature: float = 1.0,
    batch: int | None = None,
    precision: torch.dtype = torch.float32,
    on_smaller: Callable[[int], None] = lambda batch: None,
) -> Iterator[tuple[list[Item], np.ndarray[Any, np.dtype[np.uint8]]]]:
    """Draw pictures (B, H, W, C), uint8, in order. A batch that memory refuses is halved; `on_smaller` is told."""
    device = next(backend.parameters()).device
    size = batch or (CPU_BATCH if device.type == "cpu" else GPU_BATCH)
    queue = iter(items)
    waiting: list[Item] = []
    while True:
        waiting += list(islice(queue, size - len(waiting)))
        if not waiting:
            return
        now = waiting[:size]
        noise, labels = noise_of(now, backend)
        try:
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                pictures = backend.generate(
                    noise.to(device), None if labels is None else labels.to(device), temperature=temperature
                )
            # Rounded, never truncated: truncation would shift three bytes in four.
            levels = pictures.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
            rows = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if size == 1:
                raise DeviceError(
                    "not enough memory to draw one picture", "--device cpu, or a smaller model"
                ) from error
            size = max(1, size // 2)
            on_smaller(size)
            release_memory(device)
            continue
        yield now, rows
        waiting = waiting[size:]


@dataclass(frozen=True)
class Plan:
    """Which pictures go where."""

    seeds: Sequence[int]
    labels: tuple[int | None, ...]
    columns: int | None

    def __len__(self) -> int:
        return len(self.seeds) * len(self.labels)

    def __getitem__(self, index: int) -> Item:
        """Row by row: one label a row, the same seeds in each."""
        row, column = divmod(index, len(self.seeds))
        return Item(self.seeds[column], self.labels[row])


def choose_label(backend: Backend, name: str) -> int:
    """The index of a class by its name. Raises UsageError with the names that are near."""
    if name in backend.classes:
        return backend.classes.index(name)
    if not backend.classes:
        raise UsageError("this model has no classes", "leave --class out")
    near = difflib.get_close_matches(name, backend.classes, 1)
    known = ", ".join(backend.classes[:12]) + (", …" if len(backend.classes) > 12 else "")
    raise UsageError(
        f"the model has no class '{name}'",
        f"did you mean '{near[0]}'? classes: {known}" if near else f"classes: {known}",
    )


def _plan(options: SampleOptions, backend: Backend) -> Plan:
    every = options.label == "all" and "all" not in backend.classes
    if every and not backend.classes:
        raise UsageError("this model has no classes", "leave --class out")
    first = options.seed or 0
    count = options.count
    if every:
        count = math.ceil(count / len(backend.classes))
    seeds = parse_seeds(options.seeds) if options.seeds is not None else range(first, first + count)
    labels: tuple[int | None, ...] = (None,)
    if every:
        labels = tuple(range(len(backend.classes)))
    elif options.label is not None:
        labels = (choose_label(backend, options.label),)
    return Plan(seeds, labels, options.columns or (len(seeds) if every else None))


def _settings(options: SampleOptions, loaded: Loaded, dtype: torch.dtype) -> dict[str, Any]:
    document = {
        "imggen": imggen.__version__,
        "model": options.model if options.weights is None else str(options.weights),
        "hash": loaded.hash,
        "temperature": options.temperature,
        "precision": precision_name(dtype),
    }
    return document if options.label is None else {**document, "class": options.label}


def _command(settings: dict[str, Any], seeds: str, output: str, columns: int | None = None) -> str:
    words = ["imggen", "sample", settings["model"], "--seeds", seeds]
    if "class" in settings:
        words += ["--class", settings["class"]]
    if settings["temperature"] != 1.0:
        words += ["--temperature", str(settings["temperature"])]
    if settings["precision"] != "fp32":
        words += ["--precision", settings["precision"]]
    words += ["--columns", str(columns)] if columns else []
    return shlex.join([*words, "-o", output])


def sample(options: SampleOptions, reporter: Reporter) -> dict[str, Any]:
    """Draw what was asked for; returns paths, seeds, hash and timings.

    Raises UsageError, CheckpointError, DeviceError, and DataError when the disk refuses.
    """
    check_sample_output(options)
    began = time.monotonic()
    world = World.from_environment()
    loaded, plan, dtype = _prepared(options, reporter)
    backend = loaded.backend.fused()
    settings = _settings(options, loaded, dtype)
    kind = output_kind(options.output)
    seeds = format_seeds(plan.seeds)
    result: dict[str, Any] = {
        "paths": [],
        "count": len(plan),
        "seeds": seeds,
        "weights": str(loaded.path),
        "hash": loaded.hash,
        "device": str(next(backend.parameters()).device),
    }

    def drawn(items: Iterable[Item]) -> Iterator[tuple[list[Item], np.ndarray[Any, np.dtype[np.uint8]]]]:
        return draw(
            backend,
            items,
            temperature=options.temperature,
            batch=options.batch,
            precision=dtype,
            on_smaller=lambda size: reporter.warn(f"not enough memory: drawing {size} pictures at a time"),
        )

    if kind in ("grid", "stdout"):
        columns = plan.columns or math.ceil(math.sqrt(len(plan)))
        height, width = backend.image_shape[1:]
        rows = math.ceil(len(plan) / columns)
        if max(columns * (width + 2), rows * (height + 2)) > LONGEST_SIDE:
            raise UsageError(f"a grid of {len(plan):,} pictures is too large for one file", "-o folder/ writes files")
        pieces = []
        with reporter.task("drawing", len(plan)) as task:
            for _, pictures in drawn(plan[index] for index in range(len(plan))):
                pieces.append(pictures)
                task.update(sum(map(len, pieces)))
        sheet = grid(np.concatenate(pieces), columns)
        name = options.output if kind == "grid" else "grid.png"
        info = {**settings, "seeds": seeds, "columns": columns, "command": _command(settings, seeds, name, columns)}
        picture_format = options.format or (format_of(Path(name)) if kind == "grid" else "png")
        encoded = encode(sheet, picture_format, info)
        if kind == "stdout":
            result["png"] = encoded
        else:
            atomic_write(Path(options.output), encoded)
            result["paths"] = [options.output]
    else:
        result["paths"] = _write_files(options, plan, backend, drawn, settings, world, reporter, result)
    result["seconds"] = round(time.monotonic() - began, 3)
    return result


def _write_files(
    options: SampleOptions,
    plan: Plan,
    backend: Backend,
    drawn: Callable[[Iterable[Item]], Iterator[tuple[list[Item], np.ndarray[Any, np.dtype[np.uint8]]]]],
    settings: dict[str, Any],
    world: World,
    reporter: Reporter,
    result: dict[str, Any],
) -> list[str]:
    target = Path(options.output)
    pattern = output_kind(options.output) == "pattern"
    picture_format = options.format or (format_of(target) if pattern else "png")
    suffix = "jpg" if picture_format == "jpeg" else picture_format
    every = len(plan.labels) > 1
    if pattern and every:
        raise UsageError("--class all into a pattern would write one name twice", "-o folder/ makes a folder a class")
    folders: dict[int | None, Path] = {None: target}
    if not pattern:
        if every:
            safe = [
                f"{index:03d}-{_safe(name)}" if _safe(name) != name else name
                for index, name in enumerate(backend.classes)
            ]
            folders |= {index: target / name for index, name in enumerate(safe)}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)

    def path_of(item: Item) -> Path:
        if pattern:
            return target.with_name(target.name % item.seed)
        return folders[item.label if every else None] / f"{item.seed:08d}.{suffix}"

    def wanted() -> Iterator[Item]:
        for index in range(world.rank, len(plan), world.size):
            item = plan[index]
            if not (options.resume and path_of(item).exists()):
                yield item

    total = len(range(world.rank, len(plan), world.size))
    done, began = 0, time.monotonic()
    with reporter.task("drawing", total) as task, Writer() as writer:
        for items, pictures in drawn(wanted()):
            for item, picture in zip(items, pictures, strict=True):
                path = path_of(item)
                label = {"class": backend.classes[item.label]} if item.label is not None else {}
                info = {**settings, **label, "seeds": str(item.seed)}
                writer.put(
                    path, picture, {**info, "command": _command(info, str(item.seed), path.name)}, picture_format
                )
            done += len(items)
            task.update(done, f"{done / max(time.monotonic() - began, 1e-9):,.0f} pictures/s")
    result["written"] = done
    return [options.output]


def _safe(name: str) -> str:
    # A class is named by whoever made the model: its name must not climb out of the folder.
    return "".join(letter if letter.isalnum() or letter in " -_." else "_" for letter in name).strip(". ") or "_"


def _prepared(options: SampleOptions, reporter: Reporter) -> tuple[Loaded, Plan, torch.dtype]:
    if not 0 <= options.temperature <= 2:
        raise UsageError("--temperature is between 0 and 2", "1 draws as trained, less is tamer")
    loaded = load_backend(options.model, weights=options.weights, device=options.device)
    device = next(loaded.backend.parameters()).device
    prepare(device)
    dtype = find_precision(options.precision, device, training=False)
    plan = _plan(options, loaded.backend)
    if len(plan) == 0:
        raise UsageError("no pictures were asked for", "-n is at least 1")
    reporter.info(f"model {loaded.path} ({loaded.origin}, {loaded.hash}) on {device}")
    return loaded, plan, dtype


def plan(options: SampleOptions, reporter: Reporter) -> dict[str, Any]:
    """What `sample` would do, resolved, without drawing."""
    check_sample_output(options)
    loaded, chosen, dtype = _prepared(options, reporter)
    return {
        "model": str(loaded.path),
        "hash": loaded.hash,
        "count": len(chosen),
        "seeds": format_seeds(chosen.seeds),
        "columns": chosen.columns,
        "temperature": options.temperature,
        "precision": precision_name(dtype),
        "output": options.output,
        "kind": output_kind(options.output),
    }
