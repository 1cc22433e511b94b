"""A model that draws one picture for all noise, or one a class, is found out; others are left in peace."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from imggen.data.dataset import DataOptions, Dataset, load_dataset
from imggen.engine.training.mode_collapse import EARLY, CollapseMonitor
from imggen.metrics.features import load_features
from imggen.models import presets
from imggen.models.base import Backend
from imggen.models.gan.backend import GanBackend as Gan
from imggen.reporting import Silent


class Copier(Gan):
    """Draws pictures of the data: others for other noise, but of each class the first `few` alone."""

    def __init__(self, dataset: Dataset, few: int) -> None:
        names, counts = dataset.classes, dataset.class_counts
        small = {"width": 8, "max_width": 16, "size": dataset.size, "channels": dataset.channels}
        super().__init__(presets("gan")["tiny"].with_overrides(classes=names, class_counts=counts, **small))
        self.dataset, self.few = dataset, few

    def generate(self, noise: Tensor, labels: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        assert labels is not None
        rows = [torch.nonzero(torch.from_numpy(self.dataset.labels) == label).flatten() for label in labels.tolist()]
        places = torch.special.ndtr(noise[:, 0])
        chosen = [int(of[int(place * min(len(of), self.few))]) for of, place in zip(rows, places, strict=True)]
        return self.dataset.batch(torch.tensor(chosen).numpy())[0].float() / 127.5 - 1


class Heard(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def variety(image_folder: Path) -> CollapseMonitor:
    dataset = load_dataset(str(image_folder), DataOptions(size=16), max_size=16, reporter=Silent())
    return CollapseMonitor(dataset, load_features(None, torch.device("cpu")))


def backend(image_folder: Path, few: int = 1000) -> Backend:
    dataset = load_dataset(str(image_folder), DataOptions(size=16), max_size=16, reporter=Silent())
    return Copier(dataset, few).eval()


def test_the_datas_own_variety_is_one(image_folder: Path, variety: CollapseMonitor) -> None:
    assert 0.6 < variety.of(backend(image_folder)) < 1.2


@pytest.mark.parametrize("few", [1, 2, 5])
def test_one_picture_a_class_or_a_few_are_none(image_folder: Path, variety: CollapseMonitor, few: int) -> None:
    assert variety.of(backend(image_folder, few)) < 0.01


def test_a_collapse_is_said_once_and_again_after_recovery(image_folder: Path, variety: CollapseMonitor) -> None:
    heard, good, bad = Heard(), backend(image_folder), backend(image_folder, 1)
    variety.look(bad, EARLY - 1, heard)
    assert not heard.warnings
    assert variety.look(bad, EARLY, heard) == {"variety": 0.0}
    variety.look(bad, EARLY, heard)
    assert len(heard.warnings) == 1 and "collapsed" in heard.warnings[0]
    variety.look(good, EARLY, heard)
    variety.look(bad, EARLY, heard)
    assert len(heard.warnings) == 2
