"""The configuration of a new run, as far as it is chosen for the user, and why."""

from __future__ import annotations

from typing import Any

from imggen.data.dataset import Dataset, ScannedDataset
from imggen.engine.training.targets import target_values
from imggen.models import presets
from imggen.models.config import ModelConfig

# Fields of a configuration that are not options of a family.
CONFIG_FROM_DATA = (
    "family",
    "preset",
    "size",
    "channels",
    "classes",
    "class_counts",
    "hard_alpha",
    "backbone",
    "tune",
    "table",
    "scale",
    "target_channels",
)


def adapted_to_data(
    preset: ModelConfig, source: Dataset | ScannedDataset, overrides: dict[str, Any], *, is_preset: bool
) -> tuple[ModelConfig, list[str]]:
    """The configuration for this data, with the user's own options; and what was chosen to suit the data, and why.

    `preset` may also be the configuration of a model to begin from (not `is_preset`), whose layers stay as they are.
    Raises UsageError for values that do not fit together.
    """
    by_size = preset.for_size(source.size) if is_preset else {}
    by_count = preset.for_dataset_size(len(source))
    chosen: dict[str, Any] = {}
    choices = []
    for fields, reason in (
        (by_size, f"images of {source.size} pixels"),
        (by_count, f"a data set of {len(source):,} images"),
    ):
        if fields and not fields.keys() & overrides.keys():
            chosen |= fields
            choices.append(f"{_listed(fields)}: suits {reason}")
    config = preset.with_overrides(
        **chosen,
        size=source.size,
        channels=source.channels,
        classes=source.classes,
        class_counts=source.class_counts,
        hard_alpha=source.hard_alpha,
        **target_values(source),
        **overrides,
    )
    return config, choices


def differences(config: ModelConfig, overrides: dict[str, Any]) -> str:
    """The options of a trained model that are not its preset's, without those that the user sets; empty if none."""
    preset = presets(config.family).get(config.preset)
    if preset is None:
        return ""
    usual = preset.to_json()
    left_out = {*CONFIG_FROM_DATA, *overrides}
    return _listed({k: v for k, v in config.to_json().items() if k not in left_out and v != usual[k]})


def _listed(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items())
