"""How long to train: pictures or minutes, both read as progress in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

from imggen.errors import UsageError


@dataclass(frozen=True)
class Budget:
    """Either `images` seen or `seconds` of training."""

    images: int | None = None
    seconds: float | None = None

    @classmethod
    def of(
        cls, images: int | None, epochs: float | None, minutes: float | None, count: int, default_minutes: float
    ) -> Budget:
        """From what the user gave; one pass over `count` pictures is an epoch. Raises UsageError."""
        given = [value for value in (images, epochs, minutes) if value is not None]
        if len(given) > 1:
            raise UsageError("--images, --epochs and --minutes exclude each other", "give one of them")
        if given and not 0 < given[0] < 1e15:
            raise UsageError("the budget must be above 0, and below 1e15")
        if images is not None:
            return cls(images=images)
        if epochs is not None:
            return cls(images=max(1, round(epochs * count)))
        return cls(seconds=60 * (minutes if minutes is not None else default_minutes))

    def progress(self, images: int, seconds: float) -> float:
        """The fraction spent, at most 1."""
        if self.images is not None:
            return min(1.0, images / self.images)
        assert self.seconds is not None
        return min(1.0, seconds / self.seconds)

    def seconds_left(self, images: int, seconds: float, images_per_second: float) -> float:
        """What is expected to be left."""
        if self.images is not None:
            return max(0.0, self.images - images) / max(images_per_second, 1e-9)
        assert self.seconds is not None
        return max(0.0, self.seconds - seconds)

    def __str__(self) -> str:
        """For people."""
        if self.images is not None:
            return f"{self.images:,} pictures"
        assert self.seconds is not None
        return f"{self.seconds / 60:g} minutes"
