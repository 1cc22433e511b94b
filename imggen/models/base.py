"""The contract between a model and everything else but training (`learner.py`).

A model is of one kind: a generator, which is a `Backend`, or a classifier. All of them are a `Model`. A backend is a
deterministic map from Gaussian noise to images: sampling, interpolation, inpainting and evaluation know nothing else
of a family.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from imggen.errors import UsageError
from imggen.models.config import ModelConfig, SamplingOptions
from imggen.models.hard_alpha import harden_alpha

DEFAULT_SAMPLING = SamplingOptions()
Task = Literal["inpaint", "likelihood", "features", "classes", "directions"]


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


class Model(nn.Module, ABC):
    """A trained model of any kind: what a checkpoint holds.

    Images are float tensors (B, C, H, W) in [-1, 1], labels int64 (B,).
    """

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
    def min_batch(self) -> int:
        """The smallest batch worth using on a CPU: a smaller one takes just as long."""
        return 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of what the model gets for one image."""
        return self.config.image_shape

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


class Backend(Model):
    """A generator: the trained model of a family.

    Noise is (B, *noise_shape), standard normal. Labels are needed by `generate` if the model has classes, and None if
    it has none. With `config.hard_alpha`, alpha
    is -1 or 1 in every image that the model makes.

    `supported` names the fields of SamplingOptions that have an effect. `needs_full_precision` is set by families
    whose samples are discrete: rounding to TF32 could change a token, so TF32 is disabled for them.
    """

    supported: ClassVar[frozenset[str]] = frozenset({"temperature"})
    needs_full_precision: ClassVar[bool] = False

    @property
    @abstractmethod
    def noise_shape(self) -> tuple[int, ...]:
        """The shape of one image's noise."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image's noise."""
        return self.noise_shape

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
