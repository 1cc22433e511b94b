"""From options to a run that can start: data, configuration, device, budget, or what was saved before."""

from __future__ import annotations

import platform
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import imggen
from imggen.data.dataset import DataOptions, Dataset, Outline, outline
from imggen.engine.checkpoints import read_config
from imggen.engine.device import find_device, find_precision, precision_name, prepare
from imggen.engine.distributed import ProcessGroup
from imggen.engine.options import TrainOptions
from imggen.engine.run_dir import RunDir
from imggen.engine.training.budget import Budget
from imggen.errors import CheckpointError, DataError, UsageError
from imggen.io.checkpoint import Header, read_header
from imggen.models import presets
from imggen.models.base import Learner
from imggen.models.config import ModelConfig
from imggen.reporting import Reporter

CPU: dict[str, Any] = {"preset": "tiny", "size": 32, "batch": 64, "minutes": 30.0}
GPU: dict[str, Any] = {"preset": "base", "size": 128, "batch": 256, "minutes": 120.0}
CROP, SPLIT = "center", "train"
# What a resumed run takes from its state; giving another value is an error, not a silent change.
FIXED = ("preset", "size", "channels", "crop", "split", "use_classes", "batch", "seed", "mirror")
FREE = ("learning_rate",)  # of a family's options: may change on --resume


@dataclass(frozen=True)
class TrainPlan:
    """Everything decided, nothing started."""

    options: TrainOptions
    world: ProcessGroup
    device: torch.device
    precision: torch.dtype
    source: Dataset | Outline
    config: ModelConfig
    batch: int
    seed: int
    budget: Budget
    state: Header | None

    @property
    def dataset(self) -> Dataset:
        """The decoded pictures. Raises TypeError when they were only looked at."""
        if isinstance(self.source, Outline):
            raise TypeError("this setup is a plan: its data is not decoded")
        return self.source

    def settings(self) -> dict[str, Any]:
        """The resolved settings, in the names that --config takes."""
        options = self.options
        own = {
            name: value
            for name, value in self.config.to_json().items()
            if name not in ("family", "preset", "size", "channels", "classes", "class_counts")
        }
        fixed = self.fixed()
        seconds = self.budget.seconds
        return {
            "data": options.data,
            **{name: value for name, value in fixed.items() if name != "use_classes"},
            "no_classes": not options.use_classes,
            "images": self.budget.images,
            "minutes": None if seconds is None else seconds / 60,
            "precision": precision_name(self.precision),
            **own,
        }

    def provenance(self, images: int, seconds: float) -> dict[str, Any]:
        """How a checkpoint came to be."""
        return {
            "imggen": imggen.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "command": self.options.command,
            "data": Path(self.options.data).name or self.options.data,
            "data_key": self.dataset.key,
            "pictures": len(self.dataset),
            "images": images,
            "seconds": round(seconds, 1),
            "seed": self.seed,
            "batch": self.batch,
            "device": self.device.type,
            "precision": precision_name(self.precision),
        }

    def fixed(self) -> dict[str, Any]:
        """What a resumed run must find unchanged; the names of `FIXED`."""
        own = {"preset": self.config.preset, "size": self.config.size, "channels": self.config.channels}
        own |= {"batch": self.batch, "seed": self.seed}
        return {name: own[name] if name in own else getattr(self.options, name) for name in FIXED}


def make_plan(options: TrainOptions, reporter: Reporter, *, decode: bool = True) -> TrainPlan:
    """Decide everything; the data is only looked at, not decoded, without `decode`.

    Raises UsageError, DataError, CheckpointError, DeviceError.
    """
    Budget.of(options.images, options.epochs, options.minutes, 1, 1)  # nonsense is refused before decoding
    world = ProcessGroup.from_environment()
    device = find_device(options.device, world.local_rank)
    prepare(device)
    precision = find_precision(options.precision, device, training=True)
    world.start(device)
    state = read_header(RunDir(options.run).state, kind="state") if options.resume else None
    if state is not None:
        options = _as_before(options, state)
    options = replace(options, crop=options.crop or CROP, split=options.split or SPLIT)
    defaults = CPU if device.type == "cpu" else GPU
    preset = options.preset or str(defaults["preset"])
    known = presets(options.family)
    if preset not in known:
        raise UsageError(f"{options.family} has no preset '{preset}'", f"presets: {', '.join(known)}")
    data_options = DataOptions(
        size=options.size,
        channels=options.channels,
        crop=options.crop or CROP,
        split=options.split or SPLIT,
        use_classes=options.use_classes,
        strict=options.strict,
    )
    if options.size is not None:
        known[preset].with_overrides(size=options.size)  # a size that no network can have is refused before decoding
    if not world.is_main:
        world.barrier()  # one process decodes; the others then find the cache
    dataset: Dataset | Outline = outline(options.data, data_options, max_size=int(defaults["size"]), reporter=reporter)
    if decode and isinstance(dataset, Outline):
        dataset = dataset.load(reporter)
    if world.is_main:
        world.barrier()
    config = _configure(options, known[preset], dataset, state)
    usual = (config.cpu_batch if device.type == "cpu" else None) or int(defaults["batch"])
    batch = options.batch or min(usual, max(2 * world.size, len(dataset)))
    batch -= 0 if options.batch else batch % world.size
    if batch < 2 * world.size or batch % world.size:
        each = f"{world.size} processes take like shares of at least 2" if world.size > 1 else "2 is the least"
        raise UsageError(f"a batch of {batch} does not do", each)
    seed = options.seed
    if seed is None:
        seed = int(world.all_reduce_max([float(secrets.randbelow(2**31))], device)[0])
    budget = _budget(options, state, len(dataset), float(defaults["minutes"]))
    return TrainPlan(options, world, device, precision, dataset, config, batch, seed, budget, state)


def _budget(options: TrainOptions, state: Header | None, count: int, default_minutes: float) -> Budget:
    """What was asked for now, else what the run was started with, else the device's default."""
    saved = None if state is None else state.document.get("budget")
    if saved is None or any(value is not None for value in (options.images, options.epochs, options.minutes)):
        return Budget.of(options.images, options.epochs, options.minutes, count, default_minutes)
    try:
        return Budget(images=saved["images"], seconds=saved["seconds"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{RunDir(options.run).state} is damaged", "--force starts afresh") from error


def _configure(
    options: TrainOptions, preset: ModelConfig, dataset: Dataset | Outline, state: Header | None
) -> ModelConfig:
    config = preset.for_dataset_size(len(dataset)).with_overrides(
        size=dataset.size,
        channels=dataset.channels,
        classes=dataset.classes,
        class_counts=dataset.class_counts,
        **options.overrides,
    )
    if len(dataset) < 2:
        raise DataError(f"{dataset.name} has only {len(dataset)} picture", "a model needs at least a few hundred")
    if state is None:
        return config
    saved = read_config(state.document, RunDir(options.run).state)
    # A picture more or less in a class is no other model: the shares stay those of the start.
    config = config.with_overrides(class_counts=saved.class_counts) if saved.classes == config.classes else config
    # A training that diverges may go on more slowly.
    if saved != config.with_overrides(**{name: getattr(saved, name) for name in FREE}):
        before, now = asdict(saved), asdict(config)
        changed = [name for name in before if before[name] != now[name] and name not in FREE]
        raise CheckpointError(
            f"this run was started with another {', '.join(changed)}", "use the same data and options, or -o FOLDER"
        )
    return config


def _as_before(options: TrainOptions, state: Header) -> TrainOptions:
    """The options with what the run was started with; a flag that says otherwise is an error."""
    saved = state.document.get("fixed")
    path = RunDir(options.run).state
    if not isinstance(saved, dict) or not isinstance(state.document.get("config"), dict) or set(saved) != set(FIXED):
        raise CheckpointError(f"{path} is damaged", "--force starts afresh")
    config = read_config(state.document, path).to_json()
    if config["family"] != options.family:
        raise UsageError(f"{options.run} holds a run of {config['family']}, not {options.family}")
    defaults = TrainOptions(family=options.family, data=options.data)
    for name, value in saved.items():
        given = getattr(options, name)
        if given not in (getattr(defaults, name), value):
            raise UsageError(
                f"this run was started with {name} {value}, not {given}", "leave the option out, or -o FOLDER"
            )
    overrides = {name: config[name] for name in config if name not in ("family", "classes", "class_counts", *FIXED)}
    for name, given in options.overrides.items():
        if name in FREE:
            overrides[name] = given
        elif given != overrides.get(name):
            raise UsageError(
                f"this run was started with {name} {overrides.get(name)}, not {given}",
                "leave the option out, or -o FOLDER",
            )
    return replace(options, **saved, overrides=overrides)


def describe_plan(setup: TrainPlan, learner: Learner, reporter: Reporter) -> None:
    """Data, model, device and budget, a line each."""
    data = setup.dataset
    config, networks = setup.config, learner.networks
    classes = f"{len(config.classes)} classes" if config.classes else "no classes"
    kind = {1: "grey", 3: "colour", 4: "colour with alpha"}[config.channels]
    reporter.info(f"data    {data.name}: {len(data):,} pictures, {config.size}x{config.size} {kind}, {classes}")
    counts = ", ".join(
        f"{name} {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M" for name, net in networks.items()
    )
    reporter.info(f"model   {config.family}/{config.preset}: {counts}")
    processes = f" on {setup.world.size} processes" if setup.world.size > 1 else ""
    reporter.info(f"device  {setup.device}, {precision_name(setup.precision)}, batch {setup.batch}{processes}")
    reporter.info(f"budget  {setup.budget}, seed {setup.seed}, into {setup.options.run}")


def duration(seconds: float) -> str:
    """3 h 20 min."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
