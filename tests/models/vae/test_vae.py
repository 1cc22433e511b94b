"""The VAE as a whole: bounds, noise, filling, and training across its two stages."""

import re

import pytest
import torch

from imggen.models import build_backend, build_learner, presets
from imggen.models.base import NonFiniteError
from imggen.models.vae.backend import VaeBackend
from imggen.models.vae.config import VaeConfig
from imggen.models.vae.hierarchy import Hierarchy
from imggen.models.vae.learner import VaeLearner

SMALL = {"size": 16, "channels": 1, "width": 8, "max_width": 16, "z": 3, "depth": 0.01, "mixtures": 3}
# Adam alone, which is what needs no more than these few steps.
ADAM = {"muon_rate": 0.0, "weight_decay": 0.0}
# Learns bars in seconds.
QUICK = {"width": 24, "max_width": 24, "z": 4, "likelihood": "gaussian", "learning_rate": 6e-3, "warm_up": 0.5, **ADAM}


def config(**values: object) -> VaeConfig:
    found = presets("vae")["tiny"].with_overrides(**{**SMALL, **values})
    assert isinstance(found, VaeConfig)
    return found


def bars(count: int, seed: int = 0, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft bright bars on a dark ground, upright (class 0) or level (class 1): one half says what the other is."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(2, size - 4, (count,), generator=generator)
    labels = torch.randint(0, 2, (count,), generator=generator)
    along = torch.arange(size)
    bright = torch.exp(-((along - place[:, None]) / 1.5).square())
    upright = bright[:, None, :].expand(-1, size, -1)
    images = torch.where(labels.view(-1, 1, 1).bool(), upright.transpose(1, 2), upright)
    return images.unsqueeze(1) * 1.6 - 0.8, labels


def trained(settings: VaeConfig, steps: int = 300, *, labelled: bool = False) -> VaeLearner:
    torch.manual_seed(0)
    learner = build_learner(settings)
    assert isinstance(learner, VaeLearner)
    for index in range(steps):
        torch.manual_seed(index)
        images, labels = bars(32, seed=index)
        learner.step(images, labels if labelled else None, index / steps, index * 32)
    return learner


@pytest.fixture(scope="module")
def model() -> VaeBackend:
    """Has learnt bars, and to fill holes in them."""
    return trained(config(**QUICK, filling=0.5), 600).backend


@pytest.fixture(scope="module")
def labelled() -> VaeBackend:
    """The same with a class for each direction, and no partial encoder."""
    settings = config(**QUICK, filling=0.0, classes=("upright", "level"), class_counts=(1, 1))
    return trained(settings, 260, labelled=True).backend


def test_bounds_tighten_with_draws(model: VaeBackend) -> None:
    """One draw is the lower bound on average; more are higher, and never above what many give."""
    images, _ = bars(64, seed=900)
    torch.manual_seed(0)
    with torch.no_grad():
        plain = torch.stack([model.log_likelihood(images) for _ in range(8)]).mean()
        one, ten, many = (
            torch.stack([model.importance_bound(images, samples=samples) for _ in range(4)]).mean()
            for samples in (1, 10, 80)
        )
    assert float(one) == pytest.approx(float(plain), abs=1.5)
    assert one + 0.3 < ten and ten + 0.1 < many
    # Better than knowing nothing: 8 bits a pixel.
    assert -plain < 0.6 * 256 * 5.545


def test_what_layers_carry_adds_up(model: VaeBackend) -> None:
    images, _ = bars(16, seed=900)
    torch.manual_seed(0)
    with torch.no_grad():
        found = model.information(images)
    assert [*found] == [layer.name for layer in model.core.layers]
    assert all(nats.shape == (16,) and (nats > -1e-4).all() for nats in found.values())
    total = torch.stack([*found.values()]).sum(0)
    assert (total > 1).all() and len({name.split()[0] for name in found}) == 3


def test_noise_and_back(model: VaeBackend) -> None:
    """`invert` is the posterior's mean in the prior's noise: generate gives the reconstruction."""
    images, _ = bars(12, seed=901)
    noise = model.invert(images)
    assert noise.shape == (12, *model.noise_shape)
    with torch.no_grad():
        drawn = model.generate(noise)
    assert torch.equal(drawn, model.reconstruct(images))
    assert (drawn - images).square().mean() < 0.1 * images.var()
    alone = model.invert(images[4:5])
    assert torch.allclose(alone, noise[4:5], atol=1e-3)
    other = torch.randn(12, *model.noise_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        near = [model.generate((1 - t**2) ** 0.5 * noise + t * other) for t in (0.0, 0.4, 1.0)]
    distances = [(pictures - images).square().mean() for pictures in near]
    assert distances[0] < distances[1] < distances[2]


def test_temperature_changes_how_various_pictures_are(model: VaeBackend) -> None:
    noise = torch.randn(64, *model.noise_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        spread = [float(model.generate(noise, temperature=t).var(0).mean()) for t in (0.0, 0.5, 1.0)]
    assert spread[0] < 1e-9 < spread[1] < spread[2]


def gapped(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = bars(count, seed=902)
    mask = torch.zeros(count, 1, 16, 16)
    mask[..., 6:10] = 1
    return images[labels == 1][: count // 2], mask[: count // 2]


def test_holes_are_filled_from_what_is_known(model: VaeBackend) -> None:
    """Level bars with a gap: what is on both sides says where they are."""
    images, mask = gapped(64)
    mask = mask[: len(images)]
    noise = torch.randn(len(images), *model.noise_shape, generator=torch.Generator().manual_seed(0))
    filled = model.inpaint(images, mask, noise)
    assert torch.equal(filled * (1 - mask), images * (1 - mask)) and filled.abs().max() <= 1
    assert torch.equal(filled, model.inpaint(images, mask, noise))
    alone = model.inpaint(images[3:4], mask[3:4], noise[3:4])
    assert (alone - filled[3:4]).abs().max() < 1 / 255
    other = model.inpaint(images, mask, -noise)
    assert all(not torch.equal(a, b) for a, b in zip(filled, other, strict=True))
    error = ((filled - images).square() * mask).sum() / mask.sum()
    shuffled = ((filled.roll(1, 0) - images).square() * mask).sum() / mask.sum()
    assert error < 0.5 * shuffled
    with torch.no_grad():
        prior = ((model.generate(noise) - images).square() * mask).sum() / mask.sum()
    assert error < 0.5 * prior


def test_where_little_is_known_fills_differ(model: VaeBackend) -> None:
    images, _ = bars(1, seed=903)
    mask = torch.ones(1, 1, 16, 16)
    mask[..., :2, :2] = 0
    noise = torch.randn(8, *model.noise_shape, generator=torch.Generator().manual_seed(0))
    fills = model.inpaint(images.expand(8, -1, -1, -1), mask.expand(8, -1, -1, -1), noise)
    pairs = torch.pdist(fills.flatten(1)).mean()
    assert pairs > 0.3 * torch.pdist(bars(30, seed=904)[0].flatten(1)).mean()


def test_the_partial_posterior_comes_nearer_with_more_to_see(model: VaeBackend) -> None:
    images, _ = bars(32, seed=905)
    gaps = []
    assert model.partial is not None
    for columns in (2, 8, 16):
        known = torch.zeros(32, 1, 16, 16)
        known[..., :columns] = 1
        torch.manual_seed(0)
        with torch.no_grad():
            gaps.append(float(torch.stack(model.partial.gaps(model.core, images, known, None)).sum(0).mean()))
    assert gaps[0] > gaps[1] > gaps[2] >= 0


@pytest.fixture(scope="module")
def both() -> VaeBackend:
    """Has classes, and has learnt to fill."""
    settings = config(**QUICK, filling=0.4, classes=("upright", "level"), class_counts=(1, 1))
    return trained(settings, 450, labelled=True).backend


def test_the_class_is_found_by_likelihood(labelled: VaeBackend) -> None:
    images, labels = bars(60, seed=906)
    assert (labelled.likely_labels(images) == labels).float().mean() > 0.9
    mask = torch.zeros(60, 1, 16, 16)
    mask[..., 10:, 10:] = 1
    assert (labelled.likely_labels(images, mask) == labels).float().mean() > 0.8
    assert torch.equal(labelled.invert(images), labelled.invert(images, labelled.likely_labels(images)))
    assert build_backend(config()).likely_labels(images) is None


def test_filling_without_a_partial_encoder(labelled: VaeBackend) -> None:
    assert labelled.partial is None
    images, labels = bars(40, seed=907)
    mask = torch.zeros(40, 1, 16, 16)
    mask[..., 6:10, 6:10] = 1
    noise = torch.randn(40, *labelled.noise_shape, generator=torch.Generator().manual_seed(0))
    filled = labelled.inpaint(images, mask, noise)
    assert torch.equal(filled * (1 - mask), images * (1 - mask))
    error = ((filled - images).square() * mask).sum() / mask.sum()
    with torch.no_grad():
        prior = ((labelled.generate(noise, labels) - images).square() * mask).sum() / mask.sum()
    assert error < 0.8 * prior
    assert not torch.equal(filled, labelled.inpaint(images, mask, -noise))
    alone = labelled.inpaint(images[7:8], mask[7:8], noise[7:8])
    assert (alone - filled[7:8]).abs().max() < 1 / 255


def steps(learner: VaeLearner, first: int, last: int) -> None:
    for index in range(first, last):
        torch.manual_seed(index)
        learner.step(bars(8, seed=index)[0], None, index / 12, index * 8)


@pytest.mark.parametrize("pause", [5, 7, 8, 9, 11])
@pytest.mark.parametrize("muon", [0.0, 1.0])
def test_resuming_across_the_stages_is_bit_exact(pause: int, muon: float) -> None:
    """Of twelve steps the last four are the partial encoder's."""
    settings = config(filling=0.34, muon_rate=muon)
    torch.manual_seed(0)
    whole, first, second = build_learner(settings), build_learner(settings), build_learner(settings)
    for learner in (whole, first, second):
        learner.to(torch.device("cpu"))  # in the layout that a training has
    first.load_state(*whole.state())
    assert isinstance(whole, VaeLearner) and isinstance(first, VaeLearner) and isinstance(second, VaeLearner)
    steps(whole, 0, 12)
    steps(first, 0, pause)
    tensors, document = first.state()
    second.load_state({name: value.clone() for name, value in tensors.items()}, document)
    steps(second, pause, 12)
    expected, found = whole.state(), second.state()
    assert expected[1] == found[1] and expected[0].keys() == found[0].keys()
    for name, value in expected[0].items():
        assert torch.equal(value, found[0][name]), name


def test_muon_takes_what_is_between_hidden_layers() -> None:
    learner = build_learner(config(muon_rate=0.5))
    assert isinstance(learner, VaeLearner)
    core, partial = learner.core, learner.backend.partial
    assert isinstance(core, Hierarchy) and partial is not None
    for network, prefix in ((core, ""), (partial, "_partial")):
        taken = [
            [id(weight) for group in learner.optimizers[name + prefix].param_groups for weight in group["params"]]
            for name in ("adam", "muon")
        ]
        assert sorted([*taken[0], *taken[1]]) == sorted(id(weight) for weight in network.parameters())
        names = {id(weight): name for name, weight in network.named_parameters()}
        assert all(weight in names and names[weight].endswith(".weight") for weight in taken[1])
        outside = ("stem.", "head.", "project.", "prior.leave.", "map")
        assert not any(word in names[weight] for weight in taken[1] for word in outside)
        assert any("middle" in names[weight] for weight in taken[1])
    images, _ = bars(16)
    middle = {name: w for name, w in core.named_parameters() if re.search(r"middle.*weight", name)}
    before = {name: weight.detach().clone() for name, weight in middle.items()}
    learner.step(images, None, 0.5, 0)
    moved = [(weight.detach() - before[name]).square().mean().sqrt() for name, weight in middle.items()]
    # A fifth of the rate at most, less where a gradient has few directions; Adam's first step would be all of it.
    rate = learner.optimizers["muon"].param_groups[0]["lr"]
    assert 0.1 * rate < max(moved) < 0.3 * rate


def test_the_last_stage_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    learner = build_learner(config(filling=0.34))
    assert isinstance(learner, VaeLearner)
    steps(learner, 0, 8)
    before = {name: value.clone() for name, value in learner.backend.core.state_dict().items()}
    assert not learner.filling
    steps(learner, 8, 12)
    assert learner.filling and learner.backend.partial is not None
    for name, value in learner.backend.core.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_model_that_has_not_learnt_to_fill_does_without() -> None:
    """A checkpoint of before the last stage: its partial encoder is still what chance made it."""
    torch.manual_seed(0)
    learner = build_learner(config(filling=0.34))
    assert isinstance(learner, VaeLearner)
    steps(learner, 0, 7)
    images, mask = bars(6)[0], torch.zeros(6, 1, 16, 16)
    mask[..., 6:10] = 1
    noise = torch.randn(6, *learner.backend.noise_shape)
    before = learner.backend.inpaint(images, mask, noise)
    partial = learner.backend.partial
    assert partial is not None and not partial.ready and learner.backend.makeshift
    with torch.no_grad():
        for weight in partial.parameters():
            weight.add_(1.0)
    assert torch.equal(learner.backend.inpaint(images, mask, noise), before)
    steps(learner, 8, 9)
    assert partial.ready and learner.filling and not learner.backend.makeshift
    # A larger budget: the model learns on, and what was learnt of holes no longer belongs to it.
    assert any(learner.optimizers["adam_partial"].state.values())
    steps(learner, 4, 5)
    assert not partial.ready and not learner.filling
    assert not learner.optimizers["adam_partial"].state


def test_fills_take_a_class_that_what_is_known_allows(both: VaeBackend) -> None:
    images, labels = bars(60, seed=908)
    mask = torch.zeros(60, 1, 16, 16)
    mask[..., 8:] = 1
    noise = torch.randn(60, *both.noise_shape, generator=torch.Generator().manual_seed(0))
    assert (both.likely_labels(images, mask) == labels).float().mean() > 0.65
    filled = both.inpaint(images, mask, noise)
    assert (both.likely_labels(filled) == labels).float().mean() > 0.7
    # Nothing to go by: both classes come up, and at temperature 0 the likelier alone.
    mask[:] = 1
    mask[..., :2, :2] = 0
    one = images[:1].expand(60, -1, -1, -1)
    upright = 1 - both.likely_labels(both.inpaint(one, mask, noise)).float().mean()
    assert 0.1 < upright < 0.9
    cold = both.inpaint(one, mask, noise, temperature=0.0)
    assert (cold - cold[:1]).abs().max() < 1e-4


def test_gradients_out_of_the_ordinary_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    learner = build_learner(config())
    assert isinstance(learner, VaeLearner)
    for index in range(25):
        torch.manual_seed(index)
        learner.step(bars(8, seed=index)[0], None, 0.2, index * 8)
    before = {name: value.clone() for name, value in learner.core.state_dict().items()}
    honest = learner.gradient_norm
    monkeypatch.setattr(learner, "gradient_norm", lambda *given: honest(*given) * 1e6)
    found = [float(learner.step(bars(8)[0], None, 0.2, 200)["skipped"]) for _ in range(6)]
    assert found[0] == 1.0 and found[-1] == 0.0
    assert all(torch.isfinite(value).all() for value in learner.core.state_dict().values())
    assert any(not torch.equal(value, before[name]) for name, value in learner.core.state_dict().items())


def test_a_number_that_is_not_finite_is_skipped_but_not_for_ever() -> None:
    torch.manual_seed(0)
    learner = build_learner(config())
    assert isinstance(learner, VaeLearner)
    bad = bars(8)[0] * torch.nan
    with pytest.raises(NonFiniteError):  # what is usual is not known yet
        learner.step(bad, None, 0.2, 0)
    for index in range(20):
        torch.manual_seed(index)
        learner.step(bars(8, seed=index)[0], None, 0.2, index * 8)
    before = {name: value.clone() for name, value in learner.core.state_dict().items()}
    for _ in range(5):
        assert {name: float(value) for name, value in learner.step(bad, None, 0.2, 160).items()} == {"skipped": 1.0}
    assert all(torch.equal(value, before[name]) for name, value in learner.core.state_dict().items())
    with pytest.raises(NonFiniteError):
        learner.step(bad, None, 0.2, 160)
    assert float(learner.step(bars(8)[0], None, 0.2, 160)["skipped"]) == 0


@pytest.mark.parametrize("likelihood", ["dmol", "bernoulli", "gaussian"])
@pytest.mark.parametrize("hidden", [0, 32])
def test_every_likelihood_learns(likelihood: str, hidden: int) -> None:
    settings = config(likelihood=likelihood, hidden=hidden, filling=0.0, learning_rate=4e-3)
    learner = trained(settings, 150)
    images, _ = bars(16, seed=908)
    seen = torch.where(images > 0, 1.0, -1.0) if learner.backend.binary else images
    torch.manual_seed(0)
    with torch.no_grad():
        after = learner.backend.log_likelihood(seen).mean()
        torch.manual_seed(0)
        before = build_learner(settings).backend.log_likelihood(seen).mean()
    assert after > before + 20
    assert learner.backend.generate(torch.randn(2, *learner.backend.noise_shape)).shape == (2, 1, 16, 16)


def test_half_precision_keeps_the_bound_in_full() -> None:
    torch.manual_seed(0)
    full, half = build_learner(config()), build_learner(config())
    half.load_state(*full.state())
    half.precision = torch.bfloat16
    images, _ = bars(16)
    torch.manual_seed(1)
    one = full.step(images, None, 0.1, 0)
    torch.manual_seed(1)
    other = half.step(images, None, 0.1, 0)
    assert all(value.dtype == torch.float32 for value in other.values())
    assert float(one["bits"]) == pytest.approx(float(other["bits"]), rel=0.02)
    half.step(images, None, 0.95, 16)
