"""One image for all noise, or one for each class, is mode collapse; diverse samples are not."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from imggen.data.dataset import DataOptions, Dataset, load_dataset
from imggen.engine.training.mode_collapse import MIN_IMAGES_BEFORE_WARNING, CollapseMonitor
from imggen.metrics.features import load_features
from imggen.models import presets
from imggen.models.base import DEFAULT_SAMPLING, Backend
from imggen.models.config import SamplingOptions
from imggen.models.gan.backend import GanBackend
from imggen.reporting import Silent
from tests.helpers import RecordingReporter


class Copier(GanBackend):
    """Generates images of the data: different ones for different noise, but of each class only the first `few`."""

    def __init__(self, dataset: Dataset, few: int) -> None:
        names, counts = dataset.classes, dataset.class_counts
        small = {"width": 8, "max_width": 16, "size": dataset.size, "channels": dataset.channels}
        super().__init__(presets("gan")["tiny"].with_overrides(classes=names, class_counts=counts, **small))
        self.dataset, self.few = dataset, few

    def generate(
        self, noise: Tensor, labels: Tensor | None = None, options: SamplingOptions = DEFAULT_SAMPLING
    ) -> Tensor:
        assert labels is not None
        rows = [torch.nonzero(torch.from_numpy(self.dataset.labels) == label).flatten() for label in labels.tolist()]
        fractions = torch.special.ndtr(noise[:, 0])
        chosen = [int(row[int(t * min(len(row), self.few))]) for row, t in zip(rows, fractions, strict=True)]
        return self.dataset.batch(torch.tensor(chosen).numpy())[0].float() / 127.5 - 1


@pytest.fixture
def monitor(image_folder: Path) -> CollapseMonitor:
    dataset = load_dataset(str(image_folder), DataOptions(size=16), max_size=16, reporter=Silent())
    return CollapseMonitor(dataset, load_features(None, torch.device("cpu")))


def backend(image_folder: Path, few: int = 1000) -> Backend:
    dataset = load_dataset(str(image_folder), DataOptions(size=16), max_size=16, reporter=Silent())
    return Copier(dataset, few).eval()


def test_the_diversity_of_the_data_is_one(image_folder: Path, monitor: CollapseMonitor) -> None:
    assert 0.6 < monitor.diversity(backend(image_folder)) < 1.2


@pytest.mark.parametrize("few", [1, 2, 5])
def test_one_image_or_a_few_images_per_class_have_no_diversity(
    image_folder: Path, monitor: CollapseMonitor, few: int
) -> None:
    assert monitor.diversity(backend(image_folder, few)) < 0.01


@pytest.mark.slow
def test_a_collapse_is_reported_once_and_again_after_recovery(image_folder: Path, monitor: CollapseMonitor) -> None:
    reporter, good, bad = RecordingReporter(), backend(image_folder), backend(image_folder, 1)
    monitor.check(bad, MIN_IMAGES_BEFORE_WARNING - 1, reporter)
    assert not reporter.warnings
    assert monitor.check(bad, MIN_IMAGES_BEFORE_WARNING, reporter) == {"diversity": 0.0}
    monitor.check(bad, MIN_IMAGES_BEFORE_WARNING, reporter)
    assert len(reporter.warnings) == 1 and "mode collapse" in reporter.warnings[0]
    monitor.check(good, MIN_IMAGES_BEFORE_WARNING, reporter)
    monitor.check(bad, MIN_IMAGES_BEFORE_WARNING, reporter)
    assert len(reporter.warnings) == 2
