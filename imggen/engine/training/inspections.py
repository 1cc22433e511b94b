"""What a run measures of its model while it trains, and shows: one class for each kind of model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imggen.engine.evaluation.samples import dataset_features, sample_features
from imggen.engine.noise import SampleSpec
from imggen.engine.render import sample_batches
from imggen.engine.sheet import Cell, draw_sheet, resized
from imggen.engine.training.mode_collapse import CollapseMonitor
from imggen.engine.training.plan import TrainPlan
from imggen.errors import DataError
from imggen.io.image import ImageArray, grid
from imggen.io.pixels import to_float
from imggen.metrics.compare import Estimate, Estimator, evenly_spaced
from imggen.metrics.distances import Moments, moments_of
from imggen.metrics.features import Features, load_features
from imggen.models.learner import GeneratorLearner, Learner
from imggen.reporting import Reporter, Silent

PREVIEW_COLUMNS, MAX_PREVIEW_CLASSES = 8, 16
NUM_SAMPLES = 2_000
MAX_REFERENCE_IMAGES = 10_000
MIN_CELL_SIDE = 64  # so that the text below an image can be read
SCORED_AT_ONCE = 64
Rows = npt.NDArray[np.int64]


class Inspection(ABC):
    """What depends on the kind of the model in a training run.

    `quality` names what `measure` gives, of which less is better, `measured_with` what that depends on, and `checked`
    what `check` measures.
    """

    quality: ClassVar[str]
    measured_with: ClassVar[str]
    checked: ClassVar[str]

    def __init__(self, plan: TrainPlan, learner: Learner, held_out_rows: Rows, reporter: Reporter) -> None:
        self.plan, self.learner, self.held_out_rows, self.reporter = plan, learner, held_out_rows, reporter

    @property
    def needs_held_out(self) -> bool:
        """Whether `measure` needs held-out images."""
        return False

    def check_measurable(self) -> None:
        """Raise DataError if `measure` needs held-out images and there are none."""
        if self.needs_held_out and not len(self.held_out_rows):
            raise DataError("there are too few images to hold some out and evaluate on", "leave --evaluate-every out")

    @abstractmethod
    def preview(self) -> ImageArray:
        """A sheet (H, W, C) that shows what the model can do now, always of the same noise or images."""

    @abstractmethod
    def check(self, images_seen: int) -> dict[str, float]:
        """Metrics of whether the training goes well, after so many images; warns if it does not."""

    @abstractmethod
    def yardstick(self) -> str:
        """Prepare for `measure`, and return a hash of what its values depend on."""

    @abstractmethod
    def measure(self) -> Estimate:
        """How far the model is from the data: the lowest value makes the best checkpoint."""

    def calibration_rows(self, train_rows: Rows) -> Rows:
        """Rows of the data set on which class scores are turned into probabilities: held-out ones if there are any."""
        return self.held_out_rows if len(self.held_out_rows) else train_rows


class GeneratorInspection(Inspection):
    """Samples of fixed noise, their diversity, and their Fréchet distance to the data.

    That is the distance of 2,000 samples, always of the same seeds, to at most 10,000 images of the data.
    """

    quality, measured_with, checked = "distance to the data", "feature extractor", "diversity"
    learner: GeneratorLearner

    def __init__(self, plan: TrainPlan, learner: Learner, held_out_rows: Rows, reporter: Reporter) -> None:
        super().__init__(plan, learner, held_out_rows, reporter)
        self.collapse: CollapseMonitor | None = None
        self.reference: tuple[Features, Moments] | None = None

    def preview(self) -> ImageArray:
        """Samples of the same noise each time: eight rows, or one row for each of the first 16 classes."""
        classes = len(self.plan.config.classes)
        columns = range(PREVIEW_COLUMNS)
        if classes:
            specs = [SampleSpec(seed, row) for row in range(min(classes, MAX_PREVIEW_CLASSES)) for seed in columns]
        else:
            specs = [SampleSpec(seed) for seed in range(8 * PREVIEW_COLUMNS)]
        return grid(np.concatenate(list(sample_batches(self.learner.backend, specs))), PREVIEW_COLUMNS)

    def check(self, images_seen: int) -> dict[str, float]:
        """The diversity of samples; warns of mode collapse."""
        if self.collapse is None:
            self.collapse = CollapseMonitor(self.plan.dataset, load_features(None, self.plan.device))
        return self.collapse.check(self.learner.backend, images_seen, self.reporter)

    def yardstick(self) -> str:
        """The hash of the feature extractor, after it has seen the data."""
        return self._reference()[0].hash

    def measure(self) -> Estimate:
        """The Fréchet distance."""
        features, moments = self._reference()
        samples = sample_features(self.learner.backend, NUM_SAMPLES, 0, features, Silent())
        return Estimator(features.hash).frechet(moments, samples.features)

    def _reference(self) -> tuple[Features, Moments]:
        """The extractor, and the moments of the data's features."""
        if self.reference is None:
            features, dataset = load_features(None, self.plan.device), self.plan.dataset
            rows = evenly_spaced(len(dataset), MAX_REFERENCE_IMAGES)
            reference = dataset_features(dataset, rows, features, self.reporter, "reference")
            self.reference = features, moments_of(reference.features)
        return self.reference


class ClassifierInspection(Inspection):
    """Held-out images with the labels that they get, and how many of those are wrong."""

    quality, measured_with, checked = "error on held-out images", "data set", "accuracy"

    def preview(self) -> ImageArray:
        """Evenly spaced held-out images (training images where none are held out), wrong ones first.

        Below each stands its class, or the class it was taken for and its own.
        """
        rows = self.held_out_rows if len(self.held_out_rows) else np.arange(len(self.plan.dataset))
        rows = rows[evenly_spaced(len(rows), PREVIEW_COLUMNS**2).numpy()]
        scores, labels = self._scores(rows)
        guesses, names, side = scores.argmax(1), self.plan.config.classes, self.plan.config.size
        cells = []
        for index in (guesses == labels).long().sort(stable=True).indices.tolist():
            guess, label = names[guesses[index]], names[labels[index]]
            image = np.asarray(self.plan.dataset.images[rows[index : index + 1]])[0]
            text, group = (label, "") if guess == label else (f"{guess} ({label})", "wrong")
            cells.append(Cell(resized(image, max(side, MIN_CELL_SIDE)), text, group))
        sheet_rows = [cells[start : start + PREVIEW_COLUMNS] for start in range(0, len(cells), PREVIEW_COLUMNS)]
        return draw_sheet(sheet_rows, max(side, MIN_CELL_SIDE))

    def check(self, images_seen: int) -> dict[str, float]:
        """Accuracy and loss (in nats) on held-out images, if there are any."""
        if not len(self.held_out_rows):
            return {}
        scores, labels = self._scores(self.held_out_rows)
        accuracy = float((scores.argmax(1) == labels).double().mean())
        loss = float(torch.nn.functional.cross_entropy(scores, labels))
        return {"held_out_accuracy": round(accuracy, 4), "held_out_loss": round(loss, 4)}

    @property
    def needs_held_out(self) -> bool:
        """Always."""
        return True

    def yardstick(self) -> str:
        """The data set's key."""
        return self.plan.dataset.key[:12]

    def measure(self) -> Estimate:
        """The fraction of held-out images with a wrong label."""
        scores, labels = self._scores(self.held_out_rows)
        return Estimator(self.yardstick()).mean("error", (scores.argmax(1) != labels).double())

    def calibration_rows(self, train_rows: Rows) -> Rows:
        """Held-out images only: of those it has learned, a classifier is nearly sure."""
        return self.held_out_rows

    @torch.inference_mode()
    def _scores(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Class scores (N, classes) and labels (N,) of some rows of the data set, on the CPU."""
        scores, labels = [], []
        for part in np.array_split(rows, -(-len(rows) // SCORED_AT_ONCE)):
            levels, part_labels = self.plan.dataset.batch(part)
            images = to_float(levels.to(self.plan.device)).contiguous(memory_format=torch.channels_last)
            found = self.learner.saved_model.class_scores(images)
            assert found is not None
            scores.append(found.cpu())
            labels.append(part_labels.cpu())
        return torch.cat(scores), torch.cat(labels)
