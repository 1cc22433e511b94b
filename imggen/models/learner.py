"""What the training loop drives: the networks, losses and optimizers of one run."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from imggen.models import global_batch
from imggen.models.base import Backend, Model
from imggen.models.config import ModelConfig
from imggen.models.muon import Muon
from imggen.models.training import micro_batches

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]


class NonFiniteError(Exception):
    """A loss or gradient is NaN or infinite; raised before the optimizer has changed a weight."""


class Learner(ABC):
    """Networks, losses and optimizers of one training run.

    Every schedule is a function of `progress` in [0, 1], the fraction of the budget spent. Random numbers come from
    torch's global generator, which the training loop seeds before every step.

    Set by the training loop: `micro_batch`, the most images in one forward pass (lowered when memory runs out), and
    `precision`. With several processes the images of a step are this process's part of the batch (`global_batch`), and
    `images_seen` counts those of all processes.

    A fraction `held_out_fraction` of the data (at most some hundreds of images) is never passed to `step`;
    `held_out` yields it in batches with labels. It is None if the data set is too small for that.
    """

    micro_batch: int | None = None
    precision: torch.dtype = torch.float32
    held_out_fraction: float = 0.0

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.held_out: Callable[[], Iterable[tuple[Tensor, Tensor | None]]] | None = None

    @property
    @abstractmethod
    def saved_model(self) -> Model:
        """The averaged (EMA) model, in eval mode: what previews show and checkpoints hold."""

    @property
    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """Every network by name: for moving, counting parameters and saving."""

    @property
    @abstractmethod
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Every optimizer by name."""

    def set_dataset_size(self, num_images: int) -> None:
        """Called before the first step of a new run with the number of different training images."""
        return

    @abstractmethod
    def step(self, images: Tensor, labels: Tensor | None, progress: float, images_seen: int) -> dict[str, Tensor]:
        """One step on images (B, C, H, W) in [-1, 1]; returns scalar metrics, still on the device.

        Raises NonFiniteError before an optimizer has used a non-finite gradient.
        """

    @abstractmethod
    def begin_from(self, weights: dict[str, Tensor]) -> None:
        """Begin a new run with these weights, a state of `saved_model`, in place of random ones."""

    @property
    def beginning(self) -> str:
        """How a training begins that follows `begin_from`, in one line; empty where there is nothing special."""
        return ""

    def to(self, device: torch.device) -> None:
        """Move every network to `device`, in channels_last layout, which is faster for convolutions."""
        for network in self.networks.values():
            network.to(device).to(memory_format=torch.channels_last)

    def autocast(self, device: torch.device) -> torch.autocast:
        """Mixed precision of this run; has no effect in float32."""
        return torch.autocast(device.type, self.precision, enabled=self.precision != torch.float32)

    def micro_batches(self, images: Tensor, labels: Tensor | None) -> list[tuple[float, Tensor, Tensor | None]]:
        """Split a batch into parts of at most `micro_batch` rows: each part's fraction of the batch, images, labels."""
        parts = micro_batches(images, self.micro_batch)
        label_parts = [None] * len(parts) if labels is None else list(micro_batches(labels, self.micro_batch))
        return [(len(part) / len(images), part, label) for part, label in zip(parts, label_parts, strict=True)]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next step depends on, as tensors (for safetensors) and a JSON document.

        Of the optimizers only the moments are stored: the configuration and `progress` give their rates.
        """
        tensors: dict[str, Tensor] = {}
        document: dict[str, Any] = {}
        for name, network in self.networks.items():
            tensors.update({f"{name}.{key}": value for key, value in network.state_dict().items()})
        for name, optimizer in self.optimizers.items():
            for index, slots in optimizer.state_dict()["state"].items():
                tensors.update({f"{name}.{index}.{slot}": value for slot, value in slots.items()})
        return tensors, document

    def load_state(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """The inverse of `state`. Raises ValueError for a tensor or value that is missing or does not fit."""
        for name, network in self.networks.items():
            load_exactly(network, name, tensors)
        for name, optimizer in self.optimizers.items():
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if not key.startswith(f"{name}."):
                    continue
                index, slot = _slot_of(key, len(parameters))
                like = parameters[index]
                if not value.is_floating_point() or value.shape not in (like.shape, ()):
                    raise ValueError(f"'{key}' does not fit its weight")
                # load_state_dict keeps references: without a copy, training would change the snapshot. Fused
                # optimizers need their state in the memory layout of the weight it belongs to.
                copy = torch.empty_like(like) if value.shape == like.shape else torch.empty_like(value)
                slots.setdefault(index, {})[slot] = copy.copy_(value)
            expected = {"momentum"} if isinstance(optimizer, Muon) else {"step", "exp_avg", "exp_avg_sq"}
            for index, found in slots.items():
                if found.keys() != expected:
                    raise ValueError(f"'{name}.{index}' does not have {', '.join(sorted(expected))}")
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": slots, "param_groups": groups})

    def gradient_norm(self, optimizers: Optimizers, *losses: Tensor) -> Tensor:
        """Average the gradients and the losses (detached) over the processes; returns the gradients' total norm.

        Raises NonFiniteError, with all gradients cleared, if the norm or a loss is not finite.
        """
        all_optimizers = _as_sequence(optimizers)
        groups = [group for optimizer in all_optimizers for group in optimizer.param_groups]
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        # With the losses in the same all-reduce, one that is not finite in any process stops all of them.
        global_batch.average([*gradients, *losses])
        norm = nn.utils.get_total_norm(gradients)
        if not torch.isfinite(torch.stack([norm, *(loss.detach().to(norm) for loss in losses)])).all():
            for optimizer in all_optimizers:
                optimizer.zero_grad(set_to_none=True)
            raise NonFiniteError
        return norm

    def apply_gradients(self, optimizers: Optimizers, *losses: Tensor) -> None:
        """Average gradients over processes, then step and clear every optimizer.

        Raises NonFiniteError before any optimizer has stepped.
        """
        self.gradient_norm(optimizers, *losses)
        for optimizer in _as_sequence(optimizers):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


class GeneratorLearner(Learner):
    """The learner of a generator."""

    @property
    @abstractmethod
    def backend(self) -> Backend:
        """The averaged (EMA) backend, in eval mode."""

    @property
    def saved_model(self) -> Backend:
        """The same: `backend`."""
        return self.backend


def load_exactly(network: nn.Module, prefix: str, tensors: dict[str, Tensor]) -> None:
    """Copy the tensors "PREFIX.NAME" into a network. Raises ValueError if one is missing, or of another dtype or shape.

    torch's own `load_state_dict` converts dtypes without a word.
    """
    own = network.state_dict()
    for name, current in own.items():
        saved = tensors.get(f"{prefix}.{name}")
        if saved is None:
            raise ValueError(f"'{prefix}.{name}' is missing")
        if saved.shape != current.shape or saved.dtype != current.dtype:
            raise ValueError(f"'{prefix}.{name}' is {saved.dtype} {tuple(saved.shape)}")
    network.load_state_dict({name: tensors[f"{prefix}.{name}"] for name in own})


def _slot_of(key: str, count: int) -> tuple[int, str]:
    """The number of the parameter, of `count`, and the name in "OPTIMIZER.NUMBER.NAME". Raises ValueError."""
    match = re.fullmatch(r"[^.]+\.(\d{1,9})\.(\w+)", key)
    if match is None or int(match[1]) >= count:
        raise ValueError(f"'{key}' belongs to no weight")
    return int(match[1]), match[2]


def _as_sequence(optimizers: Optimizers) -> Sequence[torch.optim.Optimizer]:
    return (optimizers,) if isinstance(optimizers, torch.optim.Optimizer) else optimizers
