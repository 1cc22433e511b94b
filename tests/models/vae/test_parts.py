"""The VAE's parts: architecture strings, likelihoods, masks, the guard of gradients."""

import itertools
import math

import pytest
import torch

from imggen.errors import UsageError
from imggen.models import build_backend, presets
from imggen.models.vae.architecture import fit, parse
from imggen.models.vae.backend import VaeBackend
from imggen.models.vae.config import VaeConfig
from imggen.models.vae.core import Normal, TopDownPass, kl_divergence, look_at, top_down_pass
from imggen.models.vae.gradient_guard import FIRST, MOST_IN_A_ROW, WINDOW, GradientGuard
from imggen.models.vae.hierarchy import Encoder, Hierarchy, halve
from imggen.models.vae.likelihoods import Bernoulli, Gaussian, MixtureOfLogistics, build_likelihood
from imggen.models.vae.random_masks import random_masks


def config(**values: object) -> VaeConfig:
    return VaeConfig(preset="tiny", **{"size": 16, "width": 8, "max_width": 16, "z": 2, **values})


def test_a_string_says_what_is_built() -> None:
    stages = parse("32x11,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3", "1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21")
    assert [(s.nominal, s.encoder, s.decoder) for s in stages] == [
        (1, 3, 1), (4, 3, 3), (8, 6, 6), (16, 6, 11), (32, 11, 22),
    ]  # fmt: skip
    assert len(build_backend(presets("vae")["base"].with_overrides(width=4, max_width=4)).core.layers) == 32
    assert len(build_backend(presets("vae")["large"].with_overrides(width=4, max_width=4)).core.layers) == 43
    assert len(build_backend(presets("vae")["tiny"]).core.layers) == 9
    # Twice as large: a stage more, of half the blocks; half as large: one less.
    assert [(s.nominal, s.encoder, s.decoder) for s in fit(stages, 64)][-1] == (64, 5, 11)
    assert [s.side for s in fit(stages, 16)] == [1, 4, 8, 16]
    assert [s.side for s in fit(stages, 28)] == [1, 4, 7, 14, 28]
    assert [(s.encoder, s.decoder) for s in fit(stages, 32, 0.5)] == [(2, 1), (2, 2), (3, 3), (3, 6), (6, 11)]


@pytest.mark.parametrize(
    ("encoder", "decoder", "word"),
    [
        ("", "1x1", "'' is not a part"),
        ("16x2,hello,8x2", "8x1,16m8", "'hello' is not a part"),
        ("16x2,16d3,8x2", "8x1,16m8", "'16d3' cannot divide"),
        ("16x2,8x2", "8x1,16m8", "'8x2' stands where the picture is 16"),
        ("16x2,16d2,8x2", "8x1,16m4", "'16m4' goes up from 4, where the picture is 8"),
        ("16x2,16d2,8x2", "16m8,16x2", "not yet"),
        ("16x2,16d2,8x2", "8x1,8x2,4x1", "'4x1' stands where the picture is 8"),
        ("16x2,16d2,8x2", "8x1", "different resolutions: 16"),
        ("16x2,16d2,8x0", "8x1,16m8", "'8x0'"),
        ("16m8", "8x1,16m8", "parts look like|is not a part"),
        ("16x2,16d16,1x9999", "1x1,16m1", "more than"),
    ],
)
def test_a_wrong_string_is_a_clear_word(encoder: str, decoder: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        config(encoder=encoder, decoder=decoder)


def test_sizes() -> None:
    for size in (0, 8, 15, 257, 512):
        with pytest.raises(UsageError, match="size"):
            config(size=size)
    for preset in presets("vae").values():
        for size in (16, 18, 20, 28, 30, 32, 50, 100, 254, 256):
            assert preset.with_overrides(size=size).size == size
    with pytest.raises(UsageError, match="patch"):
        config(size=20, patch=8)
    with pytest.raises(UsageError, match="as 1 does"):
        config(size=17)
    assert config(size=17, patch=1).size == 17
    with pytest.raises(UsageError, match="does not fit"):
        config(encoder="64x1,64d2,32x1", decoder="32x1,64m32")
    with pytest.raises(UsageError, match="likelihood"):
        config(likelihood="laplace")
    with pytest.raises(UsageError, match="filling"):
        config(hidden=16)


@pytest.mark.parametrize("size", [20, 28, 36])
def test_sizes_that_are_no_powers_of_two(size: int) -> None:
    backend = build_backend(config(size=size, channels=1)).eval()
    noise = torch.randn(2, *backend.noise_shape)
    with torch.no_grad():
        drawn = backend.generate(noise)
        assert drawn.shape == (2, 1, size, size)
        assert backend.generate(backend.invert(drawn)).shape == drawn.shape


def values_of(channels: int, channel: int) -> torch.Tensor:
    """256 pictures of one pixel that differ in one channel; the others are some value."""
    images = torch.full((256, channels, 1, 1), 51 / 127.5 - 1)
    images[:, channel, 0, 0] = torch.arange(256) / 127.5 - 1
    return images


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_mixture_of_logistics_sums_to_one(channels: int) -> None:
    """The last channel in order is conditional on all others, so its 256 values share the others' probability."""
    likelihood = MixtureOfLogistics(config(channels=channels, mixtures=4))
    last = likelihood.order[-1]
    torch.manual_seed(channels)
    for spread in (0.3, 1.0, 5.0):
        output = torch.randn(1, likelihood.outputs, 1, 1) * spread
        total = likelihood.log_prob(output.expand(256, -1, -1, -1), values_of(channels, last)).double().exp().sum()
        # The others' probability alone: the same with every logistic of the last channel far to the left.
        shifted = output.clone()
        k, n = 4, channels
        shifted[:, k + (n - 1) * k : k + n * k] = -1e4
        alone = likelihood.log_prob(shifted, values_of(channels, last)[:1]).double().exp().sum()
        assert float(total / alone) == pytest.approx(1, abs=2e-4)
    if channels == 1:
        assert float(total) == pytest.approx(1, abs=2e-4)


def test_two_channels_of_values_sum_to_one() -> None:
    """All of three channels on a coarse grid would be 16 million values: the first two, summed by the third."""
    likelihood = MixtureOfLogistics(config(channels=3, mixtures=2))
    torch.manual_seed(0)
    output = torch.randn(1, likelihood.outputs, 1, 1)
    # Scales so small, and means so placed, that all but a few values have no probability to speak of.
    output[:, 2 + 6 : 2 + 12] = -8.0
    grid = torch.tensor(list(itertools.product(range(40), repeat=3))) - 20
    means = output[0, 2:8, 0, 0].view(3, 2)
    output[0, 2:8, 0, 0] = (means * 0.01).flatten()
    output[0, 14:] = 0.0
    values = (grid + 128) / 127.5 - 1
    total = likelihood.log_prob(output.expand(len(values), -1, -1, -1), values.view(-1, 3, 1, 1)).double().exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-3)


def test_a_mixtures_mean_is_that_of_its_values() -> None:
    likelihood = MixtureOfLogistics(config(channels=1, mixtures=3))
    for seed in range(5):
        torch.manual_seed(seed)
        output = torch.randn(1, likelihood.outputs, 1, 1) * 2
        images = values_of(1, 0)
        chances = likelihood.log_prob(output.expand(256, -1, -1, -1), images).exp().flatten()
        expected = float((chances * images.flatten()).sum())
        assert float(likelihood.mean(output)) == pytest.approx(expected, abs=1 / 255)


def test_extreme_outputs_stay_finite() -> None:
    for channels in (1, 3, 4):
        likelihood = MixtureOfLogistics(config(channels=channels))
        for size in (0.0, 50.0, -50.0, 1e4):
            output = torch.full((2, likelihood.outputs, 3, 3), size, requires_grad=True)
            images = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, channels, 3, 3)
            found = likelihood.log_prob(output, images)
            found.sum().backward()
            assert torch.isfinite(found).all() and torch.isfinite(output.grad).all()
            assert likelihood.mean(output).abs().max() <= 1


def test_a_gaussian_sums_to_one_and_knows_its_variance() -> None:
    likelihood = Gaussian(config(channels=1, likelihood="gaussian"))
    images = torch.randn(400, 1, 8, 8) * 0.1
    likelihood.train()
    nats = likelihood.log_prob(torch.zeros_like(images), images)
    assert float(likelihood.variance) == pytest.approx(0.01, rel=0.05)
    # The optimal deviation's own entropy, for bins of 2/255.
    assert float(nats.mean()) == pytest.approx(-(0.5 * math.log(2 * math.pi * math.e * 0.01)) + math.log(2 / 255), 0.02)
    likelihood.eval()
    for centre in (-1.3, -0.97, 0.0, 0.4, 1.0):
        output = torch.full((256, 1, 1, 1), centre)
        total = likelihood.log_prob(output, values_of(1, 0)).double().exp().sum()
        assert float(total) == pytest.approx(1, abs=1e-3)


def test_bernoulli_draws_black_and_white_anew() -> None:
    likelihood = Bernoulli(config(channels=1, likelihood="bernoulli"))
    images = torch.full((4000, 1, 1, 1), 0.5)
    torch.manual_seed(0)
    one, two = likelihood.taught(images), likelihood.taught(images)
    assert set(one.unique().tolist()) == {-1.0, 1.0} and not torch.equal(one, two)
    assert float((one > 0).float().mean()) == pytest.approx(0.75, abs=0.03)
    assert not torch.isfinite(likelihood.taught(images * torch.nan)).any()
    logit = torch.full((2, 1, 1, 1), 0.7)
    pair = likelihood.log_prob(logit, torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)).exp()
    assert float(pair.sum()) == pytest.approx(1)
    assert likelihood.binary and not build_likelihood(config()).binary


def test_masks_are_of_many_kinds() -> None:
    torch.manual_seed(0)
    masks = random_masks(400, 32, torch.device("cpu"))
    assert masks.shape == (400, 1, 32, 32) and set(masks.unique().tolist()) == {0.0, 1.0}
    shares = masks.mean((1, 2, 3))
    assert shares.min() < 0.1 and shares.max() > 0.8 and 0.25 < shares.mean() < 0.6
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 300
    assert torch.equal(masks, (torch.manual_seed(0), random_masks(400, 32, torch.device("cpu")))[1])


def test_the_guard_skips_what_is_out_of_the_ordinary() -> None:
    guard = GradientGuard(3.0)
    assert all(guard.judge(1.0 + 0.1 * (index % 3)) == 1.0 for index in range(50))
    assert guard.judge(100.0) == 0.0
    assert guard.judge(1.1) == 1.0
    assert GradientGuard(0.0).judge(1e9) == 1.0


@pytest.mark.parametrize("growth", [1.0, 1.5, 10.0])
def test_the_guard_never_locks_up(growth: float) -> None:
    """Gradients that are longer from some step on, for ever, or even longer and longer: steps go on."""
    guard = GradientGuard(3.0)
    for _ in range(60):
        guard.judge(1.0)
    norm, taken, longest, run = 1000.0, 0, 0, 0
    for _ in range(200):
        factor = guard.judge(norm)
        run = 0 if factor else run + 1
        longest, taken = max(longest, run), taken + (factor > 0)
        norm = min(norm * growth, 1e200)
    assert longest <= MOST_IN_A_ROW and taken >= 200 // (MOST_IN_A_ROW + 1)
    if growth == 1.0:
        assert taken > 150


def test_the_guard_survives_a_checkpoint() -> None:
    guard, other = GradientGuard(3.0), GradientGuard(3.0)
    generator = torch.Generator().manual_seed(0)
    norms = (torch.randn(WINDOW + FIRST, generator=generator) * 2).exp().tolist()
    for norm in norms:
        guard.judge(norm)
    other.load_state(guard.state())
    assert [guard.judge(norm) for norm in norms] == [other.judge(norm) for norm in norms]


def test_the_encoder_takes_a_mask_beside_the_picture() -> None:
    found = Encoder(config(size=28), 4)(torch.zeros(2, 4, 28, 28))
    assert [tuple(part.shape) for part in found] == [(2, 16, 1, 1), (2, 16, 4, 4), (2, 16, 7, 7), (2, 8, 14, 14)]


def test_half_seen_colours_are_not_paled_by_what_is_clear() -> None:
    """Opaque red or clear white, as likely: half-seen red, not half-seen pink."""
    likelihood = MixtureOfLogistics(config(channels=4, mixtures=2))
    output = torch.zeros(1, likelihood.outputs, 1, 1)
    means = output[:, 2:10].view(1, 4, 2, 1, 1)  # alpha first, then the colours; two logistics each
    means[0, :, :, 0, 0] = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]])
    output[:, 10:18] = -20.0  # narrow
    red, green, blue, alpha = ((likelihood.mean(output)[0, :, 0, 0] + 1) * 127.5).tolist()
    assert red > 250 and green < 5 and blue < 5 and alpha == pytest.approx(127.5, abs=2)


def test_divergences_and_ratios_are_the_textbooks() -> None:
    torch.manual_seed(0)
    shapes = [(6, 3, 1, 1), (6, 3, 4, 4)]
    posteriors = [Normal(torch.randn(shape), torch.rand(shape) + 0.2) for shape in shapes]
    others = [Normal(torch.randn(shape), torch.rand(shape) + 0.2) for shape in shapes]
    draws = [torch.randn(shape) for shape in shapes]
    noise = [q.mean + q.scale * draw for q, draw in zip(posteriors, draws, strict=True)]
    descent = TopDownPass(torch.zeros(6, 1, 1, 1), posteriors, noise)
    standard = torch.distributions.Normal(0.0, 1.0)
    known = [torch.distributions.Normal(q.mean, q.scale) for q in posteriors]
    for found, q in zip(descent.divergences, known, strict=True):
        expected = torch.distributions.kl_divergence(q, standard).flatten(1).sum(1)
        torch.testing.assert_close(found, expected)
    ratios = [standard.log_prob(x) - q.log_prob(x) for x, q in zip(noise, known, strict=True)]
    expected = torch.stack([ratio.flatten(1).sum(1) for ratio in ratios]).sum(0)
    torch.testing.assert_close(descent.log_ratio, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(VaeBackend._prior_share(descent, draws), expected, rtol=1e-4, atol=1e-4)
    for q, p, one, other in zip(
        posteriors, others, known, (torch.distributions.Normal(*p) for p in others), strict=True
    ):
        torch.testing.assert_close(kl_divergence(q, p), torch.distributions.kl_divergence(one, other).flatten(1).sum(1))


def test_the_guard_takes_steps_where_gradients_have_vanished() -> None:
    guard = GradientGuard(3.0)
    for _ in range(40):
        guard.judge(0.0)
    assert guard.judge(1.0) == 1.0


@pytest.mark.parametrize(("side", "factor"), [(7, 2), (5, 2), (3, 4), (8, 2)])
def test_maps_of_odd_sides_are_halved_by_whole_squares(side: int, factor: int) -> None:
    x = torch.arange(float(side * side)).view(1, 1, side, side).requires_grad_()
    small = -(-side // factor)
    found = halve(x, factor, small)
    assert found.shape == (1, 1, small, small)
    if side >= factor:
        torch.testing.assert_close(found[0, 0, 0, 0], x[0, 0, :factor, :factor].mean())
    if side == 7:
        assert found[0, 0, 3, 3].item() == 48.0  # the corner, four times over
    torch.autograd.backward(found.sum())
    assert x.grad is not None and bool((x.grad > 0).all())


def test_what_distributions_are_made_of_is_in_float32() -> None:
    torch.manual_seed(0)
    core = Hierarchy(config(channels=1, size=16))
    images = torch.randn(2, 1, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = top_down_pass(core, 2, None, look_at(core, images))
    for numbers in (found.output, *(q.mean for q in found.posteriors), *(q.scale for q in found.posteriors)):
        assert numbers.dtype == torch.float32
        assert float((numbers.bfloat16().float() != numbers).float().mean()) > 0.5
