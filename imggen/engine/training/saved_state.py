"""Read the state that a run saved, all of it before the data is decoded: a damaged one costs no time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from imggen.data.dataset import Dataset, ScannedDataset
from imggen.documents import COUNT, FLAG, OBJECT, SECONDS, TEXT, DocumentError, Kind, optional, read_fields
from imggen.engine.checkpoints import load_model, read_config
from imggen.engine.options import MAX_SEED, TrainOptions
from imggen.engine.run_dir import RunDir
from imggen.engine.training.budget import Budget
from imggen.engine.training.run_data import changed_option, refuse_other_data
from imggen.engine.training.targets import refuse_other_targets
from imggen.errors import CheckpointError, ImggenError, UsageError, first_line
from imggen.io.checkpoint import read_header, read_tensors
from imggen.models.config import ModelConfig
from imggen.models.learner import Learner

MAX_BATCH = 1_000_000
# Settings that a resumed run takes from its state; giving another value is an error.
SETTINGS = {
    "preset": TEXT,
    "size": COUNT,
    "channels": COUNT,
    "crop": TEXT,
    "split": TEXT,
    "use_classes": FLAG,
    "batch": Kind(f"from 1 to {MAX_BATCH:,}", lambda value: type(value) is int and 1 <= value <= MAX_BATCH),
    "seed": Kind(f"from 0 to {MAX_SEED}", lambda value: type(value) is int and 0 <= value <= MAX_SEED),
    "mirror": FLAG,
}
DOCUMENT = {
    "settings": OBJECT,
    "learner": OBJECT,
    "steps": COUNT,
    "images": COUNT,
    "rollbacks": COUNT,
    "budget": OBJECT,
    "seconds": SECONDS,
    "data_wait": SECONDS,
    "data_key": TEXT,
}
# Options of a family that may be changed with --resume: a run that diverged may continue with a lower rate.
CONFIG_CHANGEABLE_ON_RESUME = ("learning_rate",)


@dataclass(frozen=True)
class SavedState:
    """Everything in a state file: what the run was started with, how far it came, and the learner's tensors."""

    run_dir: RunDir
    settings: dict[str, Any]
    config: ModelConfig
    budget: Budget
    learner: dict[str, Any]
    tensors: dict[str, Tensor]
    steps: int
    images: int
    rollbacks: int
    seconds: float
    data_wait: float
    data_key: str
    credits: dict[str, str]

    @classmethod
    def read(cls, run_dir: RunDir) -> SavedState:
        """Read the state in a run's folder. Raises CheckpointError, with a hint that says what is left of the run."""
        try:
            header = read_header(run_dir.state, kind="state")
            config = read_config(header.document, run_dir.state)
            try:
                fields = read_fields(header.document, DOCUMENT)
                settings = read_fields(fields["settings"], SETTINGS)
                TrainOptions(family=config.family, data=str(run_dir.path), **settings)
                budget = _read_budget(fields["budget"])
                given = read_fields(header.document, {"credits": OBJECT} if "credits" in header.document else {})
                credits = read_fields(given.get("credits", {}), dict.fromkeys(given.get("credits", {}), TEXT))
            except (DocumentError, UsageError) as error:
                raise _damaged(run_dir, error) from error
            tensors = read_tensors(run_dir.state, header, None)
        except CheckpointError as error:
            raise CheckpointError(error.message, _what_is_left(run_dir)) from error
        return cls(
            **{**fields, "settings": settings, "budget": budget},
            run_dir=run_dir,
            config=config,
            tensors=tensors,
            credits=credits,
        )

    def load_into(self, learner: Learner) -> None:
        """Give a new learner this state, and free the tensors. Raises CheckpointError if it is another model's."""
        try:
            learner.load_state(self.tensors, self.learner)
        except (ValueError, RuntimeError) as error:
            raise _damaged(self.run_dir, error) from error
        self.tensors.clear()

    def refuse_changes(self, options: TrainOptions) -> None:
        """Raise UsageError for an option that contradicts the saved run."""
        if self.config.family != options.family:
            raise UsageError(
                f"{options.run} holds a run of {self.config.family}, not {options.family}",
                f"imggen train {self.config.family} --resume, or -o FOLDER for a new run",
            )
        defaults = TrainOptions(family=options.family, data=options.data)
        for name, value in self.settings.items():
            given = getattr(options, name)
            if name == "use_classes" and not self.config.classes:
                continue  # a run without classes goes on without, with or without --no-classes
            if given not in (getattr(defaults, name), value):
                raise changed_option(name, value, given)
        config = self.config.to_json()
        for name, given in options.overrides.items():
            if name not in CONFIG_CHANGEABLE_ON_RESUME and given != config.get(name):
                raise changed_option(name, config.get(name), given)
        refuse_other_targets(options, self.config)

    def config_for(self, source: Dataset | ScannedDataset, overrides: dict[str, Any]) -> ModelConfig:
        """The saved configuration with the changes that `overrides` may make.

        The data may have grown: the class frequencies stay those of the start. Raises CheckpointError if the data has
        another shape or other classes.
        """
        refuse_other_data(self.config, source)
        changes = {name: value for name, value in overrides.items() if name in CONFIG_CHANGEABLE_ON_RESUME}
        return self.config.with_overrides(**changes)


def _read_budget(document: dict[str, Any]) -> Budget:
    """One of images and seconds, above 0. Raises DocumentError."""
    budget = Budget(**read_fields(document, {"images": optional(COUNT), "seconds": optional(SECONDS)}))
    if (budget.images is None) == (budget.seconds is None) or not (budget.images or budget.seconds):
        raise DocumentError("has a wrong value: 'budget' must be a number of images or of seconds")
    return budget


def _damaged(run_dir: RunDir, error: Exception) -> CheckpointError:
    return CheckpointError(f"{run_dir.state} is damaged: {first_line(error)}", _what_is_left(run_dir))


def _what_is_left(run_dir: RunDir) -> str:
    """What the user of a run with a damaged state can still do."""
    try:
        load_model(run_dir.weights, device="cpu")
    except ImggenError:
        return "copy it from a backup, or start the run again with --force"
    return f"{run_dir.weights} is intact: keep it elsewhere, then start the run again with --force"
