"""A ladder of latents: bottom-up encoder, top-down decoder (VDVAE, arXiv 2011.10650; ladder VAE, arXiv 1602.02282)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad, silu

from imggen.models.muon import inner_weights
from imggen.models.vae.architecture import Stage
from imggen.models.vae.config import VaeConfig
from imggen.models.vae.core import Choose, Core, Latents, Normal
from imggen.models.vae.likelihoods import scale_of


class Block(nn.Module):
    """SiLU and convolution in turn: 1x1 to a bottleneck, 3x3s there (1x1s on maps below 3 px), 1x1 out.

    The last one of an `exact` block is in float32.
    """

    def __init__(
        self, inputs: int, outputs: int, side: int, config: VaeConfig, scale: float = 1.0, *, exact: bool = False
    ) -> None:
        super().__init__()
        self.exact = exact
        inner = max(4, round(inputs * config.bottleneck))
        size = 3 if side > 2 else 1
        self.enter = nn.Conv2d(inputs, inner, 1)
        self.middle = nn.ModuleList(
            nn.Conv2d(inner, inner, size, padding=size // 2) for _ in range(config.convolutions)
        )
        self.leave = nn.Conv2d(inner, outputs, 1)
        with torch.no_grad():
            self.leave.weight.mul_(scale)

    def forward(self, active: Tensor) -> Tensor:
        """From what has been through a SiLU already, so that two blocks can share it."""
        x = self.enter(active)
        for layer in self.middle:
            x = layer(silu(x))
        return in_full(self.leave, x) if self.exact else plain(self.leave, x)


def plain(layer: nn.Module, x: Tensor) -> Tensor:
    """A last layer, after its SiLU."""
    out: Tensor = layer(silu(x))
    return out


def in_full(layer: nn.Module, x: Tensor) -> Tensor:
    """The same in float32 whatever the rest is in: a bf16 number near 1 is as coarse as half a step of 256 values.

    (A GPU may multiply with TF32's ten bits there, an eighth of such a step.)
    """
    with torch.autocast(x.device.type, enabled=False):
        return plain(layer, x.float())


class Posterior(nn.Module):
    """The decoder's state and the encoder's map → the distribution of a layer's noise."""

    def __init__(self, width: int, side: int, config: VaeConfig) -> None:
        super().__init__()
        self.beside = nn.Conv2d(width, width, 1)
        self.block = Block(width, 2 * config.z, side, config, exact=True)

    def forward(self, state: Tensor, encoded: Tensor) -> Normal:
        """Both have been through a SiLU."""
        mean, raw = self.block(silu(state + self.beside(encoded))).chunk(2, 1)
        return Normal(mean, scale_of(raw))


class Encoder(nn.Module):
    """Pictures, or pictures with a mask → a map a stage, coarsest first, each through a SiLU."""

    def __init__(self, config: VaeConfig, inputs: int) -> None:
        super().__init__()
        stages, widths = config.stages, config.widths
        scale = max(1, sum(stage.encoder for stage in stages)) ** -0.5
        self.stem = nn.Conv2d(inputs, widths[-1], config.patch + 2, config.patch, padding=1)
        self.blocks = nn.ModuleList()
        self.narrow = nn.ModuleList()
        self.sides = tuple(stage.side for stage in stages)
        self.factors = tuple(after.nominal // before.nominal for before, after in pairwise(stages))
        for index, (stage, width) in enumerate(zip(stages, widths, strict=True)):
            blocks = (Block(width, width, stage.side, config, scale) for _ in range(stage.encoder))
            self.blocks.append(nn.ModuleList(blocks))
            if index:
                self.narrow.append(join(width, widths[index - 1]))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See above."""
        x = self.stem(images)
        found: list[Tensor] = []
        for index in reversed(range(len(self.sides))):
            for block in modules_of(self.blocks[index]):
                x = x + block(silu(x))
            found.append(silu(x))
            if index:
                x = self.narrow[index - 1](halve(x, self.factors[index - 1], self.sides[index - 1]))
        return tuple(found[::-1])


def join(before: int, after: int) -> nn.Module:
    """A 1x1 convolution where widths differ."""
    return nn.Identity() if before == after else nn.Conv2d(before, after, 1)


def halve(x: Tensor, factor: int, side: int) -> Tensor:
    """Average pooling by `factor` to `side`; where a map is too small for that, its last row and column count again."""
    missing = factor * side - x.shape[-1]
    return avg_pool2d(pad(x, (0, missing, 0, missing), "replicate") if missing else x, factor)


class Layer(nn.Module):
    """One layer of latents of the decoder: its prior, what it adds to the state, and a block after it."""

    def __init__(self, width: int, side: int, config: VaeConfig, scale: float) -> None:
        super().__init__()
        self.z = config.z
        self.prior = Block(width, width + config.z, side, config)
        self.project = nn.Conv2d(config.z, width, 1)
        self.body = Block(width, width, side, config, scale)
        with torch.no_grad():
            # At first every prior is standard normal, and nothing is added but the latents.
            silence(self.prior.leave)
            self.project.weight.mul_(scale)

    def forward(self, x: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """The state above (B, width, side, side) → the state below. The prior's mean is what it adds by itself."""
        active = silu(x)
        drift, raw = self.prior(active).split([x.shape[1], self.z], 1)
        x = x + drift + self.project(scale_of(raw) * choose(active))
        out: Tensor = x + self.body(silu(x))
        return out


@torch.no_grad()
def silence(layer: nn.Conv2d) -> None:
    """Let it give nothing but zeros, until it has learnt better."""
    layer.weight.zero_()
    _bias(layer).zero_()


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


class Start(nn.Module):
    """Where a stage of the decoder begins: the state above made wider or narrower, spread out, and a learnt map."""

    def __init__(self, config: VaeConfig, stage: Stage, width: int, before: int | None) -> None:
        super().__init__()
        self.side = stage.side
        self.mix = None if before is None else join(before, width)
        self.map = nn.Parameter(torch.zeros(1, width, stage.side, stage.side))
        self.embed = nn.Embedding(len(config.classes), width) if config.classes else None

    def forward(self, x: Tensor | None, count: int, labels: Tensor | None) -> Tensor:
        """The state of the stage above, none at the first → (B, width, side, side)."""
        if x is None or self.mix is None:
            x = self.map.expand(count, *self.map.shape[1:])
        else:
            x = interpolate(self.mix(x), size=(self.side, self.side)) + self.map
        if self.embed is not None and labels is not None:
            x = x + self.embed(labels)[:, :, None, None]
        return x


class Hierarchy(Core):
    """The ladder. The class is added to the state at the start of every stage, so the posteriors see it too."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config, config.channels)
        stages, widths = config.stages, config.widths
        scale = sum(stage.decoder for stage in stages) ** -0.5
        self.starts = nn.ModuleList()
        self.rungs = nn.ModuleList()
        self.posteriors = build_posteriors(config)
        self.stage_of: list[int] = []
        layers: list[Latents] = []
        for index, (stage, width) in enumerate(zip(stages, widths, strict=True)):
            self.starts.append(Start(config, stage, width, widths[index - 1] if index else None))
            rungs = nn.ModuleList(Layer(width, stage.side, config, scale) for _ in range(stage.decoder))
            self.rungs.append(rungs)
            for number in range(stage.decoder):
                name = f"{stage.side}x{stage.side} layer {number + 1}"
                layers.append(Latents(name, (config.z, stage.side, stage.side)))
                self.stage_of.append(index)
        self.layers = tuple(layers)
        start = self.likelihood.start().repeat_interleave(config.patch**2)
        self.head = nn.Conv2d(widths[-1], len(start), 1)
        self.unpatch = nn.PixelShuffle(config.patch)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            _bias(self.head).copy_(start)

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `Core`."""
        found: tuple[Tensor, ...] = self.encoder(images)
        return found

    def posterior(self, index: int, state: Tensor, encoded: tuple[Tensor, ...]) -> Normal:
        """See `Core`."""
        return posterior_of(self.posteriors[index], state, encoded[self.stage_of[index]])

    def top_down(self, count: int, labels: Tensor | None, choose: Choose) -> Tensor:
        """See `Core`."""
        x: Tensor | None = None
        number = 0
        for start, rungs in zip(self.starts, self.rungs, strict=True):
            x = start(x, count, labels)
            for rung in modules_of(rungs):
                x = rung(x, _numbered(choose, number))
                number += 1
        assert x is not None
        out: Tensor = self.unpatch(in_full(self.head, x))
        return out


def build_posteriors(config: VaeConfig) -> nn.ModuleList:
    """A posterior for each layer of latents, coarsest first."""
    pairs = zip(config.stages, config.widths, strict=True)
    return nn.ModuleList(Posterior(width, stage.side, config) for stage, width in pairs for _ in range(stage.decoder))


def hidden_weights(network: nn.Module) -> list[Tensor]:
    """Of all convolutions between hidden layers: not what looks at pixels, nor what gives a distribution or pixels."""
    outer: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, Layer):
            outer += [module.prior.leave, module.project]
        elif isinstance(module, Posterior):
            outer.append(module.block.leave)
        elif isinstance(module, Encoder):
            outer.append(module.stem)
        elif isinstance(module, Hierarchy):
            outer.append(module.head)
    return inner_weights(network, outer)


def posterior_of(network: nn.Module, state: Tensor, encoded: Tensor) -> Normal:
    """What a posterior of `build_posteriors` says."""
    found: Normal = network(state, encoded)
    return found


def modules_of(modules: nn.Module) -> Sequence[nn.Module]:
    """Of a list of modules within another."""
    assert isinstance(modules, nn.ModuleList)
    return list(modules)


def _numbered(choose: Choose, index: int) -> Callable[[Tensor], Tensor]:
    return lambda state: choose(index, state)
