"""The contract between a family and everything else.

A backend is a deterministic map from Gaussian noise to pictures; sample, interpolate, inpaint and
evaluate know nothing else of it. A learner is what train drives.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from imggen.errors import UsageError
from imggen.models.config import ModelConfig

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]


class NonFiniteError(Exception):
    """A loss or gradient is NaN or infinite; raised before the optimiser has touched a weight."""


class Backend(nn.Module, ABC):
    """What a checkpoint holds.

    Pictures are float tensors (B, C, H, W) in [-1, 1]; noise is (B, *noise_shape), standard normal;
    labels are int64 (B,), needed exactly when `classes` is not empty.
    `drawing` names the settings that `draw_with` takes. A `careful` family's pictures can become others by the last
    digits of its arithmetic: it is spared what costs a GPU's digits.
    """

    drawing: ClassVar[tuple[str, ...]] = ()
    careful: ClassVar[bool] = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture."""
        return self.config.image_shape

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or none."""
        return self.config.classes

    @property
    @abstractmethod
    def noise_shape(self) -> tuple[int, ...]:
        """The shape of one picture's noise."""

    @abstractmethod
    def generate(self, noise: Tensor, labels: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Noise (B, *noise_shape) → pictures (B, C, H, W) in [-1, 1].

        Deterministic, and row i depends on row i alone. `temperature` 1 is the model as trained;
        lower is tamer (truncation for a GAN, the prior's for a VAE, the softmax's for a transformer).
        """

    def generate_between(
        self, noise: Tensor, labels: Tensor, others: Tensor, share: Tensor, *, temperature: float = 1.0
    ) -> Tensor:
        """Pictures on the way from the classes `labels` (B,) to `others` (B,), `share` (B,) in [0, 1] of the way.

        At 0 and 1 it is `generate`. A family whose classes have something between them shows it; else the class
        changes at the middle, and every picture is one that the model draws.
        """
        return self.generate(noise, torch.where(share < 0.5, labels, others), temperature=temperature)

    @abstractmethod
    def invert(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1] → noise whose `generate` comes as near as the family can.

        With classes and no labels it is noise for the class of `likely_labels`.
        """

    @abstractmethod
    def inpaint(
        self,
        images: Tensor,
        mask: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> Tensor:
        """Fill where `mask` (B, 1, H, W) is 1; other noise, other fill. Known pixels may come back changed.

        With classes and no labels the family chooses the class.
        """

    def log_counts(self, device: torch.device) -> Tensor:
        """Logarithms (classes,) of how many pictures of each class the data has, float32; all equal where unknown."""
        counts = torch.tensor(self.config.class_counts, dtype=torch.float32, device=device)
        return counts.clamp(min=1e-9).log()

    def likely_labels(self, images: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """The class (B,) that each picture most likely has where `mask` (B, 1, H, W) is 0; none without classes."""
        return None

    def reconstruct(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The model's own version (B, C, H, W) of each picture: what the noise of `invert` draws.

        With classes and no labels it is that of the class of `likely_labels`.
        """
        return self.generate(*self.locate(images, labels))

    def locate(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The noise of `invert`, and the class that it is for: the one given, or that of `likely_labels`."""
        if labels is None:
            labels = self.likely_labels(images)
        return self.invert(images, labels), labels

    def log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """Natural logarithm of each picture's probability (B,), as bytes; none when the family has no likelihood.

        A bound from below counts: what is printed is then a bound on bits from above. Where it takes draws, they are
        from torch's global generator. Pictures of a `binary` model are -1 or 1 in every channel of every pixel.
        """
        return None

    @property
    def details(self) -> Tensor | None:
        """Which numbers of the noise (*noise_shape), bool, make details alone; none where that cannot be told."""
        return None

    @property
    def makeshift(self) -> str:
        """Why this model fills holes less well than its family can, for people to read; empty where it does not."""
        return ""

    @property
    def withheld(self) -> str:
        """Why a family that has a likelihood does not tell it of this model; empty where it does."""
        return ""

    def draw_with(self, **settings: float) -> None:
        """From now on draw with these settings, and with its own for those not named.

        Raises UsageError for a setting that the family does not know, or a value out of range.
        """
        for name in settings:
            if name not in self.drawing:
                known = ", ".join("--" + name.replace("_", "-") for name in ("temperature", *self.drawing))
                raise UsageError(
                    f"a {self.config.family} knows no --{name.replace('_', '-')}", f"leave it out; it knows {known}"
                )

    def measures(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """What else can be said of given pictures: a number (B,) each, by name; evaluate prints their means."""
        return {}

    def explained(self, name: str) -> tuple[str, str]:
        """A title and a line of explanation for one of the `measures`."""
        raise KeyError(name)

    @property
    def binary(self) -> bool:
        """Whether the likelihood is one of pictures whose every value was drawn black or white by its grey."""
        return False

    def importance_bound(self, images: Tensor, labels: Tensor | None = None, *, samples: int) -> Tensor | None:
        """A bound (B,) on the log-likelihood from below that tightens with `samples`; none without latents."""
        return None

    def information(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor] | None:
        """Nats (B,) that each layer of latents carries of each picture, by the layer's name; none without layers."""
        return None

    def offers(self, name: str) -> bool:
        """Whether the family has what the contract leaves open under this name: `importance_bound`, …"""
        return getattr(type(self), name) is not getattr(Backend, name)

    @property
    def rows(self) -> int:
        """Pictures that it works on together on a CPU: fewer take as long."""
        return 1

    def for_inference(self) -> Backend:
        """The same map arranged for speed (normalisation folded away); the caller's own copy."""
        return self

    def check_labels(self, labels: Tensor | None, count: int) -> Tensor | None:
        """`labels` when the model has classes, none when it has none; anything else is a ValueError."""
        if not self.classes:
            if labels is not None:
                raise ValueError("this model has no classes: labels must be None")
            return None
        if labels is None or labels.shape != (count,):
            raise ValueError(f"this model has {len(self.classes)} classes: labels of shape ({count},) are needed")
        return labels


class Learner(ABC):
    """Networks, losses and optimisers of one training run.

    Every schedule is a function of `progress` in [0, 1], the fraction of the budget spent. Random
    numbers come from torch's global generator, which the engine seeds before every step.
    `micro_batch` is the most pictures to hold in one pass; the engine lowers it when memory runs out.
    `reduce_gradients` averages gradients over `processes`; the engine sets both when there are several. `images` of a
    step are this process's share, `images_seen` counts those of all.
    A share `hold_out` of the pictures (some hundreds at most) never comes up in a step; `held_out` gives them, batch by
    batch, with their labels. It is none where that would be too few.
    """

    micro_batch: int | None = None
    precision: torch.dtype = torch.float32
    processes: int = 1
    hold_out: float = 0.0

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.reduce_gradients: Callable[[Iterable[nn.Parameter]], None] = lambda parameters: None
        self.held_out: Callable[[], Iterable[tuple[Tensor, Tensor | None]]] | None = None

    @property
    @abstractmethod
    def backend(self) -> Backend:
        """The averaged (EMA) backend, in eval mode: what previews show and checkpoints hold."""

    @property
    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """Every network by name: for moving, counting parameters and saving."""

    def expect(self, pictures: int) -> None:
        """Told before a new run's first step: how many different pictures there are to learn from."""
        return

    @abstractmethod
    def step(self, images: Tensor, labels: Tensor | None, progress: float, images_seen: int) -> dict[str, Tensor]:
        """One step on pictures (B, C, H, W) in [-1, 1]; returns scalar metrics, still on the device.

        Raises NonFiniteError before an optimiser has used a non-finite gradient.
        """

    @property
    @abstractmethod
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Every optimiser by name."""

    def to(self, device: torch.device) -> None:
        """Move every network, in the layout that convolutions like."""
        for network in self.networks.values():
            network.to(device).to(memory_format=torch.channels_last)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next step depends on: tensors and JSON, so that they fit safetensors."""
        tensors: dict[str, Tensor] = {}
        document: dict[str, Any] = {}
        for name, network in self.networks.items():
            tensors.update({f"{name}.{key}": value for key, value in network.state_dict().items()})
        for name, optimiser in self.optimizers.items():
            state = optimiser.state_dict()
            for index, slots in state["state"].items():
                tensors.update({f"{name}.{index}.{slot}": value for slot, value in slots.items()})
            groups = [
                {key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]
            ]
            document[name] = groups
        return tensors, document

    def load_state(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """The inverse of `state`; raises KeyError or RuntimeError when something is missing or misshapen."""
        for name, network in self.networks.items():
            wanted = {key: tensors[f"{name}.{key}"] for key in network.state_dict()}
            network.load_state_dict(wanted)
        for name, optimiser in self.optimizers.items():
            current = optimiser.state_dict()
            parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"{name}."):
                    _, index, slot = key.split(".")
                    # load_state_dict keeps references: without a copy, a snapshot would train along. And fused
                    # optimisers walk through memory: what belongs to a weight must be laid out as the weight is.
                    like = parameters[int(index)]
                    copy = torch.empty_like(like) if value.shape == like.shape else torch.empty_like(value)
                    slots.setdefault(int(index), {})[slot] = copy.copy_(value)
            groups = [
                {**group, **saved, "params": group["params"]}
                for group, saved in zip(current["param_groups"], document[name], strict=True)
            ]
            optimiser.load_state_dict({"state": slots, "param_groups": groups})

    def gradient_norm(self, optimisers: Optimizers, *losses: Tensor) -> Tensor:
        """Average the gradients over processes and measure them together; raises NonFiniteError, all cleared."""
        several = _several(optimisers)
        groups = [group for optimiser in several for group in optimiser.param_groups]
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        if self.processes > 1 and parameters:
            # A loss that is finite in all processes but one is to stop all: nothing times infinity is no number.
            first = parameters[0].grad
            assert first is not None
            for loss in losses:
                first.add_(loss.detach().to(first) * 0)
        self.reduce_gradients(parameters)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not torch.isfinite(torch.stack([norm, *(loss.detach().to(norm) for loss in losses)])).all():
            for optimiser in several:
                optimiser.zero_grad(set_to_none=True)
            raise NonFiniteError
        return norm

    def apply_gradients(self, optimisers: Optimizers, *losses: Tensor) -> None:
        """Average over processes, refuse non-finite numbers, then step and clear; of several, all or none."""
        self.gradient_norm(optimisers, *losses)
        for optimiser in _several(optimisers):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)


def _several(optimisers: Optimizers) -> Sequence[torch.optim.Optimizer]:
    return (optimisers,) if isinstance(optimisers, torch.optim.Optimizer) else optimisers


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
