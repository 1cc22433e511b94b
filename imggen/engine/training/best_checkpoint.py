"""Evaluate while training, and keep the checkpoint whose samples have the lowest distance to the data."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import Any

from imggen.engine.checkpoints import save_backend
from imggen.engine.evaluation.samples import dataset_features, sample_features
from imggen.engine.training.plan import TrainPlan
from imggen.errors import CheckpointError
from imggen.io.checkpoint import read_header
from imggen.metrics.compare import Estimate, Estimator, evenly_spaced
from imggen.metrics.distances import moments_of
from imggen.metrics.features import load_features
from imggen.models.base import Backend
from imggen.reporting import Reporter, Silent

NUM_SAMPLES = 2_000
MAX_REFERENCE_IMAGES = 10_000


class BestCheckpoint:
    """The Fréchet distance of 2,000 samples, always of the same seeds, to at most 10,000 images of the data.

    A resumed run continues with the best distance of `best.safetensors`. Raises CheckpointError if that was measured
    with another feature extractor.
    """

    def __init__(self, plan: TrainPlan, reporter: Reporter) -> None:
        self.path, self.reporter = plan.run_dir.best, reporter
        self.features = load_features(None, plan.device)
        self.measure = Estimator(self.features.hash)
        rows = evenly_spaced(len(plan.dataset), MAX_REFERENCE_IMAGES)
        reference = dataset_features(plan.dataset, rows, self.features, reporter, "reference")
        self.reference_moments = moments_of(reference.features)
        self.best: Estimate | None = None
        self.latest: Estimate | None = None
        if self.path.exists():
            with suppress(KeyError, TypeError):
                self.best = Estimate(**read_header(self.path, kind="weights").document["provenance"]["distance"])
        if self.best is not None and self.best.features != self.features.hash:
            raise CheckpointError(
                f"{self.path} was chosen with the feature extractor {self.best.features}, not {self.features.hash}",
                "move it elsewhere: distances of different extractors cannot be compared",
            )

    def evaluate(self, backend: Backend, provenance: dict[str, Any]) -> dict[str, Any]:
        """Measure the distance and keep the checkpoint if it is the best; returns values for metrics.jsonl."""
        samples = sample_features(backend, NUM_SAMPLES, 0, self.features, Silent())
        distance = self.measure.frechet(self.reference_moments, samples.features)
        self.latest = distance
        # Keep the later one of equals: training may improve parts of the model that do not change the samples.
        if self.best is None or distance.value == self.best.value or distance.better_than(self.best):
            self.best = distance
            save_backend(self.path, backend, {**provenance, "distance": asdict(distance)})
        values = {distance.name: round(distance.value, 4), "best": round(self.best.value, 4)}
        return {**values, "count": distance.count, "features": distance.features}

    def report_better_checkpoint(self) -> None:
        """Report if an earlier checkpoint has a lower distance than the last one."""
        if self.best is not None and self.latest is not None and self.best.value < self.latest.value:
            self.reporter.info(
                f"an earlier checkpoint has a lower distance to the data, {self.best.value:.2f} instead of "
                f"{self.latest.value:.2f}: --weights {self.path}"
            )
