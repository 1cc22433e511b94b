"""The base of every family's configuration: the shape of the data, the preset, JSON; and how to sample."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

from imggen.errors import CheckpointError, UsageError, nearest, shortened
from imggen.option import check_values, option

__all__ = ["ModelConfig", "SamplingOptions", "option"]

SAMPLING = "Sampling"  # the heading of these options in the help
MAX_LISTED_CLASSES = 12
# Of a step of `tiny` on a CPU: pixels, and how many images they may be.
CPU_BATCH_PIXELS, MIN_CPU_BATCH, MAX_CPU_BATCH = 32 * 32**2, 8, 32


def list_classes(names: Iterable[str]) -> str:
    """The first names of classes, for messages."""
    names = list(names)
    return ", ".join(names[:MAX_LISTED_CLASSES]) + (", …" if len(names) > MAX_LISTED_CLASSES else "")


@dataclass(frozen=True)
class SamplingOptions:
    """How to sample; every verb that samples has these options. `Backend.supported` names those that a family takes.

    temperature: scale of the noise; 1 samples as trained, less trades variety for typicality.
    steps: number of sampling steps; None is the model's default.
    guidance: classifier-free guidance weight, 1 is none (arXiv 2207.12598).
    top_k: sample among the k most likely values only; 0 is all.
    top_p: sample among the most likely values that together have probability p; 1 is all.

    Raises UsageError for a value out of range.
    """

    temperature: float = option(1.0, "Sampling temperature, 0 to 2", panel=SAMPLING, low=0.0, high=2.0)
    steps: int | None = option(None, "Sampling steps", panel=SAMPLING, low=1, chosen="the model's")
    guidance: float = option(1.0, "Classifier-free guidance scale, 1 is none", panel=SAMPLING, low=0.0, high=100.0)
    top_k: int = option(0, "Sample among the K likeliest tokens; 0: all", panel=SAMPLING, low=0, metavar="K")
    top_p: float = option(
        1.0,
        "Sample among the likeliest tokens, of probability P",
        panel=SAMPLING,
        low=0.01,
        high=1.0,
        metavar="P",
    )

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_values(self)

    def changed(self) -> dict[str, float]:
        """The sampling options that differ from their defaults."""
        values = {item.name: (getattr(self, item.name), item.default) for item in fields(SamplingOptions)}
        return {name: value for name, (value, default) in values.items() if value != default}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The part of a configuration that the data decides; families add fields of their own, made by `option`.

    `objects` names the fields that hold a JSON object or None.
    """

    family: ClassVar[str]
    # Fields that say how a model is trained, not what it is.
    training: ClassVar[tuple[str, ...]] = ()
    objects: ClassVar[tuple[str, ...]] = ()

    preset: str
    size: int = 32
    channels: int = 3
    classes: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()
    hard_alpha: bool = False  # alpha of the data is only 0 or 255, so that of what the model makes is too

    def __post_init__(self) -> None:
        """Check the values. Raises UsageError."""
        self.check(self.preset.isidentifier(), "preset must be a name")
        self.check(4 <= self.size <= 4096, "size must be between 4 and 4096")
        self.check(self.channels in (1, 3, 4), "channels must be 1, 3 or 4")
        self.check(not self.hard_alpha or self.made_channels == 4, "hard_alpha needs 4 channels")
        self.check(len(self.class_counts) == len(self.classes), "classes and class_counts must have the same length")
        self.check(len(self.classes) <= 100_000, "more than 100,000 classes")
        check_values(self)

    @staticmethod
    def check(good: bool, message: str) -> None:
        """Raise a usage error with `message` unless `good`."""
        if not good:
            raise UsageError(message)

    def class_index(self, name: str) -> int:
        """The index of a class by its name, which may be composed differently in Unicode.

        Raises UsageError, with a similar name if there is one, and for a class of which the data had no image.
        """
        if not self.classes:
            raise UsageError("this model has no classes", "leave --class out")
        composed = unicodedata.normalize("NFC", name)
        same = [label for label in self.classes if unicodedata.normalize("NFC", label) == composed]
        listed = list_classes(label for label, n in zip(self.classes, self.class_counts, strict=True) if n)
        if not same:
            similar = nearest(name, self.classes)
            hint = f"classes: {listed}" if similar is None else f"did you mean '{similar}'? classes: {listed}"
            raise UsageError(f"the model has no class '{name}'", hint)
        index = self.classes.index(name if name in same else same[0])
        if not self.class_counts[index]:
            raise UsageError(
                f"the model was trained on no image of class '{self.classes[index]}'", f"classes: {listed}"
            )
        return index

    def to_begin_from(self, preset: Self | None) -> Self:
        """The configuration of a new model that begins with the weights of this one: trained as `preset`, if given."""
        return self if preset is None else replace(self, **{name: getattr(preset, name) for name in self.training})

    def check_start(self, begun: ModelConfig | None) -> None:
        """Raise UsageError if a new run cannot begin from a model with the configuration `begun`, or from nothing."""
        return

    def check_classes(self) -> None:
        """Raise DataError if this family cannot learn from data with these classes."""
        return

    @property
    def trained_classes(self) -> tuple[int, ...]:
        """The indices of the classes of which the data had images."""
        return tuple(index for index, count in enumerate(self.class_counts) if count)

    @property
    def parts(self) -> tuple[dict[str, Any], ...]:
        """The configurations, as JSON, of other models that the model is made with."""
        return ()

    @property
    def made_channels(self) -> int:
        """Channels of the images that the model makes."""
        return self.channels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.channels, self.size, self.size

    @property
    def cpu_batch(self) -> int | None:
        """Batch size that trains the preset fastest on a CPU; None leaves it to the engine.

        Short runs are limited by their steps, not by their images: larger images, whose steps take longer, come in
        smaller batches.
        """
        if self.preset != "tiny":
            return None
        return max(MIN_CPU_BATCH, min(MAX_CPU_BATCH, CPU_BATCH_PIXELS // self.size**2))

    def for_dataset_size(self, count: int) -> dict[str, Any]:
        """Fields that suit a data set of `count` images better than the preset's; not used if the user sets one."""
        return {}

    def for_size(self, size: int) -> dict[str, Any]:
        """Fields that the preset has other values of for images of `size` pixels; not used if the user sets one."""
        return {}

    def advice(self, count: int) -> str:
        """What else may help with a data set of `count` images, in one line; empty where nothing does."""
        return ""

    def with_overrides(self, **values: Any) -> Self:
        """A copy with some fields changed. Raises UsageError for bad values."""
        return replace(self, **values)

    def to_json(self) -> dict[str, Any]:
        """A dictionary for a checkpoint's metadata."""
        return {"family": self.family, **asdict(self)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """The inverse of `to_json`. Raises CheckpointError for a field of the wrong name, type or range."""
        known = {item.name: item for item in fields(cls)}
        given = {key: value for key, value in document.items() if key != "family"}
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise CheckpointError(
                f"its configuration has unknown fields: {shortened(', '.join(unknown[:3]))}",
                "made by a newer imggen? pip install -U imggen",
            )
        values: dict[str, Any] = {}
        for key, value in given.items():
            default = known[key].default
            if key in ("classes", "class_counts"):
                kind: type = str if key == "classes" else int
                if not isinstance(value, list) or not all(type(part) is kind for part in value):
                    raise CheckpointError(f"its configuration has a damaged field: {key}")
                values[key] = tuple(value)
                continue
            if key in cls.objects:
                if value is not None and not isinstance(value, dict):
                    raise CheckpointError(f"its configuration has a damaged field: {key}")
                values[key] = value
                continue
            expected = str if key == "preset" else type(default)
            if expected is float and type(value) is int:
                value = float(value)
            if type(value) is not expected:
                raise CheckpointError(f"its configuration has a damaged field: {key}")
            values[key] = value
        try:
            return cls(**values)
        except (UsageError, TypeError) as error:
            raise CheckpointError(
                f"its configuration cannot be used: {error}", "copy it again, or use another checkpoint"
            ) from error
