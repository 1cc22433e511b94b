"""Evaluate while training, and keep the checkpoint that is the best."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import Any

from imggen.engine.checkpoints import save_backend
from imggen.engine.training.inspections import Inspection
from imggen.engine.training.plan import TrainPlan
from imggen.errors import CheckpointError
from imggen.io.checkpoint import read_header
from imggen.metrics.compare import Estimate
from imggen.models.base import Model
from imggen.reporting import Reporter


class BestCheckpoint:
    """The checkpoint with the lowest value of what the run's inspection measures.

    A resumed run continues with the value of `best.safetensors`. Raises CheckpointError if that was measured with
    another yardstick.
    """

    def __init__(self, plan: TrainPlan, inspection: Inspection, reporter: Reporter) -> None:
        self.path, self.inspection, self.reporter = plan.run_dir.best, inspection, reporter
        self.best: Estimate | None = None
        self.latest: Estimate | None = None
        yardstick = inspection.yardstick()
        if self.path.exists():
            with suppress(KeyError, TypeError):
                self.best = Estimate(**read_header(self.path, kind="weights").document["provenance"]["distance"])
        if self.best is not None and self.best.features != yardstick:
            raise CheckpointError(
                f"{self.path} was chosen with {inspection.measured_with} {self.best.features}, not {yardstick}",
                f"move it elsewhere: values of different {inspection.measured_with}s cannot be compared",
            )

    def evaluate(self, model: Model, provenance: dict[str, Any]) -> dict[str, Any]:
        """Measure, and keep the checkpoint if it is the best; returns values for metrics.jsonl."""
        measured = self.inspection.measure()
        self.latest = measured
        # Keep the later one of equals: training may improve parts of the model that are not measured.
        if self.best is None or measured.value == self.best.value or measured.better_than(self.best):
            self.best = measured
            save_backend(self.path, model, {**provenance, "distance": asdict(measured)})
        values = {measured.name: round(measured.value, 4), "best": round(self.best.value, 4)}
        return {**values, "count": measured.count, "features": measured.features}

    def report_better_checkpoint(self) -> None:
        """Report if an earlier checkpoint is better than the last one."""
        if self.best is not None and self.latest is not None and self.best.value < self.latest.value:
            self.reporter.info(
                f"an earlier checkpoint has a lower {self.inspection.quality}, {self.best.value:.2f} instead of "
                f"{self.latest.value:.2f}: --weights {self.path}"
            )
