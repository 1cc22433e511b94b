"""What a run of translation measures and shows: inputs, what the model makes of them, and the truth, if it is known."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from imggen.engine.noise import translation_noise
from imggen.engine.sheet import Cell, draw_sheet, in_rows, resized
from imggen.engine.training.inspections import MIN_CELL_SIDE, Inspection, Rows
from imggen.engine.training.mode_collapse import (
    MIN_IMAGES_BEFORE_WARNING,
    RECOVERED_FROM_DIVERSITY,
    WARN_BELOW_DIVERSITY,
    mean_pair_distance,
)
from imggen.engine.training.plan import TrainPlan
from imggen.io.image import ImageArray
from imggen.io.pixels import float_images, to_uint8
from imggen.metrics.compare import Estimate, Estimator, evenly_spaced
from imggen.metrics.distances import Moments, moments_of
from imggen.metrics.features import Features, load_features
from imggen.metrics.images import psnrs, visible
from imggen.models.learner import Learner
from imggen.models.mapper.translate.config import TranslateConfig
from imggen.models.mapper.translate.model import TranslateModel
from imggen.reporting import Reporter

MAX_SHOWN, SHOWN_IN_A_ROW = 24, 4
TRANSLATED_AT_ONCE = 16
MAX_CHECKED = 128  # images while training
MAX_MEASURED = 2_000  # images for the best checkpoint


class TranslateInspection(Inspection):
    """Images with their translations.

    With pairs it measures how near the translations of held-out images are to the true ones, else their diversity, and
    their Fréchet distance to images of the other kind.
    """

    quality, measured_with, checked = "distance to the targets", "yardstick", "the translations"

    def __init__(self, plan: TrainPlan, learner: Learner, held_out_rows: Rows, reporter: Reporter) -> None:
        super().__init__(plan, learner, held_out_rows, reporter)
        self.extractor: Features | None = None
        self.reference: Moments | None = None
        self.warned = False

    @property
    def paired(self) -> bool:
        """Whether the true translations are known."""
        config = self.plan.config
        assert isinstance(config, TranslateConfig)
        return config.paired

    def preview(self) -> ImageArray:
        """Evenly spaced held-out images (training images where none are held out), with their translations.

        Beside them stand the true ones, if there are pairs.
        """
        rows = self._some_rows(MAX_SHOWN)
        inputs, outputs, targets = self._translated(rows)
        side = max(self.plan.config.size, MIN_CELL_SIDE)
        decibels = psnrs(outputs, targets).tolist() if self.paired else [None] * len(rows)
        cells = []
        for image, made, target, value in zip(inputs, outputs, targets, decibels, strict=True):
            group = [
                Cell(resized(image, side), "input"),
                Cell(resized(made, side), "output" if value is None else f"{value:.1f} dB"),
            ]
            cells.append([*group, *([Cell(resized(target, side), "truth")] if self.paired else [])])
        return draw_sheet(in_rows(cells, SHOWN_IN_A_ROW), side)

    def check(self, images_seen: int) -> dict[str, float]:
        """With pairs the PSNR of held-out images, if there are any; else the diversity, with a warning if it is low."""
        if self.paired:
            if not len(self.held_out_rows):
                return {}
            _, outputs, targets = self._translated(self._some_rows(MAX_CHECKED))
            return {"held_out_psnr": round(float(psnrs(outputs, targets).mean()), 3)}
        features = self._features()
        rows = self._some_rows(MAX_CHECKED)
        _, outputs, targets = self._translated(rows[: len(rows) // 2 * 2])
        diversity = mean_pair_distance(features.extract(outputs))
        diversity /= max(mean_pair_distance(features.extract(targets)), 1e-6)
        if diversity < WARN_BELOW_DIVERSITY and images_seen >= MIN_IMAGES_BEFORE_WARNING and not self.warned:
            self.warned = True
            self.reporter.warn(
                f"possible mode collapse: the diversity of translations is {diversity:.2f} of that of --to; if it does "
                "not recover, start again with another --seed, a lower --learning-rate or a higher --contrast"
            )
        self.warned = self.warned and diversity < RECOVERED_FROM_DIVERSITY
        return {"diversity": round(diversity, 4)}

    @property
    def needs_held_out(self) -> bool:
        """With pairs."""
        return self.paired

    def yardstick(self) -> str:
        """With pairs the data set's key, else the hash of the feature extractor."""
        return self.plan.dataset.key[:12] if self.paired else self._features().hash

    def measure(self) -> Estimate:
        """The mean absolute error of held-out images, of levels from 0 to 1; or the Fréchet distance."""
        measure = Estimator(self.yardstick())
        _, outputs, targets = self._translated(self._some_rows(MAX_MEASURED))
        if self.paired:
            differences = np.abs(visible(outputs).astype(np.float32) - visible(targets))
            errors = differences.reshape(len(outputs), -1).mean(1) / 255
            return measure.mean("error", torch.from_numpy(errors).double())
        features = self._features()
        if self.reference is None:
            self.reference = moments_of(features.extract(targets))
        return measure.frechet(self.reference, features.extract(outputs))

    def _some_rows(self, count: int) -> Rows:
        rows = self.held_out_rows if len(self.held_out_rows) else np.arange(len(self.plan.dataset))
        return rows[evenly_spaced(len(rows), count).numpy()]

    def _features(self) -> Features:
        if self.extractor is None:
            self.extractor = load_features(None, self.plan.device)
        return self.extractor

    @torch.inference_mode()
    def _translated(self, rows: Rows) -> tuple[ImageArray, ImageArray, ImageArray]:
        """The inputs of some rows of the data set, their translations, and their targets, (N, H, W, channels) each."""
        model = cast(TranslateModel, self.learner.saved_model)
        pairs = np.asarray(self.plan.dataset.images[rows])
        inputs, targets = np.split(pairs, [self.plan.dataset.channels], axis=3)
        outputs = []
        for part in np.array_split(np.arange(len(rows)), -(-len(rows) // TRANSLATED_AT_ONCE)):
            noise = translation_noise(rows[part].tolist(), model)
            outputs.append(to_uint8(model(float_images(inputs[part], self.plan.device), noise)))
        return inputs, np.concatenate(outputs), targets
