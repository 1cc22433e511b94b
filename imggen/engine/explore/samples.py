"""The samples that a visitor has seen or kept, and a walk through kept ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imggen.engine.explore.actions import PageFile
from imggen.errors import UsageError


@dataclass(frozen=True)
class Sample:
    """A sample: its file, its seed, the class that was asked for, and the sampling options."""

    file: PageFile
    seed: int
    label: str | None
    sampling_options: Mapping[str, Any]

    @property
    def caption(self) -> str:
        """The seed, the class if one was asked for, and whether it was moved along directions."""
        moved = ", moved" if "direction" in self.sampling_options else ""
        return f"seed {self.seed}" + ("" if self.label is None else f", {self.label}") + moved


def walk_options(samples: tuple[Sample, ...]) -> dict[str, Any]:
    """The keyframes of a walk as options: seeds, class and sampling options. Raises UsageError."""
    if len(samples) < 2:
        raise UsageError("a walk goes through two kept images or more", "click images in the tab Sample to keep them")
    first, last = samples[0], samples[-1]
    if any(sample.sampling_options != first.sampling_options for sample in samples):
        raise UsageError("the kept images were sampled with different options", "keep images of the same temperature")
    options = {**first.sampling_options, "seeds": ",".join(str(sample.seed) for sample in samples)}
    if "direction" in first.sampling_options:
        raise UsageError("a walk goes from seed to seed, and not along directions", "keep images of the tab Sample")
    labels = {sample.label for sample in samples}
    if labels == {None}:
        return options
    if len(labels) == 1:
        return {**options, "label": first.label}
    if len(samples) == 2 and None not in labels:
        return {**options, "label_from": first.label, "label_to": last.label}
    raise UsageError(
        "a walk through images of several classes has two keyframes, or takes the class of each seed",
        "keep images of one class, or draw them without choosing a class",
    )
