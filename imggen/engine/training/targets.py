"""The targets of a training on pairs, from its options; and what they decide of the model."""

from __future__ import annotations

from typing import Any

from imggen.data.dataset import Dataset, ScannedDataset
from imggen.data.masks import MaskTable
from imggen.data.pair_scan import TargetOptions, Targets
from imggen.documents import DocumentError
from imggen.engine.options import TrainOptions, TrainSegmentOptions
from imggen.engine.training.run_data import describe_classes
from imggen.errors import CheckpointError, UsageError
from imggen.models.config import ModelConfig
from imggen.models.mapper.segment.config import SegmentConfig


def targets_of(options: TrainOptions, config: ModelConfig | None = None) -> TargetOptions | None:
    """How the targets are read: as in the run whose `config` is given, else as the options say; None for no pairs.

    Raises UsageError for masks that are missing, CheckpointError for a damaged table.
    """
    if isinstance(options, TrainSegmentOptions):
        return TargetOptions(
            options.masks,
            masks=True,
            table=None if config is None else table_of(config),
            void=options.void,
            lossy=options.lossy_masks,
            resize=options.resize_masks,
            names=options.mask_classes,
        )
    if options.family == SegmentConfig.family:
        raise UsageError("segmentation is learned from masks", "--masks names their folder")
    return None


def table_of(config: ModelConfig) -> MaskTable:
    """The table of the masks that a segmentation model was trained on. Raises CheckpointError."""
    try:
        table = config.table if isinstance(config, SegmentConfig) else None
        return MaskTable.from_json(table or {})
    except DocumentError as error:
        raise CheckpointError(f"its table of classes {error}", "copy it again, or use another checkpoint") from error


def target_values(source: Dataset | ScannedDataset) -> dict[str, Any]:
    """The fields of the model's configuration that the targets of its data decide."""
    if source.targets is None:
        return {}
    table = source.targets.table
    return {"scale": source.scale, **({} if table is None else {"table": table.to_json()})}


def describe_targets(targets: Targets | None) -> str:
    """What the targets are, in words; empty for a data set without."""
    if targets is None:
        return ""
    return "with partners" if targets.table is None else f"masks of {describe_classes(targets.table.names)}"


def target_settings(targets: TargetOptions | None) -> dict[str, Any]:
    """The options of the targets, under the names that --config reads."""
    if targets is None:
        return {}
    given = {"masks": targets.spec, "void": targets.void, "classes": targets.names}
    return {**given, "lossy_masks": targets.lossy, "resize_masks": targets.resize}
