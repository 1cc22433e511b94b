"""A model that draws one picture for all noise, or one a class, is found out; others are left in peace."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from imggen.data.dataset import DataOptions, Dataset, load_dataset
from imggen.engine.variety import EARLY, Variety
from imggen.metrics.extract import load_features
from imggen.models import presets
from imggen.models.base import Backend
from imggen.models.gan.backend import Backend as Gan
from imggen.reporting import Silent


class Copier(Gan):
    """Draws pictures of the data: others for other noise, or the first of its class always."""

    def __init__(self, dataset: Dataset, *, collapsed: bool) -> None:
        names, counts = dataset.classes, dataset.class_counts
        small = {"width": 8, "max_width": 16, "size": dataset.size, "channels": dataset.channels}
        super().__init__(presets("gan")["tiny"].with_overrides(classes=names, class_counts=counts, **small))
        self.dataset, self.collapsed = dataset, collapsed

    def generate(self, noise: Tensor, labels: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        assert labels is not None
        rows = [torch.nonzero(torch.from_numpy(self.dataset.labels) == label).flatten() for label in labels.tolist()]
        places = torch.zeros(len(noise)) if self.collapsed else torch.special.ndtr(noise[:, 0])
        chosen = [int(of[int(place * len(of))]) for of, place in zip(rows, places, strict=True)]
        return self.dataset.batch(torch.tensor(chosen).numpy())[0].float() / 127.5 - 1


class Heard(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def variety(pictures: Path) -> Variety:
    dataset = load_dataset(str(pictures), DataOptions(size=16), max_size=16, reporter=Silent())
    return Variety(dataset, load_features(None, torch.device("cpu")))


def backend(pictures: Path, *, collapsed: bool) -> Backend:
    dataset = load_dataset(str(pictures), DataOptions(size=16), max_size=16, reporter=Silent())
    return Copier(dataset, collapsed=collapsed).eval()


def test_the_datas_own_variety_is_one(pictures: Path, variety: Variety) -> None:
    assert 0.8 < variety.of(backend(pictures, collapsed=False)) < 1.2
    assert variety.of(backend(pictures, collapsed=True)) < 0.01


def test_a_collapse_is_said_once_and_again_after_recovery(pictures: Path, variety: Variety) -> None:
    heard, good, bad = Heard(), backend(pictures, collapsed=False), backend(pictures, collapsed=True)
    variety.look(bad, EARLY - 1, heard)
    assert not heard.warnings
    assert variety.look(bad, EARLY, heard) == {"variety": 0.0}
    variety.look(bad, EARLY, heard)
    assert len(heard.warnings) == 1 and "collapsed" in heard.warnings[0]
    variety.look(good, EARLY, heard)
    variety.look(bad, EARLY, heard)
    assert len(heard.warnings) == 2
