"""How well a generator tells the classes of images apart: by its own classes, and by what it sees in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from imggen.engine.evaluation.labeled import (
    Labeled,
    labels_by_neighbors,
    pixel_vectors,
    scores_of,
    untrained,
    vectors_of,
)
from imggen.metrics.compare import Estimator
from imggen.models.base import Backend
from imggen.reporting import Reporter

MAX_JUDGED, MAX_KNOWN = 500, 1_000
MIN_JUDGED = 10


@dataclass(frozen=True)
class LabeledParts:
    """Images whose labels are known, and others that are labeled by them."""

    known: Labeled
    judged: Labeled

    def bounded(self, count: int) -> LabeledParts:
        """At most `count` images to judge, and twice as many known ones, evenly spaced, within fixed limits."""
        return LabeledParts(self.known.part(min(2 * count, MAX_KNOWN)), self.judged.part(min(count, MAX_JUDGED)))


def measure_recognition(
    backend: Backend, parts: LabeledParts, measure: Estimator, reporter: Reporter
) -> dict[str, Any] | None:
    """The fraction of images `judged` that get their class, as JSON; None if the model cannot see, or of few images.

    `own_classes`: by the model's own classes, if they are the data's; `neighbors`: by the nearest of the `known` images
    by cosine similarity from the mean of these. Beside them `pixels`, the nearest by pixels, `untrained`, those that a
    network with random weights sees, and `majority`, always the most frequent known class.
    """
    known, judged = parts.known, parts.judged
    if min(len(known.rows), len(judged.rows)) < MIN_JUDGED or backend.limitation("features"):
        return None
    guesses: dict[str, Tensor] = {}
    first = judged.images(torch.arange(1), backend.device)
    if backend.classes == judged.dataset.classes and backend.class_scores(first) is not None:
        guesses["own_classes"] = scores_of(backend, judged, reporter).argmax(1)
    random = untrained(backend)
    guesses["neighbors"] = _by_neighbors(parts, lambda part: vectors_of(backend, part, reporter))
    guesses["pixels"] = _by_neighbors(parts, pixel_vectors)
    guesses["untrained"] = _by_neighbors(parts, lambda part: vectors_of(random, part, reporter))
    guesses["majority"] = torch.full_like(judged.labels, int(known.labels.bincount().argmax()))
    shares = {
        name: measure.mean(name, (labels == judged.labels).double()).to_json() for name, labels in guesses.items()
    }
    return {"count": len(judged.rows), "known_count": len(known.rows), **shares}


def _by_neighbors(parts: LabeledParts, embed: Callable[[Labeled], Tensor]) -> Tensor:
    """Labels (N,) of the judged images by the nearest known ones: by cosine, from the mean of the known ones."""
    known = embed(parts.known)
    center = known.mean(0)
    directions = normalize(known - center)
    return labels_by_neighbors(directions, parts.known.labels, normalize(embed(parts.judged) - center))
