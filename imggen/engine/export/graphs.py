"""What is exported of each kind of model: uint8 pixels in and out, so that other programs need not know its ranges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imggen.engine.checkpoints import LoadedModel
from imggen.engine.noise import SampleSpec, noise_for, translation_noise
from imggen.errors import UsageError
from imggen.io.pixels import to_float, to_levels
from imggen.models.base import Backend, Model
from imggen.models.classifier.model import ClassifierModel
from imggen.models.mapper.segment.model import SegmentModel
from imggen.models.mapper.translate.model import TranslateModel
from imggen.models.mapper.unet import UNet
from imggen.models.transformer.backend import TransformerBackend
from imggen.models.transformer.steps import SamplingStep

SQUARE = 8  # pixels: side of the squares of one color in the images that exported networks are checked with


@dataclass(frozen=True)
class Array:
    """An input or output: its name, its shape in words, and which of its axes may have any length, by their names."""

    name: str
    meaning: str
    dynamic: dict[int, str]


IMAGE_MEANING = "uint8 (images, height, width, channels)"
BATCH = {0: "images"}
SPATIAL = {0: "images", 1: "height", 2: "width"}


class Graph(nn.Module, ABC):
    """A network to export, with its `inputs` and `outputs`; `forward` takes and returns them in their order."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    # Sides of images of any size have at least `least` times `multiple` pixels, and are divisible by `multiple`.
    multiple, least = 1, 1
    free_images = 0  # of those compared with the model: so many may differ in any way

    @property
    def traced(self) -> nn.Module:
        """What is traced in its place, where that cannot be the model's own way."""
        return self

    @abstractmethod
    def examples(self, seeds: range) -> tuple[Tensor, ...]:
        """Inputs to try it with: row i depends on seed i alone."""


class GeneratorGraph(Graph):
    """Noise, and a label if there are classes → an image."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        shape = ", ".join(map(str, backend.noise_shape))
        self.inputs = (Array("noise", f"float32 (images, {shape}), standard normal", BATCH),)
        if backend.classes:
            self.inputs += (Array("label", "int64 (images), the number of the class", BATCH),)
        self.outputs = (Array("image", IMAGE_MEANING, BATCH),)

    def examples(self, seeds: range) -> tuple[Tensor, ...]:
        """The noise and the classes of seeds, as `imggen sample` has them."""
        noise, labels = noise_for([SampleSpec(seed) for seed in seeds], self.backend)
        return (noise,) if labels is None else (noise, labels)

    def forward(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """(N, *noise_shape), (N,) → (N, H, W, C) uint8."""
        return to_levels(self.backend.generate(noise, label)).permute(0, 2, 3, 1)


class LevelDecoder(nn.Module):
    """Tokens (N, length, d) → (N, H, W, C) uint8."""

    def __init__(self, backend: TransformerBackend) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, tokens: Tensor) -> Tensor:
        """The decoded images."""
        return to_levels(self.backend.harden(self.backend.tokenizer.decode(tokens))).permute(0, 2, 3, 1)


class SamplerGraph(GeneratorGraph):
    """A generator that samples its tokens in steps: `step` is repeated, then `decode` makes an image of the tokens."""

    free_images = 2  # where rounding chooses another token, the rest of the image is another one too

    def __init__(self, backend: TransformerBackend) -> None:
        super().__init__(backend)
        self.step, self.decode = SamplingStep(backend), LevelDecoder(backend)
        self.token_shape = (backend.prior.length, len(backend.prior.factors))

    @property
    def traced(self) -> nn.Module:
        """The steps one after another."""
        return StepByStep(self)


class StepByStep(nn.Module):
    """Noise, and a label if there are classes → an image, by the steps of a graph."""

    def __init__(self, graph: SamplerGraph) -> None:
        super().__init__()
        self.step, self.decode, self.token_shape = graph.step, graph.decode, graph.token_shape

    def forward(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """(N, *noise_shape), (N,) → (N, H, W, C) uint8."""
        first, tokens = torch.tensor(0), torch.zeros(noise.shape[0], *self.token_shape, dtype=torch.int64)
        given = (noise,) if label is None else (noise, label)
        if not torch.compiler.is_compiling():
            for index in range(self.step.count):
                tokens = self.step(first + index, tokens, *given)
            return self.decode(tokens)

        def is_left(index: Tensor, tokens: Tensor, *given: Tensor) -> Tensor:
            return index < self.step.count

        def take(index: Tensor, tokens: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
            # What stays the same is returned as a copy: a loop's results may not be its inputs.
            return index + 1, self.step(index, tokens, *given), *(each.clone() for each in given)

        # One step is traced in place of all. Older versions of torch have this function in a private place only.
        from torch._higher_order_ops import while_loop

        results = while_loop(is_left, take, (first, tokens, *given))
        return self.decode(results[1])


class ImageGraph(Graph):
    """An image, uint8 → what `see` makes of it; with a U-Net of images of any size."""

    def __init__(self, model: Model, outputs: tuple[Array, ...], network: UNet | None = None) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs
        self.inputs = (Array("image", IMAGE_MEANING, BATCH),)
        if network is not None:
            self.multiple = network.multiple
            if network.backbone is not None:
                self.least = 2  # tracing tells maps that are one pixel wide from others
            sides = f"{IMAGE_MEANING}; height and width are divisible by {self.multiple}"
            sides += f" and at least {self.least * self.multiple}" * (self.least > 1)
            self.inputs = (Array("image", sides, SPATIAL),)

    def examples(self, seeds: range) -> tuple[Tensor, ...]:
        """Images of squares in random colors."""
        channels, *sides = self.model.config.image_shape
        height, width = (self.multiple * max(self.least, -(-side // self.multiple)) for side in sides)
        rows, columns = -(-height // SQUARE), -(-width // SQUARE)
        images = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            squares = torch.randint(256, (rows, columns, channels), generator=generator, dtype=torch.uint8)
            whole = squares.repeat_interleave(SQUARE, 0).repeat_interleave(SQUARE, 1)
            images.append(whole[:height, :width])
        return (torch.stack(images),)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(N, H, W, C) uint8 → the outputs."""
        return self.see(to_float(image.permute(0, 3, 1, 2)))

    @abstractmethod
    def see(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs for images (N, C, H, W) in [-1, 1]."""


class FeatureGraph(ImageGraph):
    """The vectors of a model that sees, as `imggen embed` has them before it projects long ones."""

    def __init__(self, model: Model) -> None:
        super().__init__(model, (Array("vector", "float32 (images, dimensions)", BATCH),))

    def see(self, images: Tensor) -> Tensor:
        """(N, D)."""
        return self.model.features(images).vectors


class ClassifierGraph(ImageGraph):
    """The calibrated probabilities of a classifier."""

    def __init__(self, model: ClassifierModel, temperature: float) -> None:
        super().__init__(model, (Array("probability", "float32 (images, classes)", BATCH),))
        self.temperature = temperature

    def see(self, images: Tensor) -> Tensor:
        """(N, classes)."""
        return (self.model(images).float() / self.temperature).softmax(1)


class SegmentGraph(ImageGraph):
    """The class of every pixel, and the probability of each class."""

    def __init__(self, model: SegmentModel) -> None:
        probability = Array(
            "probability", "float32 (images, classes, height, width)", {0: "images", 2: "height", 3: "width"}
        )
        mask = Array("mask", "uint8 (images, height, width), the number of the class", SPATIAL)
        super().__init__(model, (mask, probability), model.network)

    def see(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, H, W) and (N, classes, H, W)."""
        probability = self.model(images).float().softmax(1)
        return probability.argmax(1).to(torch.uint8), probability


class TranslateGraph(ImageGraph):
    """The translation of an image, by noise if the model has noise."""

    def __init__(self, model: TranslateModel) -> None:
        super().__init__(model, (Array("translation", IMAGE_MEANING, SPATIAL),), model.network)
        self.translator = model
        if model.config.noise:
            meaning = f"float32 (images, {model.config.noise}), standard normal"
            self.inputs += (Array("noise", meaning, BATCH),)

    def examples(self, seeds: range) -> tuple[Tensor, ...]:
        """Images of squares in random colors, and the noise of the seeds."""
        noise = translation_noise(seeds, self.translator)
        return super().examples(seeds) if noise is None else (*super().examples(seeds), noise)

    def forward(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """(N, H, W, C) uint8 → (N, H, W, C) uint8."""
        return self.see(to_float(image.permute(0, 3, 1, 2)), noise)

    def see(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """(N, H, W, C) uint8."""
        return to_levels(self.translator(images, noise)).permute(0, 2, 3, 1)


def build_graph(loaded: LoadedModel, part: str | None) -> Graph:
    """The graph of a part of a model, of its main one by default. Raises UsageError for one that it does not have."""
    model = loaded.model
    own = _main_part(model)
    part = part or own
    if part == "features" and not (reason := model.limitation("features")):
        return FeatureGraph(model)
    if part != own:
        why = reason if part == "features" else f"a {model.config.family} gives {own}"
        raise UsageError(f"{loaded.path} has no {part} to export: {why}", f"--part {own}")
    if isinstance(model, ClassifierModel):
        return ClassifierGraph(model, loaded.class_temperature or 1.0)
    if isinstance(model, SegmentModel):
        return SegmentGraph(model)
    if isinstance(model, TransformerBackend):
        if model.prior.fixed_order:
            raise UsageError("the textbook's transformer cannot be exported", "export one of another preset")
        return SamplerGraph(model)
    return TranslateGraph(model) if isinstance(model, TranslateModel) else GeneratorGraph(loaded.backend)


def _main_part(model: Model) -> str:
    """What a model is for."""
    if isinstance(model, ClassifierModel):
        return "classes"
    return "masks" if isinstance(model, SegmentModel) else "images"
