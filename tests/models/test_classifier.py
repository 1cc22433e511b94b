"""What a classifier must do: rows, determinism, exact resume, learning, and nothing from shuffled labels."""

import copy

import pytest
import torch
from torch import Tensor

from imggen.errors import DataError
from imggen.models import build_learner, build_model, presets
from imggen.models.classifier.config import ClassifierConfig
from imggen.models.learner import Learner, NonFiniteError
from tests.test_contract import copied

CLASSES = ("dark", "light", "striped")


def config(preset: str = "tiny", **more: object) -> ClassifierConfig:
    given = {"size": 16, "classes": CLASSES, "class_counts": (9, 9, 9), "width": 8, "ema_images": 0, **more}
    found = presets("classify")[preset].with_overrides(**given)
    assert isinstance(found, ClassifierConfig)
    return found


def labeled_images(count: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Dark, light and striped images with noise, and their labels."""
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 3
    level = torch.tensor([-0.6, 0.6, 0.0])[labels].view(-1, 1, 1, 1)
    stripes = torch.tensor([-1.0, 1.0]).repeat(8).view(1, 1, 1, 16) * (labels == 2).view(-1, 1, 1, 1)
    images = level + 0.5 * stripes + 0.2 * torch.randn(count, channels, 16, 16, generator=generator)
    return images.clamp(-1, 1).contiguous(memory_format=torch.channels_last), labels


def run_steps(learner: Learner, first: int, last: int, images: Tensor, labels: Tensor) -> None:
    for index in range(first, last):
        torch.manual_seed(index)
        rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(index))[:16]
        learner.step(images[rows], labels[rows], index / 40, index * 16)


@pytest.mark.parametrize(("channels", "size"), [(1, 16), (3, 40), (4, 64)])
def test_shapes_and_rows(channels: int, size: int) -> None:
    torch.manual_seed(0)
    model = build_model(config(channels=channels, size=size)).eval()
    images = torch.randn(5, channels, size, size).clamp(-1, 1)
    with torch.no_grad():
        scores, features = model.class_scores(images), model.features(images)
        alone, again = model.class_scores(images[3:4]), model.class_scores(images)
        flat = torch.stack([torch.full_like(images[0], value) for value in (-1.0, 1.0)])
        assert torch.isfinite(model.features(flat).vectors).all()
    assert scores is not None and alone is not None and again is not None
    assert scores.shape == (5, 3) and torch.allclose(scores.exp().sum(1), torch.ones(5), atol=1e-5)
    assert torch.equal(scores, again) and torch.allclose(scores[3:4], alone, atol=1e-5)
    assert features.vectors.shape[0] == 5 and features.maps[0].shape[2] == features.maps[0].shape[3] >= 3
    with pytest.raises(ValueError, match="mask"):
        model.class_scores(images, torch.zeros(5, 1, size, size))


def test_a_classifier_learns_and_resumes_exactly() -> None:
    images, labels = labeled_images(96)
    torch.manual_seed(3)
    learner = build_learner(config(mixup=0.2))
    run_steps(learner, 0, 20, images, labels)
    tensors, document = copied(learner.state()[0]), copy.deepcopy(learner.state()[1])
    run_steps(learner, 20, 40, images, labels)
    torch.manual_seed(99)
    resumed = build_learner(learner.config)
    resumed.load_state(tensors, document)
    run_steps(resumed, 20, 40, images, labels)
    for name, value in learner.state()[0].items():
        assert torch.equal(value, resumed.state()[0][name]), name
    new_images, new_labels = labeled_images(48)
    with torch.no_grad():
        scores = learner.saved_model.eval().class_scores(new_images)
    assert scores is not None and (scores.argmax(1) == new_labels).float().mean() > 0.9


def test_shuffled_labels_teach_nothing() -> None:
    """Labels that have nothing to do with the images are at chance on others, though the model memorizes them."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(348, 3, 4, 4, generator=generator).mul(2).sub(1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    labels = torch.randint(3, (348,), generator=generator)
    learner = build_learner(config())
    run_steps(learner, 0, 30, images[:48], labels[:48])
    with torch.no_grad():
        scores = learner.saved_model.eval().class_scores(images[48:])
    assert scores is not None and abs(float((scores.argmax(1) == labels[48:]).float().mean()) - 1 / 3) < 0.1


def test_non_finite_images_never_reach_a_weight() -> None:
    learner = build_learner(config())
    images, labels = labeled_images(16)
    images[0] = torch.nan
    before = copied(dict(learner.networks["model"].named_parameters()))
    with pytest.raises(NonFiniteError):
        learner.step(images, labels, 0.5, 0)
    for name, value in learner.networks["model"].named_parameters():
        assert torch.equal(value, before[name]), name


def test_classes_that_cannot_be_learned() -> None:
    with pytest.raises(DataError, match="one class, dark"):
        config(classes=("dark",), class_counts=(9,)).check_classes()
    with pytest.raises(DataError, match=r"light \(1\)"):
        config(class_counts=(9, 1, 9)).check_classes()
