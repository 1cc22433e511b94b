"""How probable a picture is, given what the decoder says of each pixel; always in float32."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, softplus

from imggen.models.vae.config import VaeConfig

HALF_BIN = 1 / 255
SMALLEST_SCALE = 1e-3
FAINT = 1e-4  # of an opaque colour: what a clear one counts
_ONE = math.log(math.e - 1)  # softplus of it is 1


class Likelihood(nn.Module, ABC):
    """From the decoder's output (B, outputs, H, W) to probabilities; pictures are (B, C, H, W) in [-1, 1]."""

    binary = False

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.channels = config.channels

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Numbers that the decoder gives for each pixel."""

    def start(self) -> Tensor:
        """The decoder's biases at first (outputs,)."""
        return torch.zeros(self.outputs)

    @abstractmethod
    def log_prob(self, output: Tensor, images: Tensor) -> Tensor:
        """Natural logarithm of each pixel's probability, its channels together: (B, H, W)."""

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """The mean picture (B, C, H, W), in [-1, 1]."""

    def taught(self, images: Tensor) -> Tensor:
        """What the model learns from: the pictures themselves, but for binarised ones."""
        return images


class MixtureOfLogistics(Likelihood):
    """A discretised mixture of logistics over the 256 values (Salimans et al. 2017, arXiv 1701.05517).

    The means of a channel shift linearly with the channels before it; alpha comes first, since colours without it
    mean nothing. A difference of sigmoids is taken as a product, which neither cancels nor needs a case for tails.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self.mixtures = config.mixtures
        self.order = (3, 0, 1, 2) if config.channels == 4 else tuple(range(config.channels))

    @property
    def outputs(self) -> int:
        """A weight, then for each channel a mean, a scale and a slope on every earlier channel."""
        count = self.channels
        return self.mixtures * (1 + 2 * count + count * (count - 1) // 2)

    def start(self) -> Tensor:
        """Means spread over the range, so that no two logistics are the same; scales of a third."""
        biases = torch.zeros(self.outputs)
        count, k = self.channels, self.mixtures
        biases[k : k + count * k] = torch.linspace(-0.8, 0.8, k).repeat(count) if k > 1 else 0.0
        biases[k + count * k : k + 2 * count * k] = -1.0
        return biases

    def _parts(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log weights (B, K, H, W), means and scales (B, C, K, H, W), slopes (B, pairs, K, H, W)."""
        batch, _, height, width = output.shape
        k, count = self.mixtures, self.channels
        output = output.float().contiguous()
        weights = output[:, :k].log_softmax(1)
        rest = output[:, k:].view(batch, -1, k, height, width)
        scales = softplus(rest[:, count : 2 * count]) + SMALLEST_SCALE
        return weights, rest[:, :count], scales, rest[:, 2 * count :].tanh()

    def _shifted(self, means: Tensor, slopes: Tensor, known: list[Tensor]) -> Tensor:
        """The mean (B, K, H, W) of the next channel, when the earlier ones are `known`."""
        index = len(known)
        first = index * (index - 1) // 2
        mean = means[:, index]
        for place, value in enumerate(known):
            mean = mean + slopes[:, first + place] * value
        return mean

    def log_prob(self, output: Tensor, images: Tensor) -> Tensor:
        """See above; exact for the 256 values."""
        weights, means, scales, slopes = self._parts(output)
        images = images.float()[:, list(self.order)].contiguous()
        values = list(images.unsqueeze(2).unbind(1))
        centres = torch.stack([self._shifted(means, slopes, values[:index]) for index in range(self.channels)], 1)
        x = images.unsqueeze(2)
        inverse = scales.reciprocal()
        upper, lower = (x + HALF_BIN - centres) * inverse, (x - HALF_BIN - centres) * inverse
        # σ(a) - σ(b) = σ(a) σ(-b) (1 - exp(b - a)); the lowest and the highest value take the whole tail.
        not_last, not_first = x < 1 - HALF_BIN, x > HALF_BIN - 1
        inside = torch.log(-torch.expm1(-2 * HALF_BIN * inverse))
        found = logsigmoid(upper) * not_last + logsigmoid(-lower) * not_first + inside * (not_last & not_first)
        return torch.logsumexp(weights + found.sum(1), 1)

    def mean(self, output: Tensor) -> Tensor:
        """The mixture's mean: each logistic's own, cut to the range, earlier channels at theirs."""
        weights, means, scales, slopes = self._parts(output)
        found: list[Tensor] = []
        for index in range(self.channels):
            centre, scale = self._shifted(means, slopes, found), scales[:, index]
            # The mean of a variable cut to [-1, 1] is the integral of its upper tail, less 1.
            found.append(scale * (softplus((centre + 1) / scale) - softplus((centre - 1) / scale)) - 1)
        shares = weights.exp()
        of_colours = shares
        if self.channels == 4:
            # A colour counts as much as it is seen: what is clear is white in training, and is not to fade an edge.
            opaque = shares * ((found[0] + 1) / 2 + FAINT)
            of_colours = opaque / opaque.sum(1, keepdim=True)
        drawn = torch.stack([((of_colours if index else shares) * part).sum(1) for index, part in enumerate(found)], 1)
        back = sorted(range(self.channels), key=self.order.__getitem__)
        return drawn[:, back].clamp(-1, 1)


class Bernoulli(Likelihood):
    """Of pictures whose every channel of every pixel was drawn black or white, by its grey value, anew each time."""

    binary = True

    @property
    def outputs(self) -> int:
        """A logit for each channel."""
        return self.channels

    def log_prob(self, output: Tensor, images: Tensor) -> Tensor:
        """Of pictures that are -1 or 1."""
        target = images.float().add(1).div(2)
        return -binary_cross_entropy_with_logits(output.float(), target, reduction="none").sum(1)

    def mean(self, output: Tensor) -> Tensor:
        """Probabilities, as grey values."""
        return output.float().sigmoid() * 2 - 1

    def taught(self, images: Tensor) -> Tensor:
        """Dynamic binarisation (Salakhutdinov and Murray 2008): -1 or 1, from torch's global generator."""
        white = torch.rand_like(images) < (images + 1) / 2
        # A number that is not finite stays so, and is found where losses are.
        return torch.where(white, 1.0, -1.0) + 0 * images


class Gaussian(Likelihood):
    """One variance for all pixels, the best there is: the mean squared error (arXiv 2006.13202, section 3.2).

    In training it is the batch's own; then the last one is kept, and the density is integrated over each of the 256
    values, so that the figure is an honest one.
    """

    variance: Tensor

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self.register_buffer("variance", torch.ones(()))

    @property
    def outputs(self) -> int:
        """A mean for each channel."""
        return self.channels

    def log_prob(self, output: Tensor, images: Tensor) -> Tensor:
        """In training the density times a value's width, else the exact integral."""
        centres, images = output.float(), images.float()
        if self.training:
            errors = (images - centres).square()
            with torch.no_grad():
                best = errors.mean().clamp(min=SMALLEST_SCALE**2)
                self.variance.copy_(torch.where(best.isfinite(), best, self.variance))
            each = -errors / (2 * best) - 0.5 * torch.log(2 * math.pi * best) + math.log(2 * HALF_BIN)
            return each.sum(1)
        deviation = self.variance.sqrt()
        upper, lower = (images + HALF_BIN - centres) / deviation, (images - HALF_BIN - centres) / deviation
        # In the upper half the same by symmetry, where the difference of two numbers near 1 would cancel.
        flip = lower > 0
        high = log_ndtr(torch.where(flip, -lower, upper))
        low = log_ndtr(torch.where(flip, -upper, lower))
        first, last = images < HALF_BIN - 1, images > 1 - HALF_BIN
        inside = high + torch.log(-torch.expm1((low - high).clamp(max=-1e-6)))
        ends = torch.where(first, log_ndtr(upper), log_ndtr(-lower))
        return torch.where(first | last, ends, inside).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        """The means, cut to the range."""
        return output.float().clamp(-1, 1)


def log_ndtr(x: Tensor) -> Tensor:
    """Logarithm of the normal distribution's lower tail; torch has none for Apple's GPUs, so the CPU works it out."""
    at = x.cpu() if x.device.type == "mps" else x
    found: Tensor = torch.special.log_ndtr(at)
    return found.to(x.device)


def build_likelihood(config: VaeConfig) -> Likelihood:
    """The one that the configuration names."""
    kinds: dict[str, type[Likelihood]] = {"dmol": MixtureOfLogistics, "bernoulli": Bernoulli, "gaussian": Gaussian}
    return kinds[config.likelihood](config)


def scale_of(raw: Tensor) -> Tensor:
    """A positive scale in float32 from what a network gives: 1 at 0, never below 0.001."""
    return softplus(raw.float() + _ONE) + SMALLEST_SCALE
