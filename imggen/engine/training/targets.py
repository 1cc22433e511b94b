"""The targets of a training on pairs, from its options; and what they decide of the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unicodedata import normalize

from imggen.data.cache_dir import expand_user
from imggen.data.class_names import read_names
from imggen.data.dataset import Dataset, ScannedDataset
from imggen.data.masks import MaskTable, parse_void
from imggen.data.pair_scan import TargetOptions, Targets
from imggen.data.scan import TORCHVISION_SETS
from imggen.documents import DocumentError
from imggen.engine.options import TrainOptions, TrainSegmentOptions, TrainTranslateOptions
from imggen.engine.training.run_data import changed_option, describe_classes
from imggen.errors import CheckpointError, UsageError
from imggen.models.config import ModelConfig
from imggen.models.mapper.segment.config import SegmentConfig
from imggen.models.mapper.translate.config import TranslateConfig


def targets_of(options: TrainOptions, config: ModelConfig | None = None) -> TargetOptions | None:
    """How the targets are read: as in the run whose `config` is given, else as the options say; None for no pairs.

    Raises UsageError for masks that are missing or cannot be, CheckpointError for a damaged table.
    """
    if isinstance(options, TrainSegmentOptions):
        if options.data.lower() in TORCHVISION_SETS and not expand_user(options.data).exists():
            raise UsageError(f"{options.data} has no masks", "give a folder or an archive of images to --data")
        given = TargetOptions(
            options.masks,
            masks=True,
            void=options.void,
            lossy=options.lossy_masks,
            resize=options.resize_masks,
            names=options.mask_classes,
        )
        if config is None:
            return given
        table = table_of(config)
        names = given.names or _joined(table)
        return replace(given, table=table, void=table.shown_void, lossy=table.lossy, names=names)
    if isinstance(options, TrainTranslateOptions):
        saved = config if isinstance(config, TranslateConfig) else None
        channels = options.to_channels if saved is None else saved.target_channels
        matched = options.overrides.get("paired", False) if saved is None else saved.paired
        return TargetOptions(options.to, masks=False, channels=channels, matched=matched)
    if options.family == TranslateConfig.family:
        raise UsageError("translation is learned from two sets of images", "--from A --to B names them")
    if options.family == SegmentConfig.family:
        raise UsageError("segmentation is learned from masks", "--masks names their folder")
    return None


def refuse_other_targets(options: TrainOptions, config: ModelConfig) -> None:
    """Raise UsageError for an option that reads the targets otherwise than the run of `config` did.

    Raises CheckpointError for a damaged table.
    """
    if isinstance(options, TrainTranslateOptions) and isinstance(config, TranslateConfig):
        if options.to_channels not in (None, config.target_channels):
            raise changed_option("to_channels", config.target_channels, options.to_channels)
    elif isinstance(options, TrainSegmentOptions):
        table = table_of(config)
        if options.void != "auto" and parse_void(options.void, colors=table.colors) != table.void:
            raise changed_option("void", table.shown_void, options.void)
        if options.mask_classes is not None:
            _refuse_other_names(table.names, tuple(read_names(options.mask_classes)))
        if options.lossy_masks and not table.lossy:
            raise changed_option("lossy_masks", False, True)


def _refuse_other_names(saved: tuple[str, ...], given: tuple[str, ...]) -> None:
    """Raise UsageError if the classes of a resumed run are given other names, but for how letters are composed."""
    if len(saved) != len(given):
        raise changed_option("masks of", describe_classes(saved), describe_classes(given))
    for number, (before, now) in enumerate(zip(saved, given, strict=True)):
        if normalize("NFC", before) != normalize("NFC", now):
            raise changed_option(f"class {number} called", before, now)


def _joined(table: MaskTable) -> str | None:
    """The names of the classes as an option gives them; None for names that only a file can give."""
    return None if any("," in name for name in table.names) else ",".join(table.names)


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
    if source.targets.table is None:
        return {"scale": source.scale, "target_channels": source.targets.channels}
    return {"scale": source.scale, "table": source.targets.table.to_json()}


def describe_targets(targets: Targets | None, classes: tuple[str, ...]) -> tuple[str, str]:
    """What each image comes with, "targets" or "classes", and these in words."""
    if targets is None:
        return "classes", describe_classes(classes)
    if targets.table is None:
        return "targets", f"into images of {targets.channels} {'channel' if targets.channels == 1 else 'channels'}"
    return "targets", f"masks of {describe_classes(targets.table.names)}"


def target_settings(targets: TargetOptions | None) -> dict[str, Any]:
    """The options of the targets, under the names that --config reads."""
    if targets is None:
        return {}
    if not targets.masks:
        return {"to": targets.spec, "to_channels": targets.channels}
    given = {"masks": targets.spec, "void": targets.void, "classes": targets.names}
    return {**given, "lossy_masks": targets.lossy, "resize_masks": targets.resize}
