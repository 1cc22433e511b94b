"""What a run says about its data, and refuses of it."""

from __future__ import annotations

from dataclasses import replace

from imggen.data.dataset import DataOptions, Dataset, ScannedDataset, scan_dataset
from imggen.data.scan import keeping_listings
from imggen.engine.options import TrainOptions
from imggen.errors import CheckpointError, UsageError
from imggen.models import GENERATOR, kind_of
from imggen.models.config import ModelConfig, list_classes
from imggen.reporting import Reporter, Silent

FEW_IMAGES = 20  # of fewer a generator learns no variety


def describe_classes(classes: tuple[str, ...]) -> str:
    """The number of classes and the first names: folders that are no classes show here."""
    return f"{len(classes):,} classes: {list_classes(classes)}" if classes else "no classes"


def warn_of_empty_classes(source: Dataset | ScannedDataset, reporter: Reporter) -> None:
    """Warn of classes that the model cannot learn: their images are in other splits, or none can be read."""
    empty = [name for name, count in zip(source.classes, source.class_counts, strict=True) if not count]
    if empty:
        reporter.warn(f"no training images of: {list_classes(empty)}")


def warn_of_few_images(family: str, source: Dataset | ScannedDataset, reporter: Reporter) -> None:
    """Warn where a generator has so few images that it can only repeat them."""
    if kind_of(family) == GENERATOR and len(source) < FEW_IMAGES:
        reporter.warn(f"with {len(source)} images a model only learns to repeat them: use 50 or more")


@keeping_listings()
def scan_without_new_classes(
    data: str, options: DataOptions, *, had_classes: bool, max_size: int, reason_of_max: str, reporter: Reporter
) -> ScannedDataset:
    """List the images of a run; if it was started without classes, those that the data has by now are not used."""
    source = scan_dataset(data, options, max_size=max_size, reason_of_max=reason_of_max, reporter=reporter)
    if had_classes or not source.classes:
        return source
    reporter.warn(f"the run was started without classes and goes on without: {describe_classes(source.classes)}")
    return scan_dataset(data, replace(options, use_classes=False), max_size=max_size, reporter=Silent())


def refuse_other_data(config: ModelConfig, source: Dataset | ScannedDataset) -> None:
    """Raise CheckpointError if the data has another shape than that of a saved run, or other classes."""
    hint = "use the same data and options, or -o FOLDER for a new run"
    for name in ("size", "channels"):
        if (now := getattr(source, name)) != (before := getattr(config, name)):
            raise CheckpointError(f"this run was started with {name} {before}, and the data now has {now}", hint)
    if source.classes != config.classes:
        before, now = describe_classes(config.classes), describe_classes(source.classes)
        raise CheckpointError(f"this run was started with {before}; the data now has {now}", hint)


def changed_option(name: str, saved: object, given: object) -> UsageError:
    """The error for an option of a resumed run that is not as the run was started."""
    return UsageError(
        f"this run was started with {name} {saved}, not {given}", "leave the option out, or use -o FOLDER for a new run"
    )


def given_credits(options: TrainOptions) -> dict[str, str]:
    """Author and license of the images, as far as they are given."""
    given = {"author": options.author, "license": options.license}
    return {name: value for name, value in given.items() if value is not None}
