"""What every family's configuration has: the data's shape, a preset's name, reading back from JSON."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Self

from imggen.errors import CheckpointError, UsageError


def option(default: Any, text: str, *, low: float | None = None, high: float | None = None, before: Any = None) -> Any:
    """A field that is an option of `imggen train FAMILY`, with its help text and its range.

    `before` is what checkpoints older than the field have, where that is not the default.
    """
    return field(default=default, metadata={"help": text, "panel": "Model", "low": low, "high": high, "before": before})


@dataclass(frozen=True)
class SamplingOptions:
    """How to sample. Not every family supports every option: see `Backend.supported`.

    temperature: 0 to 2; 1 samples as trained, less trades variety for typicality.
    steps: number of sampling steps; None is the model's default.
    guidance: 0 to 100; classifier-free guidance weight, 1 is none (arXiv 2207.12598).
    top_k: sample among the k most likely values only; 0 is all.
    top_p: sample among the most likely values that together have probability p, in (0, 1]; 1 is all.

    Raises UsageError for a value out of range.
    """

    temperature: float = 1.0
    steps: int | None = None
    guidance: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.temperature <= 2:
            raise UsageError("--temperature must be between 0 and 2", "1 samples as trained; lower is less varied")
        if self.steps is not None and self.steps < 1:
            raise UsageError("--steps must be at least 1", "leave it out for the model's default")
        if not 0 <= self.guidance <= 100:
            raise UsageError("--guidance must be between 0 and 100", "1 is no guidance")
        if self.top_k < 0:
            raise UsageError("--top-k must be at least 0", "0 samples among all values")
        if not 0 < self.top_p <= 1:
            raise UsageError("--top-p must be above 0 and at most 1", "1 samples among all values")

    def changed(self) -> dict[str, float]:
        """The options that differ from their default."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) != item.default}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The part that the data decides; families add their own fields through `option`."""

    family: ClassVar[str]

    preset: str
    size: int = 32
    channels: int = 3
    classes: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no model could be built from."""
        self.check(self.preset.isidentifier(), "preset must be a name")
        self.check(4 <= self.size <= 4096, "size must be between 4 and 4096")
        self.check(self.channels in (1, 3, 4), "channels must be 1, 3 or 4")
        self.check(len(self.class_counts) == len(self.classes), "every class needs its count")
        self.check(len(self.classes) <= 100_000, "more than 100,000 classes")
        for item in fields(self):
            low, high = item.metadata.get("low"), item.metadata.get("high")
            value = getattr(self, item.name)
            name = item.name.replace("_", "-")
            self.check(low is None or value >= low, f"{name} must be at least {low}")
            self.check(high is None or value <= high, f"{name} must be at most {high}")

    @staticmethod
    def check(good: bool, message: str) -> None:
        """Raise a usage error with `message` unless `good`."""
        if not good:
            raise UsageError(message)

    def class_index(self, name: str) -> int:
        """The label of a class by its name. Raises UsageError with a similar name, if there is one."""
        if name in self.classes:
            return self.classes.index(name)
        if not self.classes:
            raise UsageError("this model has no classes", "leave --class out")
        similar = difflib.get_close_matches(name, self.classes, 1)
        listed = ", ".join(self.classes[:12]) + (", …" if len(self.classes) > 12 else "")
        raise UsageError(
            f"the model has no class '{name}'",
            f"did you mean '{similar[0]}'? classes: {listed}" if similar else f"classes: {listed}",
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture."""
        return self.channels, self.size, self.size

    @property
    def cpu_batch(self) -> int | None:
        """Pictures a step that the preset does best with on a CPU; none leaves it to the engine.

        Short runs are short of steps, not of pictures: in all three families 32 a step learn sooner than 64.
        """
        return 32 if self.preset == "tiny" else None

    def for_dataset_size(self, count: int) -> Self:
        """The preset as it suits a folder of `count` pictures, before what the user asks for."""
        return self

    def with_overrides(self, **values: Any) -> Self:
        """The same configuration with some fields changed, checked again."""
        return replace(self, **values)

    def to_json(self) -> dict[str, Any]:
        """A dictionary for a checkpoint's metadata."""
        return {"family": self.family, **asdict(self)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read `to_json` back; a field of the wrong name, type or range is a checkpoint error."""
        known = {item.name: item for item in fields(cls)}
        given = {key: value for key, value in document.items() if key != "family"}
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise CheckpointError(
                f"the checkpoint's configuration has unknown fields: {', '.join(unknown)}",
                "made by a newer imggen? pip install -U imggen",
            )
        older = {name: item.metadata.get("before") for name, item in known.items() if name not in given}
        values: dict[str, Any] = {name: value for name, value in older.items() if value is not None}
        for key, value in given.items():
            default = known[key].default
            if key in ("classes", "class_counts"):
                kind: type = str if key == "classes" else int
                if not isinstance(value, list) or not all(type(part) is kind for part in value):
                    raise CheckpointError(f"the checkpoint's configuration has a damaged field: {key}")
                values[key] = tuple(value)
                continue
            expected = str if key == "preset" else type(default)
            if expected is float and type(value) is int:
                value = float(value)
            if type(value) is not expected:
                raise CheckpointError(f"the checkpoint's configuration has a damaged field: {key}")
            values[key] = value
        try:
            return cls(**values)
        except (UsageError, TypeError) as error:
            raise CheckpointError(f"the checkpoint's configuration cannot be used: {error}") from error
