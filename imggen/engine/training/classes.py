"""What a run says about the classes of its data."""

from __future__ import annotations

from dataclasses import replace

from imggen.data.dataset import DataOptions, Dataset, ScannedDataset, scan_dataset
from imggen.models.config import list_classes
from imggen.reporting import Reporter, Silent


def describe_classes(classes: tuple[str, ...]) -> str:
    """The number of classes and the first names: folders that are no classes show here."""
    return f"{len(classes):,} classes: {list_classes(classes)}" if classes else "no classes"


def warn_of_empty_classes(source: Dataset | ScannedDataset, reporter: Reporter) -> None:
    """Warn of classes that the model cannot learn: their images are in other splits, or none can be read."""
    empty = [name for name, count in zip(source.classes, source.class_counts, strict=True) if not count]
    if empty:
        reporter.warn(f"no training images of: {list_classes(empty)}")


def scan_without_new_classes(
    data: str, options: DataOptions, *, had_classes: bool, max_size: int, reporter: Reporter
) -> ScannedDataset:
    """List the images of a run; if it was started without classes, those that the data has by now are not used."""
    source = scan_dataset(data, options, max_size=max_size, reporter=reporter)
    if had_classes or not source.classes:
        return source
    reporter.warn(f"the run was started without classes and goes on without: {describe_classes(source.classes)}")
    return scan_dataset(data, replace(options, use_classes=False), max_size=max_size, reporter=Silent())
