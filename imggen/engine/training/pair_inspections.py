"""What a run on pairs measures of its model, and shows: held-out images, what the model makes of them, the truth."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from imggen.data.masks import VOID, MaskTable
from imggen.engine.sheet import Cell, draw_sheet, in_rows, resized
from imggen.engine.training.inspections import MIN_CELL_SIDE, Inspection, Rows
from imggen.io.image import ImageArray
from imggen.io.pixels import to_float
from imggen.metrics.compare import Estimate, Estimator, evenly_spaced
from imggen.metrics.segmentation import confusions, ious, mean_iou, pixel_counts
from imggen.models.mapper.pairs import classes_in, split_pairs
from imggen.models.mapper.segment.model import SegmentModel

MAX_SHOWN, SHOWN_IN_A_ROW = 24, 4
SCORED_AT_ONCE = 16
MAX_CHECKED = 64  # held-out images while training; all of them for the best checkpoint


class SegmentInspection(Inspection):
    """Images with the classes that were found in them and the true ones, and how well these agree."""

    quality, measured_with, checked = "error on held-out masks", "data set", "the overlap"

    def preview(self) -> ImageArray:
        """Evenly spaced held-out images (training images where none are held out): each with prediction and truth."""
        rows = self.held_out_rows if len(self.held_out_rows) else np.arange(len(self.plan.dataset))
        rows = rows[evenly_spaced(len(rows), MAX_SHOWN).numpy()]
        found, truth = self._classes(rows)
        pairs = np.asarray(self.plan.dataset.images[rows])
        side, channels = max(self.plan.config.size, MIN_CELL_SIDE), self.plan.dataset.channels
        colors = self._table().palette()
        colors[VOID] = 255
        cells = []
        for pixels, ours, theirs in zip(pairs[..., :channels], found.numpy(), truth.numpy(), strict=True):
            one = self._count(torch.from_numpy(ours)[None], torch.from_numpy(theirs)[None])
            cells.append(
                [
                    Cell(resized(pixels, side), f"IoU {mean_iou(one):.2f}"),
                    Cell(resized(colors[ours], side), "prediction"),
                    Cell(resized(colors[theirs], side), "truth"),
                ]
            )
        return draw_sheet(in_rows(cells, SHOWN_IN_A_ROW), side)

    def check(self, images_seen: int) -> dict[str, float]:
        """The mean IoU of some held-out images, if there are any."""
        rows = self.held_out_rows[evenly_spaced(len(self.held_out_rows), MAX_CHECKED).numpy()]
        return {"held_out_iou": round(mean_iou(self._counts(rows)), 4)} if len(rows) else {}

    @property
    def needs_held_out(self) -> bool:
        """Always."""
        return True

    def yardstick(self) -> str:
        """The data set's key."""
        return self.plan.dataset.key[:12]

    def measure(self) -> Estimate:
        """One minus the mean IoU of the held-out images."""
        counts = self._counts(self.held_out_rows)
        return Estimator(self.yardstick()).of_sums("error", counts, lambda sums: 1 - ious(sums).nanmean(-1))

    def _table(self) -> MaskTable:
        targets = self.plan.dataset.targets
        assert targets is not None and targets.table is not None
        return targets.table

    def _counts(self, rows: Rows) -> Tensor:
        """Pixel counts (N, classes, 3) of some rows of the data set."""
        return self._count(*self._classes(rows))

    def _count(self, found: Tensor, truth: Tensor) -> Tensor:
        return pixel_counts(confusions(found, truth, len(self._table().values)))

    @torch.inference_mode()
    def _classes(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """The classes that are found, and the true ones, (N, H, W) each, uint8 on the CPU."""
        model = cast(SegmentModel, self.learner.saved_model)
        found, truth = [], []
        for part in np.array_split(rows, -(-len(rows) // SCORED_AT_ONCE)):
            pairs = to_float(self.plan.dataset.batch(part)[0].to(self.plan.device))
            images, masks = split_pairs(pairs, self.plan.dataset.channels)
            found.append(model(images).argmax(1).byte().cpu())
            truth.append(classes_in(masks).byte().cpu())
        return torch.cat(found), torch.cat(truth)
