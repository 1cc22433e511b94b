"""Which inspection a run has: one for each kind of model."""

from __future__ import annotations

from imggen.engine.training.inspections import ClassifierInspection, GeneratorInspection, Inspection, Rows
from imggen.engine.training.pair_inspections import SegmentInspection
from imggen.engine.training.plan import TrainPlan
from imggen.models import CLASSIFIER, GENERATOR, SEGMENTER, Kind, kind_of
from imggen.models.learner import Learner
from imggen.reporting import Reporter

INSPECTIONS: dict[Kind, type[Inspection]] = {
    GENERATOR: GeneratorInspection,
    CLASSIFIER: ClassifierInspection,
    SEGMENTER: SegmentInspection,
}


def inspection_of(plan: TrainPlan, learner: Learner, held_out_rows: Rows, reporter: Reporter) -> Inspection:
    """The inspection for the kind of model that a run trains."""
    return INSPECTIONS[kind_of(plan.config.family)](plan, learner, held_out_rows, reporter)
