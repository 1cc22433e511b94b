"""The contract between a model family and everything else.

A backend is a deterministic map from Gaussian noise to images: sampling, interpolation, inpainting and evaluation
know nothing else of a family. A learner is what the training loop drives.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from imggen.errors import UsageError
from imggen.models import global_batch
from imggen.models.config import ModelConfig, SamplingOptions
from imggen.models.hard_alpha import harden_alpha
from imggen.models.muon import Muon
from imggen.models.training import micro_batches

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]
DEFAULT_SAMPLING = SamplingOptions()
Task = Literal["inpaint", "likelihood", "features"]


class NonFiniteError(Exception):
    """A loss or gradient is NaN or infinite; raised before the optimizer has changed a weight."""


class Inversion(NamedTuple):
    """Noise (B, *noise_shape) that generates given images, and the labels (B,) to generate them with.

    The labels are those given to `invert`, or the most likely ones; None if the model has no classes.
    """

    noise: Tensor
    labels: Tensor | None


class Features(NamedTuple):
    """What a model's own networks see in B images.

    `vectors` (B, D), to compare images by; `maps`, feature maps (B, C, h, w) from the coarsest to the finest, of which
    there may be none. Both float32; row i depends on image i alone, and on no label.
    """

    vectors: Tensor
    maps: tuple[Tensor, ...]


class Diagnostic(NamedTuple):
    """A number for each image (B,), with a title and one line of explanation for the evaluation report."""

    values: Tensor
    title: str
    description: str


class Backend(nn.Module, ABC):
    """The trained model of a family: what a checkpoint holds.

    Images are float tensors (B, C, H, W) in [-1, 1]. Noise is (B, *noise_shape), standard normal. Labels are
    int64 (B,): needed by `generate` if the model has classes, and None if it has none. With `config.hard_alpha`, alpha
    is -1 or 1 in every image that the model makes.

    `supported` names the fields of SamplingOptions that have an effect. `needs_full_precision` is set by families
    whose samples are discrete: rounding to TF32 could change a token, so TF32 is disabled for them.
    """

    supported: ClassVar[frozenset[str]] = frozenset({"temperature"})
    needs_full_precision: ClassVar[bool] = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty if the model has none."""
        return self.config.classes

    @property
    @abstractmethod
    def noise_shape(self) -> tuple[int, ...]:
        """The shape of one image's noise."""

    @property
    def min_batch(self) -> int:
        """The smallest batch worth using on a CPU: a smaller one takes just as long."""
        return 1

    @property
    def detail_mask(self) -> Tensor | None:
        """Which elements of the noise (*noise_shape), bool, affect fine details only; None if none do."""
        return None

    @abstractmethod
    def generate(
        self, noise: Tensor, labels: Tensor | None = None, options: SamplingOptions = DEFAULT_SAMPLING
    ) -> Tensor:
        """Map noise (B, *noise_shape) to images (B, C, H, W) in [-1, 1].

        Deterministic, and row i depends on row i alone. At temperature 1 the model samples as trained; lower values
        trade variety for typicality (a GAN truncates, a VAE scales its priors, a transformer divides its logits).
        """

    @abstractmethod
    def invert(
        self, images: Tensor, labels: Tensor | None = None, options: SamplingOptions = DEFAULT_SAMPLING
    ) -> Inversion:
        """Find noise whose `generate` (with the same options) comes as near to the images as the family can.

        If the model has classes and no labels are given, the most likely class of each image is used.
        """

    @abstractmethod
    def inpaint(
        self,
        images: Tensor,
        mask: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        options: SamplingOptions = DEFAULT_SAMPLING,
    ) -> Tensor:
        """Fill where `mask` (B, 1, H, W) is 1; different noise gives a different fill.

        The unmasked pixels may come back changed. If the model has classes and no labels are given, the family
        chooses the class.
        """

    def reconstruct(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Encode and decode images (B, C, H, W): what the noise of `invert` generates."""
        return self.generate(*self.invert(images, labels))

    def check_options(self, options: SamplingOptions) -> None:
        """Raise UsageError for an option that has no effect on this model."""
        for name in options.changed():
            if name not in self.supported:
                flags = ", ".join(f"--{other.replace('_', '-')}" for other in sorted(self.supported))
                raise UsageError(
                    f"a {self.config.family} has no option --{name.replace('_', '-')}",
                    f"leave it out; its sampling options are {flags}",
                )

    def for_inference(self) -> Backend:
        """The same map arranged for speed (folded norms, CUDA graphs): the caller's own copy, or the model itself."""
        return self

    def features(self, images: Tensor) -> Features:
        """What the model sees in images (B, C, H, W). Raises UsageError, with the reason, for one that cannot see."""
        raise UsageError(f"this {self.config.family} has no features: {self.limitation('features')}")

    def class_scores(self, images: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Log-probability (B, classes) of each class in nats, up to a constant, given the pixels where `mask` is 0.

        The most likely label is its argmax. None without classes, and for a model that knows no scores.
        """
        return None

    def harden(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) with the model's alpha: only -1 or 1 if that of its data is so."""
        return harden_alpha(images) if self.config.hard_alpha else images

    def limitation(self, task: Task) -> str:
        """Why this model is poor at a task, or cannot do it although its family can; empty if there is no reason."""
        return ""

    def diagnostics(
        self, images: Tensor, labels: Tensor | None = None, options: SamplingOptions = DEFAULT_SAMPLING
    ) -> dict[str, Diagnostic]:
        """What else the family can measure about given images, by name; `imggen evaluate` prints the means."""
        return {}

    def _check_labels(self, labels: Tensor | None, count: int) -> Tensor | None:
        """Return `labels` if they fit the model: (count,) if it has classes, else None. Raises ValueError."""
        if not self.classes:
            if labels is not None:
                raise ValueError("this model has no classes: labels must be None")
            return None
        if labels is None or labels.shape != (count,):
            raise ValueError(f"this model has {len(self.classes)} classes: labels of shape ({count},) are needed")
        return labels


@runtime_checkable
class HasLikelihood(Protocol):
    """A backend that bounds the probability of given images.

    If `binarized`, the likelihood is that of images whose every value is -1 or 1.
    """

    @property
    def binarized(self) -> bool:
        """Whether images must be binarized first."""

    def log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Lower bound (B,) on the log-probability of each image in nats; samples with torch's global generator."""


@runtime_checkable
class HasLatentLayers(HasLikelihood, Protocol):
    """A backend with layers of latents."""

    def importance_bound(self, images: Tensor, labels: Tensor | None = None, *, num_samples: int) -> Tensor:
        """Lower bound (B,) on the log-likelihood in nats that tightens with `num_samples` (arXiv 1509.00519)."""

    def layer_information(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """KL divergence (B,) in nats per image of each layer of latents, by the layer's name."""


def class_log_frequencies(config: ModelConfig, device: torch.device) -> Tensor:
    """Logarithms (classes,) of the number of training images of each class, float32; all equal where unknown."""
    counts = torch.tensor(config.class_counts, dtype=torch.float32, device=device)
    return counts.clamp(min=1e-9).log()


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
    def backend(self) -> Backend:
        """The averaged (EMA) backend, in eval mode: what previews show and checkpoints hold."""

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
        """Begin a new run with these weights, a state of `backend`, in place of random ones."""

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
