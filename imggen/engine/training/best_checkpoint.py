"""How near the pictures are while training goes on; the nearest checkpoint is kept beside the last."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from imggen.engine.checkpoints import save_backend
from imggen.engine.evaluation.samples import draw_sample, features_of
from imggen.engine.run_dir import RunDir
from imggen.engine.training.plan import TrainPlan
from imggen.errors import CheckpointError
from imggen.io.checkpoint import read_header
from imggen.metrics.compare import Estimate, Estimator, evenly_spaced
from imggen.metrics.distances import moments_of
from imggen.metrics.features import load_features
from imggen.models.base import Backend
from imggen.reporting import Reporter, Silent

COUNT = 2_000
REFERENCE = 10_000


class BestCheckpoint:
    """Compares every so many seconds; 2,000 pictures of the same seeds against at most 10,000 of the data's."""

    def __init__(self, setup: TrainPlan, folder: RunDir, seconds: float, reporter: Reporter) -> None:
        self.folder, self.seconds, self.reporter = folder, seconds, reporter
        self.features = load_features(None, setup.device)
        self.measure = Estimator(self.features.hash)
        rows = evenly_spaced(len(setup.dataset), REFERENCE)
        self.reference = moments_of(features_of(setup.dataset, rows, self.features, reporter, "reference").features)
        self.last = time.monotonic()
        self.best: Estimate | None = None
        self.latest: Estimate | None = None
        if folder.best.exists():
            with suppress(KeyError, TypeError):
                self.best = Estimate(**read_header(folder.best, kind="weights").document["provenance"]["figure"])
        if self.best is not None and self.best.features != self.features.hash:
            raise CheckpointError(
                f"{folder.best} was found the best in features {self.best.features}, not {self.features.hash}",
                "move it away: figures of other features do not compare",
            )

    def due(self) -> bool:
        """Whether it is time."""
        return time.monotonic() - self.last >= self.seconds

    def look(self, backend: Backend, provenance: dict[str, Any]) -> dict[str, Any]:
        """Compare, keep the checkpoint if it is the best so far; returns what goes into metrics.jsonl."""
        sample = draw_sample(backend, COUNT, 0, self.features, Silent())
        figure = self.measure.frechet(self.reference, sample.features)
        self.latest = figure
        # Of equals the later one: a part of training that does not change what is drawn may teach something else.
        if self.best is None or figure.value == self.best.value or figure.better_than(self.best):
            self.best = figure
            save_backend(self.folder.best, backend, {**provenance, "figure": asdict(figure)})
        self.last = time.monotonic()
        best = self.best.value if self.best else figure.value
        values = {figure.name: round(figure.value, 4), "best": round(best, 4)}
        return {**values, "count": figure.count, "features": figure.features}

    def advise(self) -> None:
        """Say so where an earlier checkpoint was nearer than the last."""
        if self.best is not None and self.latest is not None and self.best.value < self.latest.value:
            self.reporter.info(
                f"an earlier checkpoint was nearer, {self.best.value:.2f} against {self.latest.value:.2f}: "
                f"--weights {self.folder.best}"
            )
