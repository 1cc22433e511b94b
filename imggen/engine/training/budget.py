"""How long to train: a number of images or of seconds, read as progress in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

from imggen.errors import UsageError


@dataclass(frozen=True)
class Budget:
    """Either `images`, counted as often as they are trained on, or `seconds` of training."""

    images: int | None = None
    seconds: float | None = None

    @classmethod
    def of(
        cls,
        images: int | None,
        epochs: float | None,
        minutes: float | None,
        dataset_size: int,
        default_minutes: float,
    ) -> Budget:
        """The budget that the options ask for; an epoch is `dataset_size` images. Raises UsageError."""
        given = [value for value in (images, epochs, minutes) if value is not None]
        if len(given) > 1:
            raise UsageError("--images, --epochs and --minutes exclude each other", "give one of them")
        if given and not 0 < given[0] < 1e15:
            raise UsageError("the budget must be above 0 and below 1e15", "such as --minutes 30 or --images 500k")
        if images is not None:
            return cls(images=images)
        if epochs is not None:
            return cls(images=max(1, round(epochs * dataset_size)))
        return cls(seconds=60 * (minutes if minutes is not None else default_minutes))

    def progress(self, images: int, seconds: float) -> float:
        """The fraction that is spent, at most 1."""
        if self.images is not None:
            return min(1.0, images / self.images)
        assert self.seconds is not None
        return min(1.0, seconds / self.seconds)

    def seconds_left(self, images: int, seconds: float, images_per_second: float) -> float:
        """The expected remaining time in seconds."""
        if self.images is not None:
            return max(0.0, self.images - images) / max(images_per_second, 1e-9)
        assert self.seconds is not None
        return max(0.0, self.seconds - seconds)

    def __str__(self) -> str:
        """Text for messages, such as "30 minutes" or "500,000 images"."""
        if self.images is not None:
            return f"{self.images:,} images"
        assert self.seconds is not None
        return f"{self.seconds / 60:g} minutes"
