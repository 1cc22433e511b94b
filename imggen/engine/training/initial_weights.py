"""`--init-from`: a new run that begins with the weights of a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from imggen.engine.checkpoints import load_model
from imggen.engine.options import TrainOptions
from imggen.errors import UsageError
from imggen.models import GENERATOR, kind_of, presets
from imggen.models.config import ModelConfig
from imggen.models.learner import Learner
from imggen.models.transfer import transfer
from imggen.reporting import Reporter

MAX_LISTED = 4  # names of weights


class StartingPoint(Protocol):
    """What a new run begins from."""

    def copy_into(self, learner: Learner, reporter: Reporter) -> None:
        """Give it to a new learner."""


@dataclass(frozen=True)
class InitialWeights:
    """A trained model to begin from: its name with its hash, its configuration, and its state."""

    name: str
    config: ModelConfig
    tensors: dict[str, Tensor]

    def copy_into(self, learner: Learner, reporter: Reporter) -> None:
        """Give the learner the weights that fit it, and report which do not."""
        own = learner.saved_model.state_dict()
        tensors = {name: tensor.to(learner.saved_model.device) for name, tensor in self.tensors.items()}
        result = transfer(tensors, own, self.config.classes, learner.config.classes)
        learner.begin_from(result.tensors)
        reporter.info(f"begin   from {self.name}: {len(result.whole):,} of {len(own):,} tensors are taken")
        if result.parts:
            reporter.info(f"begin   in part: {_list(result.parts)}")
        if result.new:
            reporter.info(f"begin   anew: {_list(result.new)}")
        if learner.beginning:
            reporter.info(f"begin   {learner.beginning}")
        if not result.whole:
            reporter.warn(f"nothing of {self.name} fits this model: it is trained from nothing")


def refuse_init_from(options: TrainOptions) -> None:
    """Raise UsageError if `--init-from` is given beside `--features`: both say what a run begins with."""
    if options.init_from is not None:
        raise UsageError("--init-from and --features exclude each other", "leave one of them out")


def open_model(name: str, family: str) -> InitialWeights:
    """The model of a name, run or file. Raises CheckpointError, and UsageError for one of another family."""
    loaded = load_model(name, device="cpu")
    own = loaded.model.config
    if own.family != family:
        raise UsageError(
            f"{name} is a {_noun(own.family)}, and cannot begin a {_noun(family)}",
            f"imggen train {own.family} --init-from {name}",
        )
    config = own.to_begin_from(presets(family).get(own.preset))
    # The name is kept in the new model, which may be published: without this machine's folders.
    shown = Path(name).name if Path(name).is_absolute() else name
    return InitialWeights(f"{shown} ({loaded.hash})", config, loaded.model.state_dict())


def _noun(family: str) -> str:
    """What a model of a family is called: a generator by its family, any other by its kind."""
    kind = kind_of(family)
    return family if kind == GENERATOR else kind.noun


def _list(names: list[str]) -> str:
    more = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {more:,} more" if more > 0 else "")
