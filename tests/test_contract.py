"""What every preset of every registered family must do."""

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from imggen.errors import CheckpointError, UsageError
from imggen.models import FAMILIES, build_backend, build_learner, describe, family_config, global_batch, presets
from imggen.models.base import Backend
from imggen.models.config import ModelConfig, SamplingOptions
from imggen.models.gan.config import GanConfig
from imggen.models.gan.inversion import SearchBudget
from imggen.models.learner import Learner, NonFiniteError
from imggen.models.vae.config import VaeConfig

CASES = [(family, preset) for family in FAMILIES for preset in presets(family)]
# What makes any preset of a family so narrow that a test takes seconds.
SMALL: dict[str, dict[str, Any]] = {
    "gan": {"width": 8, "max_width": 16},
    "transformer": {"width": 64, "depth": 2, "heads": 2, "tokenizer_width": 8, "prior_rate": 1.0},
    "vae": {"width": 8, "max_width": 8, "z": 3, "depth": 0.01, "mixtures": 2},
}
# Overrides, and steps of eight images each, after which a model generates flat colors, and its encoder, where it has
# one, inverts them.
FLAT_COLOR_TRAINING: dict[str, tuple[dict[str, Any], int]] = {
    "gan": ({"learning_rate": 4e-3}, 50),
    "vae": ({"learning_rate": 6e-3}, 60),
    "transformer": ({"learning_rate": 4e-3}, 50),
}
SMALL_SEARCH = SearchBudget(candidates=32, starts=2, steps=20, final_steps=40)  # for inversion by a GAN
# Weights that a learner sets from others in the first step of a stage, by its index of twenty: the tokenizer from its
# average where the prior begins, the partial encoder from the full one.
REPLACED = {("transformer", 10): "tokenizer.", ("transformer", 19): "tokenizer.", ("vae", 19): "partial"}
Tensors = dict[str, torch.Tensor]


def small(family: str, preset: str, *, channels: int = 3, size: int = 16, classes: bool = False) -> ModelConfig:
    """A preset as it is, but narrow, so that a test takes seconds."""
    names = ("ants", "bees", "cows") if classes else ()
    config = presets(family)[preset].with_overrides(
        size=size, channels=channels, classes=names, class_counts=(5, 3, 2) if classes else ()
    )
    return config.with_overrides(**SMALL[family])


def cases_that_differ_when_small() -> list[tuple[str, str]]:
    """The presets, without those that, when small, differ from another in learning rate and EMA half-life only."""
    distinct: dict[ModelConfig, tuple[str, str]] = {}
    for family, preset in CASES:
        common = {"preset": "any", "ema_images": 1000, "learning_rate": 1e-3}
        distinct.setdefault(small(family, preset).with_overrides(**common), (family, preset))
    return [*distinct.values()]


def random_images(config: ModelConfig, count: int = 8) -> tuple[torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, *config.image_shape, generator=generator) * 2 - 1
    labels = torch.arange(count) % len(config.classes) if config.classes else None
    return images.contiguous(memory_format=torch.channels_last), labels


def run_steps(learner: Learner, *indices: int) -> None:
    """The steps of these indices of twenty: those spread over 0 to 19 go through every stage of a learner."""
    images, labels = random_images(learner.config)
    for index in indices:
        torch.manual_seed(index)
        learner.step(images, labels, index / 20, index * len(images))


def copied(tensors: Tensors) -> Tensors:
    return {name: value.clone() for name, value in tensors.items()}


@dataclass
class TrainedRun:
    """A learner after steps `first`, `second` and `last`, with copies of its state before and after the second."""

    first, second, last = (0, 3, 6), (9, 12, 15, 18), (0, 1, 2, *(18, 19) * 3)
    learner: Learner
    at_start: Tensors
    before_second: tuple[Tensors, dict[str, Any]]
    after_second: tuple[Tensors, dict[str, Any]]


@pytest.fixture(scope="session")
def trained_run(request: pytest.FixtureRequest) -> TrainedRun:
    family, preset, classes = request.param
    torch.manual_seed(3)
    learner = build_learner(small(family, preset, classes=classes))
    at_start = copied(learner.state()[0])
    copies = []
    for indices in (TrainedRun.first, TrainedRun.second):
        run_steps(learner, *indices)
        tensors, document = learner.state()
        copies.append((copied(tensors), copy.deepcopy(document)))
    run_steps(learner, *TrainedRun.last)
    return TrainedRun(learner, at_start, *copies)


@pytest.fixture(scope="session")
def flat_color_model(request: pytest.FixtureRequest) -> tuple[torch.Tensor, Backend]:
    """A model trained on images of one flat color each, and before that the mean distance of its images from 0.7."""
    family, preset, (mean, spread) = request.param
    torch.manual_seed(0)
    overrides, steps = FLAT_COLOR_TRAINING[family]
    config = small(family, preset).with_overrides(**overrides)
    if isinstance(config, GanConfig) and config.blocks:
        config = config.with_overrides(blocks=1)
    if isinstance(config, VaeConfig) and config.hidden:
        steps = 150
    learner = build_learner(config)
    with torch.no_grad():
        before = (learner.backend.generate(torch.randn(16, *learner.backend.noise_shape)) - 0.7).abs().mean()
    images = (mean + spread * (torch.rand(8, 3, 1, 1) * 2 - 1)).expand(-1, -1, 16, 16)
    for index in range(steps):
        torch.manual_seed(index)
        learner.step(images, None, index / steps, index * len(images))
    return before, learner.backend


DISTINCT = cases_that_differ_when_small()
RUNS = [(*case, classes) for case in DISTINCT for classes in (False, True)]


def named(cases: list[tuple[Any, ...]]) -> list[Any]:
    """Cases with the preset as their name: those of one are run in one process, since they share a trained model."""
    return [pytest.param(case, id="-".join(map(str, case[:2]))) for case in cases]


every_preset = pytest.mark.parametrize(("family", "preset"), CASES)
every_distinct_preset = pytest.mark.parametrize(("family", "preset"), DISTINCT)
every_run = pytest.mark.parametrize(
    "trained_run",
    [
        pytest.param(
            run,
            marks=[pytest.mark.slow] if run[1] in ("base", "large") else [],
            id="-".join(map(str, run)),
        )
        for run in RUNS
    ],
    indirect=True,
)
BRIGHT, ANY = (0.7, 0.3), (0.0, 1.0)  # mean and spread of the colors
# When small, vae/large has the layers of vae/base, and the schedules of vae/dense.
TRAINED = [case for case in DISTINCT if case != ("vae", "large")]
# The dense VAE, whose pixels are noisy, tells colors apart only where they differ much.
INVERTED = [(*case, ANY if case == ("vae", "dense") else BRIGHT) for case in TRAINED]


@every_distinct_preset
@pytest.mark.parametrize(
    ("channels", "size", "classes"),
    [(1, 16, False), (1, 16, True), (3, 32, True), pytest.param(4, 64, False, marks=pytest.mark.slow)],
)
def test_shapes_range_and_rows(family: str, preset: str, channels: int, size: int, classes: bool) -> None:
    config = small(family, preset, channels=channels, size=size, classes=classes)
    torch.manual_seed(0)
    backend = build_backend(config).eval()
    noise = torch.randn(5, *backend.noise_shape)
    labels = torch.tensor([0, 1, 2, 0, 1]) if classes else None
    with torch.no_grad():
        generated = backend.generate(noise, labels)
        again = backend.generate(noise, labels)
        alone = backend.generate(noise[3:4], labels[3:4] if labels is not None else None)
        fused = backend.for_inference().generate(noise, labels)
    assert generated.shape == (5, channels, size, size)
    assert generated.min() >= -1 and generated.max() <= 1
    assert torch.equal(generated, again)
    assert (generated[3:4] - alone).abs().max() < 1 / 255
    assert (generated - fused).abs().max() < 1 / 255
    assert not torch.equal(generated[0], generated[3])


@every_preset
def test_labels_and_temperature_act(family: str, preset: str) -> None:
    backend = build_learner(small(family, preset, classes=True)).backend
    noise = torch.randn(2, *backend.noise_shape)
    with torch.no_grad():
        one = backend.generate(noise, torch.tensor([0, 0]))
        other = backend.generate(noise, torch.tensor([1, 1]))
        cold = backend.generate(noise, torch.tensor([0, 0]), SamplingOptions(temperature=0.0))
    assert not torch.equal(one, other)
    assert torch.allclose(cold[0], cold[1], atol=1e-5)
    with pytest.raises(ValueError, match="labels"):
        backend.generate(noise)
    bare = build_learner(small(family, preset)).backend
    with pytest.raises(ValueError, match="no classes"):
        bare.generate(noise, torch.tensor([0, 0]))


@every_run
def test_every_parameter_learns(trained_run: TrainedRun) -> None:
    after = trained_run.learner.state()[0]
    buffers = {name for name, _ in trained_run.learner.backend.named_buffers()}
    for name, value in trained_run.at_start.items():
        if name.split(".", 1)[-1] not in buffers:
            assert not torch.equal(value, after[name]), f"{name} never changed"


@every_run
def test_resuming_is_bit_exact(trained_run: TrainedRun) -> None:
    """And training on does not change the tensors that a state was loaded from."""
    torch.manual_seed(99)
    resumed = build_learner(trained_run.learner.config)
    tensors, document = trained_run.before_second
    saved = copied(tensors)
    resumed.load_state(tensors, document)
    run_steps(resumed, *TrainedRun.second)
    after, after_document = resumed.state()
    expected, expected_document = trained_run.after_second
    assert expected.keys() == after.keys() and expected_document == after_document
    for name, value in expected.items():
        assert torch.equal(value, after[name]), name
    for name, value in saved.items():
        assert torch.equal(value, tensors[name]), name


@every_distinct_preset
def test_the_seed_decides_training(family: str, preset: str) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        learner = build_learner(small(family, preset))
        run_steps(learner, 0)
        states.append(copied(learner.state()[0]))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@every_distinct_preset
@pytest.mark.parametrize("channels", [1, 3])
def test_micro_batches_train_too(family: str, preset: str, channels: int) -> None:
    learner = build_learner(small(family, preset, channels=channels, classes=True))
    learner.micro_batch = 4
    before = {name: value.clone() for name, value in learner.backend.state_dict().items()}
    run_steps(learner, 0, 1)
    after = learner.backend.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    assert all(torch.isfinite(value).all() for value in after.values())


def test_micro_batches_add_up_to_the_whole_step() -> None:
    """Where no layer depends on other images and nothing is sampled but noise, parts give the whole batch's weights.

    All but one in a thousand: Adam's first steps are equally long where a gradient is nearly zero, of either sign.
    """
    torch.manual_seed(0)
    at_start = None
    after = []
    for size in (None, 4):
        learner = build_learner(small("gan", "base", classes=True).with_overrides(augment=0.0))
        if at_start is None:
            tensors, document = learner.state()
            at_start = copied(tensors), copy.deepcopy(document)
        learner.load_state(*at_start)
        learner.micro_batch = size
        run_steps(learner, 0, 1)
        after.append(learner.state()[0])
    whole, parts = after
    assert at_start is not None
    different = [~torch.isclose(value, parts[name], rtol=1e-3, atol=2e-5) for name, value in whole.items()]
    assert sum(int(one.sum()) for one in different) < 1e-3 * sum(one.numel() for one in different)
    assert any(not torch.equal(value, at_start[0][name]) for name, value in whole.items())


@every_distinct_preset
@pytest.mark.parametrize("index", [1, 10, 19])
def test_non_finite_images_never_reach_a_weight(family: str, preset: str, index: int) -> None:
    """In each stage of a learner, both in the stage's first step and later."""
    torch.manual_seed(0)
    learner = build_learner(small(family, preset))
    run_steps(learner, 0)
    images, labels = random_images(learner.config)
    images[0, 0, 0, 0] = torch.nan
    for first_step in (True, False):
        if not first_step:
            run_steps(learner, index)
        before = {
            (key, name): weight.detach().clone()
            for key, network in learner.networks.items()
            for name, weight in network.named_parameters()
        }
        with pytest.raises(NonFiniteError):
            learner.step(images, labels, index / 20, 8)
        for key, network in learner.networks.items():
            for name, weight in network.named_parameters():
                assert torch.isfinite(weight).all(), f"{key}.{name}"
                replaced = first_step and name.startswith(REPLACED.get((family, index), "none"))
                assert replaced or torch.equal(weight, before[key, name]), f"{key}.{name}"


@pytest.mark.slow
@pytest.mark.parametrize("flat_color_model", named([(*case, BRIGHT) for case in TRAINED]), indirect=True)
def test_generated_images_become_like_the_data(flat_color_model: tuple[torch.Tensor, Backend]) -> None:
    before, backend = flat_color_model
    torch.manual_seed(0)
    with torch.no_grad():
        after = (backend.generate(torch.randn(16, *backend.noise_shape)) - 0.7).abs().mean()
    assert after < before / 2


@pytest.mark.slow
@pytest.mark.parametrize("flat_color_model", named(INVERTED), indirect=True)
def test_inversion_and_inpainting(
    flat_color_model: tuple[torch.Tensor, Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SearchBudget, "for_cost", lambda *arguments: SMALL_SEARCH)
    _, backend = flat_color_model
    torch.manual_seed(0)
    noise = torch.randn(3, *backend.noise_shape)
    with torch.no_grad():
        images = backend.generate(noise)
    inversion = backend.invert(images)
    assert inversion.noise.shape == noise.shape and inversion.labels is None
    with torch.no_grad():
        error = (backend.generate(*inversion) - images).square().mean()
    # Images of a hierarchical VAE vary little after so few steps: its error is compared with that of the data.
    hierarchical = isinstance(backend.config, VaeConfig) and not backend.config.hidden
    assert error < 0.2 * (BRIGHT[1] ** 2 / 3 if hierarchical else images.var())
    mask = torch.zeros(3, 1, 16, 16)
    mask[:, :, 4:12, 4:12] = 1
    filled = backend.inpaint(images, mask, noise)
    assert torch.equal(filled * (1 - mask), images * (1 - mask))
    other = backend.inpaint(images, mask, -noise)
    assert not torch.equal(filled * mask, other * mask)


@every_preset
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
    for size in (0, 8, 18, 44, 100, 513, 640, 1024):
        with pytest.raises(UsageError, match="size must be"):
            presets("gan")["tiny"].with_overrides(size=size)
    with pytest.raises(UsageError, match="no family"):
        presets("gna")


def test_a_loss_that_is_not_finite_in_one_process_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build_learner(small("vae", "tiny"))
    (adam, *_) = learner.optimizers.values()
    weight = adam.param_groups[0]["params"][0]
    for loss_there in (3.0, float("inf")):
        # The other process has the same gradients and another loss, which comes last.

        def add_the_other(flat: torch.Tensor, loss_there: float = loss_there) -> torch.Tensor:
            flat.mul_(2)[-1] += loss_there - 1
            return flat

        monkeypatch.setattr(global_batch, "all_reduce", add_the_other)
        weight.grad, loss = torch.ones_like(weight), torch.tensor(1.0)
        with global_batch.part_of_batch(0, 2):
            if loss_there == 3.0:
                assert float(learner.gradient_norm(adam, loss)) == pytest.approx(weight.numel() ** 0.5)
                assert float(loss) == 2.0
            else:
                with pytest.raises(NonFiniteError):
                    learner.gradient_norm(adam, loss)
                assert weight.grad is None
