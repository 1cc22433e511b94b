"""From options to a run that can start: device, data, configuration and budget, all decided before the first step."""

from __future__ import annotations

import platform
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import imggen
from imggen.data.dataset import DEVICE_LIMIT, DataOptions, Dataset, ScannedDataset
from imggen.engine.device import configure_device, find_device, find_precision, precision_name
from imggen.engine.distributed import ProcessGroup
from imggen.engine.options import TrainOptions
from imggen.engine.run_dir import RunDir
from imggen.engine.training import initial_weights, run_data
from imggen.engine.training.backbone import HEAD, open_backbone, open_mapper_backbone, with_backbone
from imggen.engine.training.budget import Budget
from imggen.engine.training.choices import CONFIG_FROM_DATA, adapted_to_data, differences
from imggen.engine.training.initial_weights import InitialWeights, StartingPoint
from imggen.engine.training.saved_state import SavedState
from imggen.engine.training.targets import target_settings, targets_of
from imggen.errors import DataError, UsageError
from imggen.models import GENERATOR, kind_of, presets
from imggen.models.config import ModelConfig
from imggen.reporting import Reporter

DEFAULT_CROP, DEFAULT_SPLIT = "center", "train"
MODEL_LIMIT = "that of the model to begin from"  # why there is no larger size
MIN_IMAGES_PER_PROCESS = 2  # in a batch


@dataclass(frozen=True)
class DeviceDefaults:
    """What a run uses if neither the options nor the data decide: `size` is the largest side in pixels."""

    preset: str
    size: int
    batch: int
    minutes: float


CPU_DEFAULTS = DeviceDefaults(preset="tiny", size=32, batch=64, minutes=30.0)
GPU_DEFAULTS = DeviceDefaults(preset="base", size=128, batch=256, minutes=120.0)


@dataclass(frozen=True)
class Machine:
    """The processes of a run, this process's device, and the precision to train in."""

    processes: ProcessGroup
    device: torch.device
    precision: torch.dtype

    @classmethod
    def start(cls, options: TrainOptions) -> Machine:
        """Choose and configure the device, and join the other processes. Raises DeviceError."""
        processes = ProcessGroup.from_environment()
        device = find_device(options.device, processes.local_rank)
        configure_device(device)
        precision = find_precision(options.precision, device, training=True)
        processes.start(device)
        return cls(processes, device, precision)

    @property
    def defaults(self) -> DeviceDefaults:
        """The defaults for this kind of device."""
        return CPU_DEFAULTS if self.on_cpu else GPU_DEFAULTS

    @property
    def on_cpu(self) -> bool:
        """Whether this process trains on a CPU."""
        return self.device.type == "cpu"

    @property
    def kind(self) -> str:
        """The kind of the device, for messages."""
        return "a CPU" if self.on_cpu else "a GPU"

    def default_batch(self, config: ModelConfig, dataset_size: int) -> int:
        """The preset's or the device's batch size, at most the data set, and divisible by the number of processes."""
        batch = min(self._preferred_batch(config), max(MIN_IMAGES_PER_PROCESS * self.processes.size, dataset_size))
        return batch - batch % self.processes.size

    def reason_of_batch(self, config: ModelConfig, batch: int) -> str:
        """Why `default_batch` has chosen this batch size, in words."""
        preferred = self._preferred_batch(config)
        if batch <= preferred - self.processes.size:
            return "there are no more images"
        if preferred == self.defaults.batch:
            return f"the default on {self.kind}"
        return f"{config.family}/{config.preset} learns fastest with it on a CPU, at {config.size} pixels"

    def _preferred_batch(self, config: ModelConfig) -> int:
        return (config.cpu_batch if self.on_cpu else None) or self.defaults.batch

    def random_seed(self) -> int:
        """A random seed, the same in all processes."""
        return int(self.processes.maxima([float(secrets.randbelow(2**31))], self.device)[0])


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """Everything that is decided before a run starts; nothing has been written yet.

    `state` is what to resume from, None for a new run. `source` is the decoded data set, or only
    the list of its images if the plan was made without decoding. `choices` are what was chosen for the user, and why.
    `credits` are author and license of the images, the command that started the run, and the model it began from.
    `initial` is what a new run begins from, None for random weights.
    """

    run_dir: RunDir
    machine: Machine
    data: str
    data_options: DataOptions
    source: Dataset | ScannedDataset
    choices: tuple[str, ...] = ()
    initial: StartingPoint | None = None
    config: ModelConfig
    batch: int
    seed: int
    mirror: bool
    budget: Budget
    state: SavedState | None
    save_seconds: float
    evaluate_seconds: float | None
    tensorboard: bool
    force: bool
    command: str
    credits: dict[str, str]

    def __post_init__(self) -> None:
        """Check that the batch can be divided among the processes. Raises UsageError."""
        processes = self.machine.processes.size
        smallest = MIN_IMAGES_PER_PROCESS * processes
        hint = f"use --batch {max(smallest, -(-self.batch // processes) * processes)}"
        if self.state is not None:  # the batch is fixed
            possible = (count for count in range(1, processes) if self.batch % count == 0)
            count = max((count for count in possible if self.batch >= MIN_IMAGES_PER_PROCESS * count), default=1)
            hint = f"resume this run with {count} processes"
        if self.batch < smallest:
            raise UsageError(f"batch size {self.batch} is too small: at least {smallest} images are needed", hint)
        if self.batch % processes:
            raise UsageError(f"batch size {self.batch} is not divisible by {processes} processes", hint)

    @classmethod
    def fresh(cls, options: TrainOptions, machine: Machine, reporter: Reporter, *, decode: bool) -> TrainPlan:
        """The plan of a new run. Raises UsageError and DataError."""
        backbone = open_backbone(options)
        begun = None if options.init_from is None else initial_weights.open_model(options.init_from, options.family)
        initial: StartingPoint | None = open_mapper_backbone(options) or begun
        preset = presets(options.family)[options.preset or machine.defaults.preset]
        if begun is not None and options.preset is None:
            preset = begun.config
        if backbone is not None and options.preset is None:
            preset = presets(options.family)[HEAD]
        targets = targets_of(options)
        if options.size is not None:
            preset.with_overrides(size=options.size)  # refuse an impossible size before decoding
        data_options = DataOptions(
            size=options.size if backbone is None else backbone.size,
            channels=options.channels if backbone is None else backbone.channels,
            crop=options.crop or DEFAULT_CROP,
            split=options.split or DEFAULT_SPLIT,
            use_classes=options.use_classes,
            strict=options.strict,
            keep=options.cache,
            exclude=(options.run,),
            targets=targets,
        )
        source = _open_data(options.data, data_options, machine, reporter, decode=decode, begun=begun)
        run_data.warn_of_empty_classes(source, reporter)
        run_data.warn_of_few_images(options.family, source, reporter)
        config, adapted = adapted_to_data(preset, source, options.overrides, is_preset=begun is None)
        config.check_classes()
        config.check_start(None if begun is None else begun.config)
        choices = [*source.choices, *adapted]
        if backbone is not None:
            config, initial = with_backbone(
                config, backbone, source, machine.defaults.preset, machine.device, options, reporter
            )
        elif not options.preset:
            reason = f"the default on {machine.kind}" if begun is None else "that of the model to begin from"
            choices.append(f"preset {config.preset}: {reason}")
            if begun is not None and (other := differences(begun.config, options.overrides)):
                choices.append(f"{other}: from the model to begin from, in place of the preset's")
        batch = options.batch
        if batch is None:
            batch = machine.default_batch(config, len(source))
            choices.append(f"batch {batch}: {machine.reason_of_batch(config, batch)}")
        if not _has_budget(options):
            choices.append(f"{machine.defaults.minutes:g} minutes: the default on {machine.kind}")
        return cls(
            **_run_settings(options),
            credits=_first_credits(options, begun),
            machine=machine,
            data_options=data_options,
            source=source,
            choices=tuple(choices),
            initial=initial,
            config=config,
            batch=batch,
            seed=machine.random_seed() if options.seed is None else options.seed,
            mirror=options.mirror,
            budget=_given_budget(options, len(source), machine),
            state=None,
        )

    @classmethod
    def resumed(
        cls, options: TrainOptions, saved: SavedState, machine: Machine, reporter: Reporter, *, decode: bool
    ) -> TrainPlan:
        """The plan of a run that continues from `saved`. Raises UsageError, DataError and CheckpointError."""
        saved.refuse_changes(options)
        settings = saved.settings
        data_options = DataOptions(
            size=settings["size"],
            channels=settings["channels"],
            crop=settings["crop"],
            split=settings["split"],
            use_classes=settings["use_classes"],
            strict=options.strict,
            keep=options.cache,
            exclude=(options.run,),
            targets=targets_of(options, saved.config),
        )
        had_classes = bool(saved.config.classes)
        source = _open_data(options.data, data_options, machine, reporter, decode=decode, had_classes=had_classes)
        return cls(
            **_run_settings(options),
            credits={**saved.credits, **run_data.given_credits(options)},
            machine=machine,
            data_options=data_options,
            source=source,
            config=saved.config_for(source, options.overrides),
            batch=settings["batch"],
            seed=settings["seed"],
            mirror=settings["mirror"],
            budget=_given_budget(options, len(source), machine) if _has_budget(options) else saved.budget,
            state=saved,
        )

    @property
    def processes(self) -> ProcessGroup:
        """The processes of the run."""
        return self.machine.processes

    @property
    def device(self) -> torch.device:
        """This process's device."""
        return self.machine.device

    @property
    def precision(self) -> torch.dtype:
        """The precision to train in."""
        return self.machine.precision

    @property
    def dataset(self) -> Dataset:
        """The decoded data set. Raises TypeError if the plan was made without decoding."""
        if isinstance(self.source, ScannedDataset):
            raise TypeError("this plan was made without decoding the data")
        return self.source

    def settings(self) -> dict[str, Any]:
        """The resolved settings, under the names that --config reads."""
        config = {name: value for name, value in self.config.to_json().items() if name not in CONFIG_FROM_DATA}
        seconds = self.budget.seconds
        return {
            "data": self.data,
            **{name: value for name, value in self.fixed_settings().items() if name != "use_classes"},
            **({"no_classes": not self.data_options.use_classes} if kind_of(self.config.family) == GENERATOR else {}),
            **target_settings(self.data_options.targets),
            "images": self.budget.images,
            "minutes": None if seconds is None else seconds / 60,
            "precision": precision_name(self.precision),
            **config,
        }

    def fixed_settings(self) -> dict[str, Any]:
        """The settings that a resumed run takes over, by the names of `saved_state.SETTINGS`."""
        return {
            "preset": self.config.preset,
            "size": self.config.size,
            "channels": self.config.channels,
            "crop": self.data_options.crop,
            "split": self.data_options.split,
            "use_classes": self.data_options.use_classes,
            "batch": self.batch,
            "seed": self.seed,
            "mirror": self.mirror,
        }

    def provenance(self, images: int, seconds: float) -> dict[str, Any]:
        """How a checkpoint was made, after `images` images and `seconds` of training."""
        return {
            "imggen": imggen.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "command": self.command,
            **({} if self.state is None else {"resumed": self.command}),
            "data": Path(self.data).name or self.data,
            "data_key": self.dataset.key,
            "dataset_size": len(self.dataset),
            "images": images,
            "seconds": round(seconds, 1),
            "seed": self.seed,
            "batch": self.batch,
            "device": self.device.type,
            "precision": precision_name(self.precision),
            **self.credits,
        }


def _run_settings(options: TrainOptions) -> dict[str, Any]:
    """The fields of a plan that are taken from the options as they are."""
    return {
        "run_dir": RunDir(options.run),
        "data": options.data,
        "save_seconds": options.save_minutes * 60,
        "evaluate_seconds": None if options.evaluate_every is None else options.evaluate_every * 60,
        "tensorboard": options.tensorboard,
        "force": options.force,
        "command": options.command,
    }


def _first_credits(options: TrainOptions, begun: InitialWeights | None) -> dict[str, str]:
    credits = {"command": options.command, **run_data.given_credits(options)}
    return credits if begun is None else {**credits, "init_from": begun.name}


def _has_budget(options: TrainOptions) -> bool:
    return any(value is not None for value in (options.images, options.epochs, options.minutes))


def _given_budget(options: TrainOptions, dataset_size: int, machine: Machine) -> Budget:
    return Budget.of(options.images, options.epochs, options.minutes, dataset_size, machine.defaults.minutes)


def _open_data(
    data: str,
    data_options: DataOptions,
    machine: Machine,
    reporter: Reporter,
    *,
    decode: bool,
    begun: InitialWeights | None = None,
    had_classes: bool = True,
) -> Dataset | ScannedDataset:
    """List the images of `data`, and open them with `decode`: one process fills the cache, the others then read it.

    The largest size that is chosen is that of the model that the run is `begun` from, or the device's. Without
    `had_classes` the data is read without classes, as for a run that was started so. Raises DataError.
    """
    limit = (machine.defaults.size, DEVICE_LIMIT) if begun is None else (begun.config.size, MODEL_LIMIT)
    with machine.processes.main_first():
        scanned = run_data.scan_without_new_classes(
            data,
            data_options,
            had_classes=had_classes,
            max_size=limit[0],
            reason_of_max=limit[1],
            reporter=reporter,
        )
        source: Dataset | ScannedDataset = scanned.load(reporter) if decode else scanned
    if isinstance(source, Dataset):
        # All processes or none decode on the fly: unreadable images are left out in the cache alone.
        on_the_fly = machine.processes.maxima([float(source.on_the_fly)], machine.device)[0]
        if on_the_fly and not source.on_the_fly:
            source = scanned.load(reporter, keep="none")
    if len(source) < 2:
        raise DataError(f"{source.name} has only {len(source)} image", "training needs at least a few hundred images")
    return source


def make_plan(options: TrainOptions, reporter: Reporter, *, decode: bool = True) -> TrainPlan:
    """Decide everything about a run; without `decode` the data is only listed.

    Raises UsageError, DataError, CheckpointError and DeviceError.
    """
    machine = Machine.start(options)
    # The main process alone looks whether a run of this torchrun goes on.
    if not machine.processes.maxima([float(options.resume)], machine.device)[0]:
        return TrainPlan.fresh(options, machine, reporter, decode=decode)
    return TrainPlan.resumed(options, SavedState.read(RunDir(options.run)), machine, reporter, decode=decode)
