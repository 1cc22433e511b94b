"""Beginning from a trained model of another size, other channels or other classes."""

from typing import Any

import pytest
import torch

from imggen.models import FAMILIES, build_backend, build_learner, presets
from imggen.models.base import Backend
from imggen.models.transfer import transfer
from tests.test_contract import random_images, small


def random_backend(family: str, **shape: Any) -> Backend:
    """A model of which no two tensors are alike."""
    torch.manual_seed(1)
    backend = build_backend(small(family, "tiny", **shape)).eval()
    for tensor in backend.parameters():
        torch.nn.init.normal_(tensor, std=0.1)
    return backend


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_the_same_form_is_taken_whole(family: str) -> None:
    source = random_backend(family, classes=True)
    learner = build_learner(source.config)
    classes = source.config.classes
    result = transfer(source.state_dict(), learner.backend.state_dict(), classes, classes)
    assert not result.parts and not result.new and len(result.whole) == len(source.state_dict())
    learner.begin_from(result.tensors)
    noise, labels = torch.randn(3, *source.noise_shape), torch.tensor([0, 1, 2])
    assert torch.equal(learner.backend.generate(noise, labels), source.generate(noise, labels))
    # Training begins there too: after a step the average, which follows what is trained, is still near.
    images, image_labels = random_images(source.config)
    learner.step(images, image_labels, 0.0, 0)
    after = learner.backend.state_dict()
    distances = [(after[name] - value).abs().mean() for name, value in source.named_parameters()]
    assert torch.stack(distances).max() < 0.04  # 0.11 between two random models


@pytest.mark.parametrize("family", FAMILIES)
def test_how_it_is_trained_is_that_of_the_preset(family: str) -> None:
    preset = presets(family)["tiny"]
    given = preset.with_overrides(learning_rate=0.125, width=preset.to_json()["width"] * 2)
    begun = given.to_begin_from(preset).to_json()
    assert begun == {**preset.to_json(), "width": given.to_json()["width"]}
    assert given.to_begin_from(None) == given


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_and_classes_may_differ(family: str) -> None:
    source, target = random_backend(family), build_backend(small(family, "tiny", channels=4, classes=True))
    result = transfer(source.state_dict(), target.state_dict())
    assert len(result.whole) > 0.7 * len(source.state_dict())
    for name, tensor in target.state_dict().items():
        assert result.tensors[name].shape == tensor.shape
        if name in result.new:
            assert torch.equal(result.tensors[name], tensor)
    for name in result.parts:
        given = source.state_dict()[name]
        common = tuple(slice(min(a, b)) for a, b in zip(given.shape, result.tensors[name].shape, strict=True))
        assert torch.equal(result.tensors[name][common], given[common])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("before", "after"), [(16, 32), (32, 16)])
def test_the_size_may_differ(family: str, before: int, after: int) -> None:
    source, target = (random_backend(family, size=size) for size in (before, after))
    with torch.no_grad():
        for tensor in target.parameters():
            tensor.zero_()
    result = transfer(source.state_dict(), target.state_dict())
    smaller = min(len(source.state_dict()), len(target.state_dict()))
    assert len(result.whole) > 0.7 * smaller
    # Every tensor is used once at most.
    taken = [
        result.tensors[name].flatten()[0].item() for name in result.whole if name in dict(target.named_parameters())
    ]
    assert len(set(taken)) == len(taken) and 0 not in taken
    target.load_state_dict(result.tensors)


@pytest.mark.parametrize("family", FAMILIES)
def test_classes_are_taken_by_name(family: str) -> None:
    source = random_backend(family, classes=True)
    config = source.config.with_overrides(classes=("bees", "dogs", "ants", "elks"), class_counts=(1, 1, 1, 1))
    target = build_backend(config)
    result = transfer(source.state_dict(), target.state_dict(), source.config.classes, config.classes)
    rows = {len(config.classes), len(config.classes) + 1}
    ends = ("embed.weight", "class_embedding.weight")
    names = [name for name in result.tensors if name.endswith(ends) or "class_biases" in name]
    assert names and set(names) <= set(result.parts) and {len(result.tensors[name]) for name in names} <= rows
    # Those of a DCGAN: of each layer but the last.
    assert sum("class_biases" in name for name in names) == (2 if family == "gan" else 0)
    for name in names:
        given, new, taken = source.state_dict()[name], target.state_dict()[name], result.tensors[name]
        assert torch.equal(taken[[0, 2]], given[[1, 0]]) and torch.equal(taken[[1, 3]], new[[1, 3]])
        if len(given) == 4:
            assert torch.equal(taken[4], given[3])  # no class


@pytest.mark.parametrize("size", [16, 32])
def test_biases_of_as_many_other_classes_are_new(size: int) -> None:
    source = random_backend("gan", classes=True)
    config = source.config.with_overrides(size=size, classes=("x", "y", "ants"), class_counts=(1, 1, 1))
    target = build_backend(config)
    result = transfer(source.state_dict(), target.state_dict(), source.config.classes, config.classes)
    names = [name for name in result.parts if "class_biases" in name]
    assert len(names) == 2
    for name in names:
        new, taken = target.state_dict()[name], result.tensors[name]
        assert torch.equal(taken[:2], new[:2]) and not torch.equal(taken[2], new[2])


def test_nothing_fits() -> None:
    source, target = (
        {"a.weight": torch.ones(2, 3), "b": torch.ones(2)},
        {"a.weight": torch.zeros(3, 4), "c": torch.zeros(3)},
    )
    result = transfer(source, target)
    assert result.new == ["a.weight", "c"] and not any(tensor.any() for tensor in result.tensors.values())
