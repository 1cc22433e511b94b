"""The hierarchical VAE: bottom-up encoder, top-down decoder.

VDVAE, Child 2020 (arXiv 2011.10650); ladder VAE, Sønderby et al. 2016 (arXiv 1602.02282).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad, silu

from imggen.models.muon import inner_weights
from imggen.models.vae.architecture import Stage
from imggen.models.vae.config import VaeConfig
from imggen.models.vae.core import Core, Normal, TopDownLayer
from imggen.models.vae.likelihoods import positive_scale

HEAD_INIT_SCALE = 0.1  # of the last convolution's weights


class Block(nn.Module):
    """The bottleneck block of VDVAE: 1x1 convolution, 3x3 convolutions (1x1 on maps below 3 px), 1x1 convolution.

    SiLU comes before every convolution but the first, whose input is already activated, so that prior and
    posterior can use the same activation. The last convolution's initial weights are multiplied by `scale`, and it is
    computed in float32 with `full_precision`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        side: int,
        config: VaeConfig,
        scale: float = 1.0,
        *,
        full_precision: bool = False,
    ) -> None:
        super().__init__()
        self.full_precision = full_precision
        inner = max(4, round(inputs * config.bottleneck))
        kernel = 3 if side > 2 else 1
        self.conv_in = nn.Conv2d(inputs, inner, 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(inner, inner, kernel, padding=kernel // 2) for _ in range(config.convolutions)
        )
        self.conv_out = nn.Conv2d(inner, outputs, 1)
        with torch.no_grad():
            self.conv_out.weight.mul_(scale)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, inputs, H, W) after a SiLU -> (B, outputs, H, W)."""
        x = self.conv_in(hidden)
        for conv in self.convs:
            x = conv(silu(x))
        return conv_in_float32(self.conv_out, x) if self.full_precision else self.conv_out(silu(x))


class ResidualBlock(Block):
    """A block whose output is added to its input."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W), before a SiLU -> the same shape."""
        return x + super().forward(silu(x))


def residual_blocks(count: int, width: int, side: int, config: VaeConfig, scale: float) -> nn.Sequential:
    """`count` residual blocks one after another."""
    return nn.Sequential(*(ResidualBlock(width, width, side, config, scale) for _ in range(count)))


def conv_in_float32(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """SiLU and convolution in float32 under autocast: bfloat16 near 1 resolves only half a step of 256 values.

    (A GPU may multiply in TF32 there, whose error is an eighth of such a step.)
    """
    with torch.autocast(x.device.type, enabled=False):
        return conv(silu(x.float()))


def change_width(before: int, after: int) -> nn.Module:
    """A 1x1 convolution where the number of channels changes."""
    return nn.Identity() if before == after else nn.Conv2d(before, after, 1)


def downsample(x: Tensor, factor: int, side: int) -> Tensor:
    """Average pooling by `factor` to `side`; a map too small for that is padded with its last row and column."""
    missing = factor * side - x.shape[-1]
    return avg_pool2d(pad(x, (0, missing, 0, missing), "replicate") if missing else x, factor)


@torch.no_grad()
def zero_init(conv: nn.Conv2d) -> None:
    """Set weights and biases to zero, so that the convolution returns zeros at first."""
    conv.weight.zero_()
    assert conv.bias is not None
    conv.bias.zero_()


class Encoder(nn.Module):
    """Bottom-up: images, or images with a mask, -> a feature map (B, width, side, side) after a SiLU for each stage."""

    def __init__(self, config: VaeConfig, inputs: int) -> None:
        super().__init__()
        stages, widths = config.stages, config.widths
        scale = max(1, sum(stage.encoder_blocks for stage in stages)) ** -0.5
        self.stem = nn.Conv2d(inputs, widths[-1], config.patch + 2, config.patch, padding=1)
        self.blocks = nn.ModuleList()
        self.change_width = nn.ModuleList()
        self.sides = tuple(stage.side for stage in stages)
        self.factors = tuple(fine.nominal // coarse.nominal for coarse, fine in pairwise(stages))
        for index, (stage, width) in enumerate(zip(stages, widths, strict=True)):
            self.blocks.append(residual_blocks(stage.encoder_blocks, width, stage.side, config, scale))
            if index:
                self.change_width.append(change_width(width, widths[index - 1]))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, inputs, H, W) -> the maps, coarsest first."""
        x = self.stem(images)
        maps: list[Tensor] = []
        for index in reversed(range(len(self.sides))):
            x = self.blocks[index](x)
            maps.append(silu(x))
            if index:
                x = downsample(x, self.factors[index - 1], self.sides[index - 1])
                x = self.change_width[index - 1](x)
        return tuple(reversed(maps))


class Posterior(nn.Module):
    """The distribution of one layer's noise, from the decoder's hidden state and the encoder's map."""

    def __init__(self, width: int, side: int, config: VaeConfig) -> None:
        super().__init__()
        self.project_encoded = nn.Conv2d(width, width, 1)
        self.block = Block(width, 2 * config.z, side, config, full_precision=True)

    def forward(self, hidden: Tensor, encoded: Tensor) -> Normal:
        """Both (B, width, side, side), after a SiLU."""
        return self.from_projected(hidden, self.project_encoded(encoded))

    def from_projected(self, hidden: Tensor, projected: Tensor) -> Normal:
        """The same, from the map that `project_encoded` has made of the encoder's."""
        mean, raw_scale = self.block(silu(hidden + projected)).chunk(2, 1)
        return Normal(mean, positive_scale(raw_scale))


class Posteriors(nn.ModuleList):
    """A posterior for each layer of latents, coarsest first."""

    def __init__(self, config: VaeConfig) -> None:
        pairs = list(zip(config.stages, config.widths, strict=True))
        super().__init__(
            Posterior(width, stage.side, config) for stage, width in pairs for _ in range(stage.decoder_layers)
        )
        self.stage_of = [index for index, (stage, _) in enumerate(pairs) for _ in range(stage.decoder_layers)]

    def forward(self, index: int, hidden: Tensor, encoded: tuple[Tensor, ...]) -> Normal:
        """The posterior of layer `index`, from the hidden state and the encoder's map of its stage."""
        return self[index](hidden, encoded[self.stage_of[index]])

    def project(self, index: int, encoded: tuple[Tensor, ...]) -> Tensor:
        """The part of layer `index`'s posterior that depends on the encoder's maps alone, for `from_projected`."""
        return cast(Posterior, self[index]).project_encoded(encoded[self.stage_of[index]])

    def from_projected(self, index: int, hidden: Tensor, projected: Tensor) -> Normal:
        """The posterior of layer `index`, from the hidden state and what `project` returned."""
        return cast(Posterior, self[index]).from_projected(hidden, projected)


class LatentLayer(TopDownLayer):
    """One layer of latents: its prior, the projection of its latents to the state, and a block after it."""

    def __init__(self, name: str, width: int, side: int, config: VaeConfig, scale: float) -> None:
        super().__init__()
        self.name = name
        self.shape = (config.z, side, side)
        self.prior = Block(width, width + config.z, side, config)
        self.project = nn.Conv2d(config.z, width, 1)
        self.block = ResidualBlock(width, width, side, config, scale)
        with torch.no_grad():
            # At the start every prior is standard normal, and only the latents are added to the state.
            zero_init(self.prior.conv_out)
            self.project.weight.mul_(scale)

    def condition(self, x: Tensor) -> Tensor:
        """Apply the SiLU once, for both prior and posterior."""
        return silu(x)

    def update(self, x: Tensor, hidden: Tensor, noise: Tensor) -> Tensor:
        """Add the prior's mean (as `width` channels) and the projected latents (prior's scale times noise)."""
        mean, raw_scale = self.prior(hidden).split([x.shape[1], self.shape[0]], 1)
        x = x + mean + self.project(positive_scale(raw_scale) * noise)
        return self.block(x)


class StageStart(nn.Module):
    """The start of a stage of the decoder: the state above at another width, upsampled, plus a learned bias map.

    The class embedding is added at every stage, so that posteriors depend on it too.
    """

    def __init__(self, config: VaeConfig, stage: Stage, width: int, width_above: int) -> None:
        super().__init__()
        self.change_width = change_width(width_above, width)
        self.bias_map = nn.Parameter(torch.zeros(1, width, stage.side, stage.side))
        self.class_embedding = nn.Embedding(len(config.classes), width) if config.classes else None

    def first_state(self, count: int, labels: Tensor | None) -> Tensor:
        """The state at the top of the decoder (count, width, side, side)."""
        return self._add_class(self.bias_map.expand(count, *self.bias_map.shape[1:]), labels)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The state of the stage above -> (B, width, side, side)."""
        x = interpolate(self.change_width(x), size=self.bias_map.shape[2:]) + self.bias_map
        return self._add_class(x, labels)

    def _add_class(self, x: Tensor, labels: Tensor | None) -> Tensor:
        if self.class_embedding is None or labels is None:
            return x
        if labels.is_floating_point():
            return x + (labels @ self.class_embedding.weight)[:, :, None, None]
        return x + self.class_embedding(labels)[:, :, None, None]


class Hierarchy(Core):
    """The hierarchical VAE."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config, config.channels)
        stages, widths = config.stages, config.widths
        scale = sum(stage.decoder_layers for stage in stages) ** -0.5
        self.starts = nn.ModuleList()
        self.decoder = nn.ModuleList()
        self.posteriors = Posteriors(config)
        self.start_before: dict[int, int] = {}  # index of a layer -> index of the stage that starts there
        for index, (stage, width) in enumerate(zip(stages, widths, strict=True)):
            self.start_before[len(self.decoder)] = index
            self.starts.append(StageStart(config, stage, width, widths[max(0, index - 1)]))
            for number in range(stage.decoder_layers):
                name = f"{stage.side}x{stage.side} layer {number + 1}"
                self.decoder.append(LatentLayer(name, width, stage.side, config, scale))
        bias = self.likelihood.initial_bias().repeat_interleave(config.patch**2)
        self.head = nn.Conv2d(widths[-1], len(bias), 1)
        self.unpatch = nn.PixelShuffle(config.patch)
        with torch.no_grad():
            self.head.weight.mul_(HEAD_INIT_SCALE)
            assert self.head.bias is not None
            self.head.bias.copy_(bias)

    @property
    def layers(self) -> Sequence[TopDownLayer]:
        """The layers of all stages, coarsest first."""
        return cast(Sequence[TopDownLayer], self.decoder)

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """One map for each stage, coarsest first."""
        return self.encoder(images)

    def posterior(self, index: int, hidden: Tensor, encoded: tuple[Tensor, ...]) -> Normal:
        """From the hidden state and the encoder's map of the layer's stage."""
        return self.posteriors(index, hidden, encoded)

    def initial_state(self, count: int, labels: Tensor | None) -> Tensor:
        """The learned bias map of the first stage."""
        return cast(StageStart, self.starts[0]).first_state(count, labels)

    def upsample(self, index: int, x: Tensor, labels: Tensor | None) -> Tensor:
        """Start the next stage, if layer `index` is its first."""
        stage = self.start_before.get(index, 0)
        return self.starts[stage](x, labels) if stage else x

    def output(self, x: Tensor) -> Tensor:
        """A 1x1 convolution in float32, and patches back to pixels."""
        return self.unpatch(conv_in_float32(self.head, x))


def hidden_weights(network: nn.Module) -> list[Tensor]:
    """The weights of all convolutions between hidden layers, which Muon trains.

    Left out are those whose input is pixels or latents, and those whose output is a distribution or pixels.
    """
    outer: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, LatentLayer):
            outer += [module.prior.conv_out, module.project]
        elif isinstance(module, Posterior):
            outer.append(module.block.conv_out)
        elif isinstance(module, Encoder):
            outer.append(module.stem)
        elif isinstance(module, Hierarchy):
            outer.append(module.head)
    return inner_weights(network, outer)
