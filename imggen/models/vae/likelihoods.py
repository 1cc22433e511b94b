"""Likelihoods of pixels: how probable an image is, given the decoder's output; always in float32."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, softplus

from imggen.models import global_batch
from imggen.models.vae.config import VaeConfig

HALF_BIN = 1 / 255  # half the distance between two of the 256 pixel values in [-1, 1]
MIN_SCALE = 1e-3  # of any distribution
MIN_COLOR_WEIGHT = 1e-4  # of a transparent mixture component's color, where an opaque one has 1
SOFTPLUS_INVERSE_OF_ONE = math.log(math.e - 1)

# Initial values of the mixture of logistics: means spread over +-0.8, scales of about a third (softplus(-1)).
INITIAL_MEAN_RANGE = 0.8
INITIAL_RAW_SCALE = -1.0


class Likelihood(nn.Module, ABC):
    """p(image | decoder's output (B, outputs, H, W)); images are (B, C, H, W) in [-1, 1]."""

    binarized = False  # whether the likelihood is that of images whose every value is -1 or 1

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.channels = config.channels

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Number of parameters that the decoder gives for each pixel."""

    def initial_bias(self) -> Tensor:
        """Initial biases of the decoder's last layer (outputs,)."""
        return torch.zeros(self.outputs)

    @abstractmethod
    def log_prob(self, output: Tensor, images: Tensor) -> Tensor:
        """Natural logarithm of each pixel's probability, its channels together: (B, H, W)."""

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """The mean image (B, C, H, W) in [-1, 1]."""

    def typical(self, output: Tensor) -> Tensor:
        """Like `mean`, but a color is the most probable one where there are several, not a blend of them."""
        return self.mean(output)

    def training_images(self, images: Tensor) -> Tensor:
        """The training targets: the given images, binarized where the likelihood needs it."""
        return images


class MixtureOfLogistics(Likelihood):
    """A discretized mixture of logistics over the 256 pixel values (PixelCNN++, Salimans et al., arXiv 1701.05517).

    The means of a channel depend linearly on the channels before it. Alpha comes first: where it is 0,
    colors are arbitrary. The difference of two sigmoids is computed as a product, which does not cancel in the tails.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self.mixtures = config.mixtures
        self.channel_order = (3, 0, 1, 2) if config.channels == 4 else tuple(range(config.channels))

    @property
    def outputs(self) -> int:
        """K weights; then for each channel K means, scales, and coefficients of every earlier channel."""
        count = self.channels
        return self.mixtures * (1 + 2 * count + count * (count - 1) // 2)

    def initial_bias(self) -> Tensor:
        """Means spread over the range, so that no two logistics are the same."""
        biases = torch.zeros(self.outputs)
        count, k = self.channels, self.mixtures
        # On the CPU even within torch.device("meta"), where linspace would import sympy: two seconds.
        means = torch.linspace(-INITIAL_MEAN_RANGE, INITIAL_MEAN_RANGE, k, device="cpu") if k > 1 else torch.zeros(1)
        biases[k : k + count * k] = means.repeat(count).to(biases.device)
        biases[k + count * k : k + 2 * count * k] = INITIAL_RAW_SCALE
        return biases

    def _split_output(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log weights (B, K, H, W), means and scales (B, C, K, H, W), coefficients (B, C (C - 1) / 2, K, H, W)."""
        batch, _, height, width = output.shape
        k, count = self.mixtures, self.channels
        output = output.float().contiguous()
        log_weights = output[:, :k].log_softmax(1)
        rest = output[:, k:].view(batch, -1, k, height, width)
        scales = softplus(rest[:, count : 2 * count]) + MIN_SCALE
        return log_weights, rest[:, :count], scales, rest[:, 2 * count :].tanh()

    def _conditional_mean(self, means: Tensor, coefficients: Tensor, earlier: list[Tensor]) -> Tensor:
        """The mean (B, K, H, W) of the next channel, given the values of the `earlier` ones."""
        channel = len(earlier)
        first = channel * (channel - 1) // 2
        mean = means[:, channel]
        for index, value in enumerate(earlier):
            mean = mean + coefficients[:, first + index] * value
        return mean

    def log_prob(self, output: Tensor, images: Tensor) -> Tensor:
        """Probability of each of the 256 values, exactly: the logistic's mass between the value's two bin edges."""
        log_weights, means, scales, coefficients = self._split_output(output)
        images = images.float()[:, list(self.channel_order)].contiguous()
        values = list(images.unsqueeze(2).unbind(1))
        centers = torch.stack(
            [self._conditional_mean(means, coefficients, values[:index]) for index in range(self.channels)], 1
        )
        x = images.unsqueeze(2)
        inverse_scales = scales.reciprocal()
        upper, lower = (x + HALF_BIN - centers) * inverse_scales, (x - HALF_BIN - centers) * inverse_scales
        # σ(a) - σ(b) = σ(a) σ(-b) (1 - exp(b - a)); the lowest and the highest value take the whole tail.
        not_last, not_first = x < 1 - HALF_BIN, x > HALF_BIN - 1
        inside = torch.log(-torch.expm1(-2 * HALF_BIN * inverse_scales))
        log_probs = logsigmoid(upper) * not_last + logsigmoid(-lower) * not_first + inside * (not_last & not_first)
        return torch.logsumexp(log_weights + log_probs.sum(1), 1)

    def mean(self, output: Tensor) -> Tensor:
        """The mean of the mixture, each logistic clamped to [-1, 1], with earlier channels at their means."""
        log_weights, means, scales, coefficients = self._split_output(output)
        components: list[Tensor] = []
        for index in range(self.channels):
            center, scale = self._conditional_mean(means, coefficients, components), scales[:, index]
            # The mean of a variable clamped to [-1, 1] is the integral of its upper tail, less 1.
            clamped = scale * (softplus((center + 1) / scale) - softplus((center - 1) / scale)) - 1
            components.append(clamped)
        weights = log_weights.exp()
        color_weights = self._color_weights(weights, components[0])
        return self._image([(weights if self._is_alpha(i) else color_weights) * x for i, x in enumerate(components)])

    def typical(self, output: Tensor) -> Tensor:
        """Alpha at its mean, colors at the center of the most probable logistic."""
        log_weights, means, _, coefficients = self._split_output(output)
        centers: list[Tensor] = []
        for _ in range(self.channels):
            centers.append(self._conditional_mean(means, coefficients, centers).clamp(-1, 1))
        weights = log_weights.exp()
        best = self._color_weights(weights, centers[0]).argmax(1, keepdim=True)
        return self._image([weights * x if self._is_alpha(i) else x.gather(1, best) for i, x in enumerate(centers)])

    def _is_alpha(self, index: int) -> bool:
        """Whether the channel at `index` of `channel_order` is alpha."""
        return self.channels == 4 and index == 0

    def _color_weights(self, weights: Tensor, first: Tensor) -> Tensor:
        """Weights (B, K, H, W) of the mixture, for colors; `first` are the components' values of the first channel.

        A color is weighted by its alpha: transparent pixels are white in training and would fade edges.
        """
        if not self._is_alpha(0):
            return weights
        opacity = weights * ((first + 1) / 2 + MIN_COLOR_WEIGHT)
        return opacity / opacity.sum(1, keepdim=True)

    def _image(self, parts: list[Tensor]) -> Tensor:
        """The sums over components (B, any, H, W) of each channel, in the order of `channel_order`, as an image."""
        original_order = sorted(range(self.channels), key=self.channel_order.__getitem__)
        return torch.stack([part.sum(1) for part in parts], 1)[:, original_order].clamp(-1, 1)


class Bernoulli(Likelihood):
    """For binarized images: each channel of each pixel is -1 or 1, 1 with the probability (gray value + 1) / 2."""

    binarized = True

    @property
    def outputs(self) -> int:
        """A logit for each channel."""
        return self.channels

    def log_prob(self, output: Tensor, images: Tensor) -> Tensor:
        """Binary cross-entropy, for images of -1 and 1."""
        target = images.float().add(1).div(2)
        return -binary_cross_entropy_with_logits(output.float(), target, reduction="none").sum(1)

    def mean(self, output: Tensor) -> Tensor:
        """Probabilities as gray values."""
        return output.float().sigmoid() * 2 - 1

    def training_images(self, images: Tensor) -> Tensor:
        """Dynamic binarization (Salakhutdinov and Murray 2008): -1 or 1, from torch's global generator."""
        white = global_batch.rand_like(images) < (images + 1) / 2
        # Adding 0 * images keeps NaN, so that the check of the loss sees it.
        return torch.where(white, 1.0, -1.0) + 0 * images


class Gaussian(Likelihood):
    """A Gaussian with one variance for all pixels, the optimal one: mean squared error (sigma-VAE, arXiv 2006.13202).

    In training the variance is the batch's own. After it the last one is kept, and the density is integrated over each
    of the 256 pixel values, so that bits per dimension are comparable with those of other models.
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
        """In training the density times the width of a pixel value's bin, else the exact integral."""
        centers, images = output.float(), images.float()
        if self.training:
            return self._log_density(centers, images)
        deviation = self.variance.sqrt()
        upper, lower = (images + HALF_BIN - centers) / deviation, (images - HALF_BIN - centers) / deviation
        # Above the center use the symmetry: the difference of two numbers near 1 would cancel.
        flip = lower > 0
        high = log_ndtr(torch.where(flip, -lower, upper))
        low = log_ndtr(torch.where(flip, -upper, lower))
        first, last = images < HALF_BIN - 1, images > 1 - HALF_BIN
        inside = high + torch.log(-torch.expm1((low - high).clamp(max=-1e-6)))
        ends = torch.where(first, log_ndtr(upper), log_ndtr(-lower))
        return torch.where(first | last, ends, inside).sum(1)

    def _log_density(self, centers: Tensor, images: Tensor) -> Tensor:
        """Log density times the bin's width, with the batch's own variance, which is kept."""
        errors = (images - centers).square()
        with torch.no_grad():
            optimal = global_batch.mean_over_parts(errors.mean()).clamp(min=MIN_SCALE**2)
            self.variance.copy_(torch.where(optimal.isfinite(), optimal, self.variance))
        log_probs = -errors / (2 * optimal) - 0.5 * torch.log(2 * math.pi * optimal) + math.log(2 * HALF_BIN)
        return log_probs.sum(1)

    def mean(self, output: Tensor) -> Tensor:
        """The means, clamped to [-1, 1]."""
        return output.float().clamp(-1, 1)


def log_ndtr(x: Tensor) -> Tensor:
    """Logarithm of the standard normal's distribution function; on the CPU for Apple's GPUs, where torch lacks it."""
    on_device = x.cpu() if x.device.type == "mps" else x
    return torch.special.log_ndtr(on_device).to(x.device)


def build_likelihood(config: VaeConfig) -> Likelihood:
    """The likelihood that the configuration names."""
    kinds: dict[str, type[Likelihood]] = {"dmol": MixtureOfLogistics, "bernoulli": Bernoulli, "gaussian": Gaussian}
    return kinds[config.likelihood](config)


def positive_scale(raw: Tensor) -> Tensor:
    """A standard deviation in float32 from a network's output, by softplus: 1 + MIN_SCALE at 0, at least MIN_SCALE."""
    return softplus(raw.float() + SOFTPLUS_INVERSE_OF_ONE) + MIN_SCALE
