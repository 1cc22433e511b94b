"""What every preset of every registered family must do."""

from typing import Any

import pytest
import torch

from imggen.errors import CheckpointError, UsageError
from imggen.models import FAMILIES, build_backend, build_learner, describe, family_config, presets
from imggen.models.base import Backend, Learner, NonFiniteError
from imggen.models.config import ModelConfig

CASES = [(family, preset) for family in FAMILIES for preset in presets(family)]
# What makes any preset of a family so narrow that a test takes seconds.
SMALL: dict[str, dict[str, Any]] = {
    "gan": {"width": 8, "max_width": 16},
    "transformer": {"width": 64, "depth": 2, "heads": 2, "tokenizer_width": 8, "prior_rate": 1.0},
    "vae": {"width": 8, "max_width": 8, "z": 3, "depth": 0.01, "mixtures": 2},
}
# Steps before a family can turn pictures back into noise.
LEARNT = {"gan": 5, "vae": 200, "transformer": 100}


def small(family: str, preset: str, *, channels: int = 3, size: int = 16, classes: bool = False) -> ModelConfig:
    """A preset as it is, but narrow, so that a test takes seconds."""
    names = ("ants", "bees", "cows") if classes else ()
    config = presets(family)[preset].with_overrides(
        size=size, channels=channels, classes=names, class_counts=(5, 3, 2) if classes else ()
    )
    return config.with_overrides(**SMALL[family])


def pictures(config: ModelConfig, count: int = 8) -> tuple[torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, *config.image_shape, generator=generator) * 2 - 1
    labels = torch.arange(count) % len(config.classes) if config.classes else None
    return images.contiguous(memory_format=torch.channels_last), labels


def run(learner: Learner, start: int, stop: int, *, every: int = 1) -> None:
    """Steps number `start` to `stop` of twenty, or of those every so many: a learner with stages goes through all."""
    images, labels = pictures(learner.config)
    for index in range(start, stop, every):
        torch.manual_seed(index)
        learner.step(images, labels, index / 20, index * len(images))


@pytest.mark.parametrize(("family", "preset"), CASES)
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize(("channels", "size"), [(1, 16), (3, 32), (4, 64)])
def test_shapes_range_and_rows(family: str, preset: str, classes: bool, channels: int, size: int) -> None:
    config = small(family, preset, channels=channels, size=size, classes=classes)
    torch.manual_seed(0)
    backend = build_backend(config).eval()
    noise = torch.randn(5, *backend.noise_shape)
    labels = torch.tensor([0, 1, 2, 0, 1]) if classes else None
    with torch.no_grad():
        drawn = backend.generate(noise, labels)
        again = backend.generate(noise, labels)
        alone = backend.generate(noise[3:4], labels[3:4] if labels is not None else None)
        fused = backend.for_inference().generate(noise, labels)
    assert drawn.shape == (5, channels, size, size)
    assert drawn.min() >= -1 and drawn.max() <= 1
    assert torch.equal(drawn, again)
    assert (drawn[3:4] - alone).abs().max() < 1 / 255
    assert (drawn - fused).abs().max() < 1 / 255
    assert not torch.equal(drawn[0], drawn[3])


@pytest.mark.parametrize(("family", "preset"), CASES)
def test_labels_and_temperature_act(family: str, preset: str) -> None:
    backend = build_learner(small(family, preset, classes=True)).backend
    noise = torch.randn(2, *backend.noise_shape)
    with torch.no_grad():
        one = backend.generate(noise, torch.tensor([0, 0]))
        other = backend.generate(noise, torch.tensor([1, 1]))
        cold = backend.generate(noise, torch.tensor([0, 0]), temperature=0.0)
    assert not torch.equal(one, other)
    assert torch.allclose(cold[0], cold[1], atol=1e-5)
    with pytest.raises(ValueError, match="labels"):
        backend.generate(noise)
    bare = build_learner(small(family, preset)).backend
    with pytest.raises(ValueError, match="no classes"):
        bare.generate(noise, torch.tensor([0, 0]))


@pytest.mark.parametrize(("family", "preset"), CASES)
def test_the_way_between_two_classes_ends_at_them(family: str, preset: str) -> None:
    backend = build_learner(small(family, preset, classes=True)).backend
    noise, old, new = torch.randn(3, *backend.noise_shape), torch.tensor([0, 0, 1]), torch.tensor([1, 2, 1])
    with torch.no_grad():
        for share, labels in ((0.0, old), (1.0, new)):
            drawn = backend.generate_between(noise, old, new, torch.full((3,), share))
            assert (drawn - backend.generate(noise, labels)).abs().max() < 1 / 255
        half = backend.generate_between(noise, old, new, torch.full((3,), 0.5))
    assert half.shape == drawn.shape and half.abs().max() <= 1


@pytest.mark.parametrize(("family", "preset"), CASES)
@pytest.mark.parametrize("classes", [False, True])
def test_every_parameter_learns(family: str, preset: str, classes: bool) -> None:
    torch.manual_seed(3)
    learner = build_learner(small(family, preset, classes=classes))
    before = {name: value.clone() for name, value in learner.state()[0].items()}
    run(learner, 0, 20, every=3)
    run(learner, 0, 3)
    for _ in range(5):  # a layer before one that begins at zero learns a step later, and little at first
        run(learner, 18, 20)  # the last stage, where there are stages
    after = learner.state()[0]
    frozen = {name for name, _ in learner.backend.named_buffers()}
    for name, value in before.items():
        if name.split(".", 1)[-1] not in frozen:
            assert not torch.equal(value, after[name]), f"{name} never changed"


@pytest.mark.parametrize(("family", "preset"), CASES)
@pytest.mark.parametrize("classes", [False, True])
def test_resuming_is_bit_exact(family: str, preset: str, classes: bool) -> None:
    config = small(family, preset, classes=classes)
    torch.manual_seed(0)
    whole = build_learner(config)
    run(whole, 0, 10)
    torch.manual_seed(0)
    first = build_learner(config)
    run(first, 0, 5)
    tensors, document = first.state()
    torch.manual_seed(99)
    second = build_learner(config)
    second.load_state({name: value.clone() for name, value in tensors.items()}, document)
    run(second, 5, 10)
    expected, found = whole.state(), second.state()
    assert expected[0].keys() == found[0].keys()
    for name, value in expected[0].items():
        assert torch.equal(value, found[0][name]), name


@pytest.mark.parametrize(("family", "preset"), CASES)
def test_a_loaded_state_is_not_trained_along(family: str, preset: str) -> None:
    learner = build_learner(small(family, preset))
    run(learner, 0, 2)
    tensors = {name: value.clone() for name, value in learner.state()[0].items()}
    kept = {name: value.clone() for name, value in tensors.items()}
    learner.load_state(tensors, learner.state()[1])
    run(learner, 2, 4)
    for name, value in kept.items():
        assert torch.equal(value, tensors[name]), name


@pytest.mark.parametrize(("family", "preset"), CASES)
def test_micro_batches_train_too(family: str, preset: str) -> None:
    learner = build_learner(small(family, preset, classes=True))
    learner.micro_batch = 4
    before = {name: value.clone() for name, value in learner.backend.state_dict().items()}
    run(learner, 0, 2)
    after = learner.backend.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    assert all(torch.isfinite(value).all() for value in after.values())


def test_micro_batches_add_up_to_the_whole_step() -> None:
    """Where no layer looks at other pictures and nothing is drawn but noise, parts give the whole's weights.

    All but one in a thousand: Adam's first steps are as long where a gradient is as good as zero, either way.
    """
    found = []
    for size in (None, 4):
        learner = build_learner(small("gan", "base", classes=True).with_overrides(augment=0.0))
        learner.load_state(*(found[0] if found else learner.state()))
        if not found:
            tensors, document = learner.state()
            found.append(({name: value.clone() for name, value in tensors.items()}, document))
        learner.micro_batch = size
        run(learner, 0, 2)
        found.append(learner.state())
    apart = [~torch.isclose(value, found[2][0][name], rtol=1e-3, atol=2e-5) for name, value in found[1][0].items()]
    assert sum(int(one.sum()) for one in apart) < 1e-3 * sum(one.numel() for one in apart)
    assert any(not torch.equal(value, found[0][0][name]) for name, value in found[1][0].items())


@pytest.mark.parametrize(("family", "preset"), CASES)
def test_non_finite_pictures_never_reach_a_weight(family: str, preset: str) -> None:
    learner = build_learner(small(family, preset))
    run(learner, 0, 1)
    nets = learner.networks
    weights = {(key, name): p.detach().clone() for key, net in nets.items() for name, p in net.named_parameters()}
    images, labels = pictures(learner.config)
    images[0, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError):
        learner.step(images, labels, 0.5, 8)
    for key, net in nets.items():
        for name, parameter in net.named_parameters():
            assert torch.isfinite(parameter).all(), f"{key}.{name}"
            # A transformer's tokenizer is replaced by its average where the prior begins.
            assert family == "transformer" or torch.equal(parameter, weights[key, name]), f"{key}.{name}"


@pytest.mark.parametrize(("family", "preset"), CASES)
def test_one_batch_is_learnt(family: str, preset: str) -> None:
    """Pictures of one flat colour: after some steps the model draws something nearer to it than at the start."""
    config = small(family, preset, channels=1)
    torch.manual_seed(0)
    learner = build_learner(config.with_overrides(learning_rate=2e-3))
    images = torch.full((16, *config.image_shape), 0.7)
    noise = torch.randn(16, *learner.backend.noise_shape)
    with torch.no_grad():
        before = (learner.backend.generate(noise) - 0.7).abs().mean()
    for index in range(80):
        torch.manual_seed(index)
        learner.step(images, None, index / 80, index * 16)
    with torch.no_grad():
        after = (learner.backend.generate(noise) - 0.7).abs().mean()
    assert after < before / 2


@pytest.mark.parametrize(("family", "preset"), CASES)
def test_inversion_and_filling(family: str, preset: str) -> None:
    torch.manual_seed(0)
    learner = build_learner(small(family, preset).with_overrides(learning_rate=2e-3))
    # A family that looks at pictures, rather than search for their noise, must have learnt to: here, flat ones.
    images = (torch.rand(16, 3, 1, 1) * 2 - 1).expand(-1, -1, 16, 16)
    for index in range(LEARNT[family]):
        torch.manual_seed(index)
        learner.step(images, None, index / LEARNT[family], index * len(images))
    backend: Backend = learner.backend
    noise = torch.randn(3, *backend.noise_shape)
    with torch.no_grad():
        images = backend.generate(noise)
    found = backend.invert(images)
    with torch.no_grad():
        error = (backend.generate(found) - images).square().mean()
    assert error < 0.2 * images.var()
    mask = torch.zeros(3, 1, 16, 16)
    mask[:, :, 4:12, 4:12] = 1
    filled = backend.inpaint(images, mask, noise)
    assert torch.equal(filled * (1 - mask), images * (1 - mask))
    other = backend.inpaint(images, mask, -noise)
    assert not torch.equal(filled * mask, other * mask)


@pytest.mark.parametrize(("family", "preset"), CASES)
def test_configuration_survives_json(family: str, preset: str) -> None:
    config = small(family, preset, classes=True)
    document = config.to_json()
    document["classes"], document["class_counts"] = list(config.classes), list(config.class_counts)
    assert family_config(family).from_json(document) == config
    assert describe(family, preset)
    for damage in ({"size": "32"}, {"size": 10**9}, {"unknown": 1}, {"classes": [1]}, {"preset": 3}, {"channels": 2}):
        with pytest.raises(CheckpointError):
            family_config(family).from_json({**document, **damage})


def test_sizes_that_cannot_be() -> None:
    for size in (0, 8, 24, 1024):
        with pytest.raises(UsageError, match="size"):
            presets("gan")["tiny"].with_overrides(size=size)
    with pytest.raises(UsageError, match="no family"):
        presets("gna")


def test_a_loss_that_is_not_finite_in_one_process_stops_all() -> None:
    learner = build_learner(small("vae", "tiny"))
    sent: list[torch.Tensor] = []
    learner.processes = 2
    learner.reduce_gradients = lambda parameters: sent.extend(p.grad.clone() for p in parameters)
    (adam, *_) = learner.optimizers.values()
    weight = adam.param_groups[0]["params"][0]
    for loss in (1.0, float("inf")):
        weight.grad = torch.ones_like(weight)
        if loss == 1.0:
            learner.gradient_norm(adam, torch.tensor(loss))
        else:
            with pytest.raises(NonFiniteError):
                learner.gradient_norm(adam, torch.tensor(loss))
    assert torch.isfinite(sent[0]).all() and not torch.isfinite(sent[-1]).any()
