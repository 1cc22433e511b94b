"""Training of the VAE: its stages, resuming, skipped steps, optimizers, precision."""

import re

import pytest
import torch

from imggen.models.learner import NonFiniteError
from imggen.models.muon import Muon
from imggen.models.vae.hierarchy import Hierarchy
from imggen.models.vae.learner import VaeLearner
from tests.models.vae.helpers import assert_resumes_bit_exactly, bars, small_config, train_on_bars, vae_learner


def run(learner: VaeLearner, first: int, last: int) -> None:
    """Steps of a training of twelve."""
    for index in range(first, last):
        torch.manual_seed(index)
        learner.step(bars(8, seed=index)[0], None, index / 12, index * 8)


def run_early_steps(learner: VaeLearner, count: int) -> None:
    for index in range(count):
        torch.manual_seed(index)
        learner.step(bars(8, seed=index)[0], None, 0.2, index * 8)


def copy_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("muon", [0.0, 1.0])
def test_resuming_across_the_stages_is_bit_exact(muon: float) -> None:
    """Of twelve steps the last four are the partial encoder's."""
    assert_resumes_bit_exactly(small_config(inpaint_fraction=0.34, muon_rate=muon), run, (5, 7, 8, 9, 11))


def test_muon_trains_the_weights_between_hidden_layers() -> None:
    learner = vae_learner(small_config(muon_rate=0.5))
    core, partial_encoder = learner.core, learner.backend.partial_encoder
    assert isinstance(core, Hierarchy) and partial_encoder is not None
    for network, suffix in ((core, ""), (partial_encoder, "_partial")):
        adam, muon = (
            [id(weight) for group in learner.optimizers[name + suffix].param_groups for weight in group["params"]]
            for name in ("adam", "muon")
        )
        assert isinstance(learner.optimizers["muon" + suffix], Muon)
        assert sorted([*adam, *muon]) == sorted(id(weight) for weight in network.parameters())
        names = {id(weight): name for name, weight in network.named_parameters()}
        assert all(weight in names and names[weight].endswith(".weight") for weight in muon)
        outside = ("stem.", "head.", "project.", "prior.conv_out.", "bias_map")
        assert not any(word in names[weight] for weight in muon for word in outside)
        assert any("convs" in names[weight] for weight in muon)
    images, _ = bars(16)
    inner = {name: weight for name, weight in core.named_parameters() if re.search(r"convs.*weight", name)}
    before = {name: weight.detach().clone() for name, weight in inner.items()}
    learner.step(images, None, 0.5, 0)
    steps = [(weight.detach() - before[name]).square().mean().sqrt() for name, weight in inner.items()]
    # At most 0.2 times the rate, less where a gradient has few directions; Adam's first step would be all of it.
    rate = learner.optimizers["muon"].param_groups[0]["lr"]
    assert 0.1 * rate < max(steps) < 0.3 * rate


def test_the_partial_encoders_stage_does_not_change_the_vae() -> None:
    learner = vae_learner(small_config(inpaint_fraction=0.34))
    run(learner, 0, 8)
    before = copy_of(learner.backend.core)
    assert not learner.partial_encoder_stage
    run(learner, 8, 12)
    assert learner.partial_encoder_stage and learner.backend.partial_encoder is not None
    for name, value in learner.backend.core.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.slow
def test_an_untrained_partial_encoder_is_not_used() -> None:
    """A checkpoint written before the last stage, and after a return from it."""
    learner = vae_learner(small_config(inpaint_fraction=0.34))
    run(learner, 0, 7)
    backend = learner.backend
    images, mask = bars(6)[0], torch.zeros(6, 1, 16, 16)
    mask[..., 6:10] = 1
    noise = torch.randn(6, *backend.noise_shape)
    before = backend.inpaint(images, mask, noise)
    partial_encoder = backend.partial_encoder
    assert partial_encoder is not None and not partial_encoder.trained and backend.limitation("inpaint")
    with torch.no_grad():
        for weight in partial_encoder.parameters():
            weight.add_(1.0)
    assert torch.equal(backend.inpaint(images, mask, noise), before)
    run(learner, 8, 9)
    assert partial_encoder.trained and learner.partial_encoder_stage and not backend.limitation("inpaint")
    # Resumed with a larger budget, the VAE trains on, and the partial encoder no longer belongs to it.
    assert any(learner.optimizers["adam_partial"].state.values())
    run(learner, 4, 5)
    assert not partial_encoder.trained and not learner.partial_encoder_stage
    assert not learner.optimizers["adam_partial"].state


@pytest.mark.slow
def test_unusual_gradients_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = vae_learner(small_config())
    run_early_steps(learner, 25)
    before = copy_of(learner.core)
    gradient_norm = learner.gradient_norm
    monkeypatch.setattr(learner, "gradient_norm", lambda *arguments: gradient_norm(*arguments) * 1e6)
    skipped = [float(learner.step(bars(8)[0], None, 0.2, 200)["skipped"]) for _ in range(6)]
    assert skipped[0] == 1.0 and skipped[-1] == 0.0
    assert all(torch.isfinite(value).all() for value in learner.core.state_dict().values())
    assert any(not torch.equal(value, before[name]) for name, value in learner.core.state_dict().items())


@pytest.mark.slow
def test_non_finite_steps_are_skipped_but_not_for_ever() -> None:
    learner = vae_learner(small_config())
    bad = bars(8)[0] * torch.nan
    with pytest.raises(NonFiniteError):  # at the start nothing is skipped
        learner.step(bad, None, 0.2, 0)
    run_early_steps(learner, 20)
    before = copy_of(learner.core)
    for _ in range(5):
        assert {name: float(value) for name, value in learner.step(bad, None, 0.2, 160).items()} == {"skipped": 1.0}
    assert all(torch.equal(value, before[name]) for name, value in learner.core.state_dict().items())
    with pytest.raises(NonFiniteError):
        learner.step(bad, None, 0.2, 160)
    assert float(learner.step(bars(8)[0], None, 0.2, 160)["skipped"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["dmol", "bernoulli", "gaussian"])
@pytest.mark.parametrize("hidden", [0, 32])
def test_every_likelihood_learns(likelihood: str, hidden: int) -> None:
    config = small_config(likelihood=likelihood, hidden=hidden, inpaint_fraction=0.0, learning_rate=1e-2)
    backend = train_on_bars(config, 20, batch=8).backend
    images, _ = bars(16, seed=908)
    if backend.binarized:
        images = torch.where(images > 0, 1.0, -1.0)
    untrained = vae_learner(config).backend
    with torch.no_grad():
        torch.manual_seed(0)
        after = backend.log_likelihood(images).mean()
        torch.manual_seed(0)
        before = untrained.log_likelihood(images).mean()
    assert after > before + 40
    assert backend.generate(torch.randn(2, *backend.noise_shape)).shape == (2, 1, 16, 16)


@pytest.mark.slow
def test_half_precision_keeps_the_bound_in_float32() -> None:
    full, half = vae_learner(small_config(), 0), vae_learner(small_config(), 1)
    half.load_state(*full.state())
    half.precision = torch.bfloat16
    images, _ = bars(16)
    torch.manual_seed(1)
    expected = full.step(images, None, 0.1, 0)
    torch.manual_seed(1)
    metrics = half.step(images, None, 0.1, 0)
    assert all(value.dtype == torch.float32 for value in metrics.values())
    assert float(expected["bits"]) == pytest.approx(float(metrics["bits"]), rel=0.02)
    half.step(images, None, 0.95, 16)
