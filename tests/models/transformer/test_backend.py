"""Noise, tokens and pictures: inversion, filling, settings of drawing, likelihoods."""

import math

import pytest
import torch
from torch import Tensor

from imggen.errors import UsageError
from imggen.models.transformer.sampling import Settings, drawn, probabilities, shares, walk, within
from imggen.models.transformer.tokenizer import Quantiser, log_probability, mean_picture
from tests.models.transformer_help import drawer

EVERY = ["tiny", "classic"]
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def some_pictures(count: int = 6, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, channels, 4, 4, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=16, mode="bilinear").mul(127.5).round().div(127.5)


@pytest.mark.parametrize(
    ("preset", "more"),
    [
        ("tiny", {}),
        ("tiny", {"guidance": 2.5}),
        ("tiny", {"steps": 5}),
        ("classic", {}),
        ("classic", {"guidance": 2.5}),
    ],
)
def test_inversion_returns_the_tokens(preset: str, more: dict[str, float]) -> None:
    backend, images = drawer(preset), some_pictures(20)
    backend.draw_with(**more)
    labels = torch.arange(20) % 3
    noise = backend.invert(images, labels)
    assert noise.shape == (20, *backend.noise_shape) and noise.dtype == torch.float32 and torch.isfinite(noise).all()
    assert torch.equal(backend.generate(noise, labels), backend.reconstruct(images))
    # One by one as well, and not only for these labels' order: the noise of a row is its own.
    assert torch.equal(backend.generate(noise[7:8], labels[7:8]), backend.reconstruct(images[7:8]))
    assert not torch.equal(backend.generate(noise, (labels + 1) % 3), backend.reconstruct(images))


def test_inversion_of_what_was_drawn_is_exact_in_every_interval() -> None:
    """Also of values as unlikely as the floor allows: fp32 noise still finds their intervals."""
    logits = torch.tensor([[30.0, 0.0, -30.0, 5.0, -30.0], [-40.0, 40.0, -40.0, -40.0, -40.0]])
    chances = probabilities(logits, Settings()).repeat_interleave(5, 0)
    values = torch.arange(5).repeat(2)
    noise = within(chances, values, torch.rand(10))
    assert torch.equal(drawn(chances, shares(noise)), values)
    for shift in (1e-6, -1e-6):
        assert torch.equal(drawn(chances, shares(noise + shift)), values)
        nudged = probabilities((logits + shift * torch.randn(2, 5)).float(), Settings()).repeat_interleave(5, 0)
        assert torch.equal(drawn(nudged, shares(noise)), values)


@pytest.mark.parametrize("codes", [512, 1000, 4375, 15360])
@pytest.mark.parametrize("place", [0.0, 1.0])
def test_inversion_of_the_unlikeliest_of_many_codes(codes: int, place: float) -> None:
    """The textbook's values are whole codes: the first, the last and all others, beside one that has all chances."""
    for likely in (0, codes // 2, codes - 1):
        logits = torch.full((codes,), -50.0)
        logits[likely] = 50.0
        chances = probabilities(logits, Settings())
        assert chances.sum().item() == pytest.approx(1)
        values = torch.cat([torch.arange(20), torch.randint(codes, (60,)), torch.arange(codes - 20, codes)])
        noise = within(chances.expand(100, -1), values, torch.full((100,), place))
        assert torch.equal(drawn(chances.expand(100, -1), shares(noise)), values)


def test_the_noise_of_pictures_is_normal() -> None:
    """As that of seeds is, so that a walk between pictures goes through samples."""
    backend = drawer()
    plan, labels = [list(range(8)), list(range(8, 16))], torch.arange(600) % 3
    own = torch.randn(600, 16, len(backend.prior.factors), generator=torch.Generator().manual_seed(3))
    tokens = walk(backend.prior, labels, plan, Settings(), noise=own).tokens
    noise = walk(backend.prior, labels, plan, Settings(), known=tokens).noise
    assert noise.mean().abs() < 0.1 and 0.9 < noise.std() < 1.05
    assert torch.equal(walk(backend.prior, labels, plan, Settings(), noise=noise).tokens, tokens)


def test_labels_are_guessed_by_likelihood() -> None:
    backend = drawer()
    labels = torch.arange(300) % 3
    noise = torch.randn(300, *backend.noise_shape, generator=torch.Generator().manual_seed(0))
    images = backend.generate(noise, labels)
    guessed, tokens = backend.likely_labels(images), backend.tokenizer.encode(images)
    assert guessed is not None
    each = [backend.token_likelihood(tokens, torch.full((300,), label), backend.steps) for label in range(3)]
    expected = torch.stack(each, 1) + torch.tensor([5.0, 3.0, 2.0]).log()
    close = expected.topk(2, 1).values.diff(dim=1).abs()[:, 0] < 1e-2
    assert torch.equal(guessed[~close], expected.argmax(1)[~close]) and close.sum() < 30
    assert len(guessed.unique()) > 1
    images = some_pictures()
    noise, found = backend.invert(images), backend.likely_labels(images)
    assert torch.equal(backend.generate(noise, found), backend.reconstruct(images))


@pytest.mark.parametrize(("worth", "rows"), [(1000, 16), (5, 4), (0.1, 1)])
def test_blocks_of_large_priors_have_fewer_rows(monkeypatch: pytest.MonkeyPatch, worth: float, rows: int) -> None:
    backend = drawer()
    cost = backend.prior.length * sum(weight.numel() for weight in backend.prior.parameters())
    monkeypatch.setattr("imggen.models.transformer.backend.BLOCK_COST", worth * cost)
    assert backend.rows == rows
    noise, labels = torch.randn(6, *backend.noise_shape), LABELS
    assert torch.equal(backend.generate(noise, labels)[3:4], backend.generate(noise[3:4], labels[3:4]))


def test_the_class_of_a_picture_with_a_hole() -> None:
    """What is hidden is not judged; where "no class" was never learnt, holes are filled in the class that is found."""
    images, mask = some_pictures(), torch.zeros(len(some_pictures()), 1, 16, 16)
    mask[..., 8:] = 1
    other = torch.where(mask > 0, images.flip(0), images)
    for preset in ("tiny", "classic"):
        backend = drawer(preset, drop_label=0.0)
        found = backend.likely_labels(images, mask)
        assert found is not None and found.shape == (len(images),)
        if preset == "tiny":
            assert torch.equal(found, backend.likely_labels(other, mask))
        noise = torch.randn(len(images), *backend.noise_shape)
        assert torch.equal(backend.inpaint(images, mask, noise), backend.inpaint(images, mask, noise, found))


def test_settings_that_leave_pictures_out_cannot_be_turned_round() -> None:
    backend = drawer()
    for settings in ({"top_k": 2}, {"top_p": 0.5}):
        backend.draw_with(**settings)
        with pytest.raises(UsageError):
            backend.invert(some_pictures())


def test_drawn_frequencies_are_the_probabilities() -> None:
    """Of one token: what normal noise draws is what the distribution says, with every setting."""
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])
    noise = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    for settings in (Settings(), Settings(temperature=0.5), Settings(top_k=2), Settings(top_p=0.8)):
        chances = probabilities(logits, settings)
        found = torch.bincount(drawn(chances.expand(len(noise), -1), shares(noise)), minlength=4) / len(noise)
        assert (found - chances).abs().max() < 5e-3
        assert chances.sum() == pytest.approx(1)


def test_temperature_top_k_and_top_p() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])
    exact = logits.softmax(0).double()
    assert (probabilities(logits, Settings()) - exact).abs().max() < 1e-4
    assert torch.equal(probabilities(logits, Settings(temperature=0)).float(), torch.tensor([0.0, 0, 1, 0]))
    for temperature in (0.5, 2.0):
        expected = (logits / temperature).softmax(0).double()
        assert (probabilities(logits, Settings(temperature=temperature)) - expected).abs().max() < 1e-3
    # Also of many codes: heat is the logits', not that of what every code has at least.
    many = torch.full((4375,), -30.0)
    many[7] = 10.0
    assert probabilities(many, Settings(temperature=2.0))[7] > 0.99
    assert (probabilities(logits, Settings(top_k=2)) > 0).tolist() == [True, False, True, False]
    assert (probabilities(logits, Settings(top_p=0.6)) > 0).tolist() == [False, False, True, False]
    assert (probabilities(logits, Settings(top_p=0.7)) > 0).tolist() == [True, False, True, False]
    kept = probabilities(logits, Settings(top_k=2))
    assert float(kept[2] / kept[0]) == pytest.approx(math.e, rel=1e-3)
    # What has no chance is not drawn, however far the noise goes.
    far = torch.tensor([-9.0, 9.0])
    assert drawn(kept.expand(2, -1), shares(far)).tolist() == [0, 2]


def test_frames_of_a_path_are_samples() -> None:
    """cos(πt/2)z₀ + sin(πt/2)z₁ of independent ends: at every t the tokens are distributed as any sample's."""
    backend = drawer(classes=False)
    count = 300
    generator = torch.Generator().manual_seed(0)
    ends = torch.randn(2, count, *backend.noise_shape, generator=generator)
    fresh = torch.randn(count, *backend.noise_shape, generator=generator)

    def colours(noise: Tensor) -> Tensor:
        return backend.tokenizer.encode(backend.generate(noise)).double()

    expected = colours(fresh)
    spread = expected.std(0) * math.sqrt(2 / count)
    for t in (0.25, 0.5):
        frame = math.cos(math.pi * t / 2) * ends[0] + math.sin(math.pi * t / 2) * ends[1]
        assert ((colours(frame).mean(0) - expected.mean(0)).abs() < 5 * spread + 1e-9).all()
        assert colours(frame).std(0).mean() > 0.97 * expected.std(0).mean()
    # The control: a straight line's middle is tamer than the model.
    assert colours((ends[0] + ends[1]) / 2).std(0).mean() < 0.95 * expected.std(0).mean()


@pytest.mark.parametrize("preset", EVERY)
@pytest.mark.parametrize("settings", [{}, {"guidance": 2.0, "steps": 5}, {"steps": 3, "top_k": 3}])
def test_the_fused_one_draws_the_same(preset: str, settings: dict[str, float]) -> None:
    """And what the plain one inverts, it turns back into the same tokens."""
    backend = drawer(preset)
    if preset == "classic":
        settings = {key: value for key, value in settings.items() if key != "steps"}
    backend.draw_with(**settings)
    fused = backend.for_inference()
    noise, labels = torch.randn(40, *backend.noise_shape), torch.arange(40) % 3
    assert torch.equal(fused.generate(noise, labels), backend.generate(noise, labels))
    assert torch.equal(fused.generate(noise[3:20], labels[3:20]), fused.generate(noise, labels)[3:20])
    if "top_k" not in settings:
        images = some_pictures(20)
        found = fused.generate(backend.invert(images, labels[:20]), labels[:20])
        assert torch.equal(found, backend.reconstruct(images))
    state = backend.state_dict()
    assert all(torch.equal(state[key], value) for key, value in drawer(preset).state_dict().items())


@pytest.mark.parametrize("preset", EVERY)
def test_a_row_does_not_see_the_others(preset: str) -> None:
    backend = drawer(preset)
    noise, labels = torch.randn(40, *backend.noise_shape), torch.arange(40) % 3
    whole = backend.generate(noise, labels)
    order = torch.randperm(40)
    assert torch.equal(backend.generate(noise[order], labels[order]), whole[order])
    for rows in (slice(0, 1), slice(3, 20), slice(39, 40)):
        assert torch.equal(backend.generate(noise[rows], labels[rows]), whole[rows])


def test_settings_act_and_one_is_none() -> None:
    backend = drawer()
    noise = torch.randn(6, *backend.noise_shape)
    plain = backend.generate(noise, LABELS)
    for settings in ({"steps": 1}, {"steps": 16}, {"guidance": 3.0}, {"top_k": 2}, {"top_p": 0.5}, {"guidance": 0.0}):
        backend.draw_with(**settings)
        assert not torch.equal(backend.generate(noise, LABELS), plain), settings
    for settings in ({}, {"guidance": 1.0}, {"steps": backend.steps}, {"top_k": 8}, {"top_p": 1.0}):
        backend.draw_with(**settings)
        assert torch.equal(backend.generate(noise, LABELS), plain), settings
    # No class's weight at all: the labels do not matter.
    backend.draw_with(guidance=0.0)
    assert torch.equal(backend.generate(noise, LABELS), backend.generate(noise, LABELS.flip(0)))


def test_settings_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="no --noise"):
        drawer().draw_with(noise=1.0)
    for bad in ({"steps": 0}, {"top_p": 0.0}, {"top_k": -1}, {"guidance": -1.0}):
        with pytest.raises(UsageError, match="--steps is"):
            drawer().draw_with(**bad)
    with pytest.raises(UsageError, match="no classes"):
        drawer(classes=False).draw_with(guidance=2.0)
    with pytest.raises(UsageError, match="drop-label"):
        drawer(drop_label=0.0).draw_with(guidance=2.0)
    with pytest.raises(UsageError, match="one token"):
        drawer("classic").draw_with(steps=3)
    drawer("classic").draw_with(steps=16, guidance=2.0)


@pytest.mark.parametrize("preset", EVERY)
def test_a_token_is_its_own_patch_and_no_more(preset: str) -> None:
    """Whatever is in the hole, the tokens that count as known stay as they are."""
    backend, images = drawer(preset), some_pictures()
    mask = torch.zeros(6, 1, 16, 16)
    mask[:, :, 5:11, 2:9] = 1
    unknown = backend.touched(mask).view(6, 4, 4)
    assert unknown[0].tolist() == [[False] * 4, [True, True, True, False], [True, True, True, False], [False] * 4]
    before = backend.tokenizer.encode(images)
    after = backend.tokenizer.encode(torch.where(mask > 0, torch.rand_like(images) * 2 - 1, images))
    assert torch.equal(before[~unknown.flatten(1)], after[~unknown.flatten(1)])
    assert not torch.equal(before, after)


@pytest.mark.parametrize("preset", EVERY)
def test_filling(preset: str) -> None:
    backend, images = drawer(preset), some_pictures()
    mask = torch.zeros(6, 1, 16, 16)
    mask[:3, :, 4:12, 4:12] = 1
    mask[3, :, 3, 3] = 1
    mask[5] = 1
    noise = torch.randn(6, *backend.noise_shape)
    filled = backend.inpaint(images, mask, noise, LABELS)
    assert torch.equal(filled * (1 - mask), images * (1 - mask)) and torch.equal(filled[4], images[4])
    other = backend.inpaint(images, mask, -noise, LABELS)
    assert not torch.equal(filled[:3], other[:3])
    # Of a hole in which no token is hidden by much, too, one fill is not like the other.
    thin = torch.zeros(1, 1, 16, 16)
    thin[:, :, :, 7:9] = 1
    drawings = torch.randn(24, *backend.noise_shape)
    fills = backend.inpaint(images[:1].repeat(24, 1, 1, 1), thin.repeat(24, 1, 1, 1), drawings, LABELS[:1].repeat(24))
    assert len({fill.numpy().tobytes() for fill in fills}) > 12
    # What lies in the hole does not matter, nor do the other rows.
    hidden = torch.where(mask > 0, torch.ones_like(images), images)
    assert torch.equal(backend.inpaint(hidden, mask, noise, LABELS), filled)
    alone = backend.inpaint(images[3:4], mask[3:4], noise[3:4], LABELS[3:4])
    torch.testing.assert_close(alone, filled[3:4], rtol=0, atol=1e-6)
    # All is hole: a drawing like any other. No labels: drawn as by a model without classes.
    assert torch.equal(filled[5:], backend.generate(noise[5:], LABELS[5:]))
    assert not torch.equal(backend.inpaint(images, mask, noise)[:3], filled[:3])


def test_a_fill_depends_on_all_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the any-order prior: what is known below and to the right changes a hole's tokens too."""
    backend, images = drawer(), some_pictures()
    mask = torch.zeros(6, 1, 16, 16)
    mask[:, :, :8] = 1
    noise = torch.randn(6, *backend.noise_shape)
    changed = images.clone()
    changed[:, :, 12:] = -changed[:, :, 12:]
    decode, drawn = backend.tokenizer.decode, []

    def seen(tokens: Tensor) -> Tensor:
        drawn.append(tokens[:6, :8])
        return decode(tokens)

    monkeypatch.setattr(backend.tokenizer, "decode", seen)
    for pictures in (images, changed):
        backend.inpaint(pictures, mask, noise, LABELS)
    assert len(drawn) == 2 and not torch.equal(*drawn)


@pytest.mark.parametrize("preset", EVERY)
def test_likelihood_is_tokens_and_pixels(preset: str) -> None:
    backend, images = drawer(preset), some_pictures()
    tokens = backend.tokenizer.encode(images)
    found = backend.log_likelihood(images, LABELS)
    pixels = backend.tokenizer.log_likelihood(images, tokens)
    assert found is not None and found.shape == (6,)
    assert torch.allclose(found - pixels, backend.token_likelihood(tokens, LABELS, 16), atol=1e-3)
    assert (found < pixels).all()
    measures = backend.measures(images, LABELS)
    names = {"nats_16", "unigram", "psnr", "codes"} | ({"nats_8", "nats_4", "nats_1"} if preset == "tiny" else set())
    assert set(measures) == names and all(values.shape == (6,) for values in measures.values())
    assert torch.allclose(measures["nats_16"] * 16, -backend.token_likelihood(tokens, LABELS, 16))
    assert all(len(backend.explained(name)) == 2 for name in names)
    if preset == "tiny":
        backend.draw_with(steps=5)
        assert set(backend.measures(images, LABELS)) == {*names, "nats_5"}


def test_the_sampler_draws_what_the_likelihood_says() -> None:
    """Of the first token of a plan the frequencies are its probabilities."""
    backend = drawer(classes=False, codes=512)
    count = 2000
    noise = torch.randn(count, *backend.noise_shape, generator=torch.Generator().manual_seed(1))
    labels = backend.labels_or_none(None, 8)
    place = 8  # the first of Halton's order on a 4x4 grid
    tokens = torch.zeros(8, 16, 3, dtype=torch.int64)
    tokens[:, place, 0] = torch.arange(8)
    groups = torch.ones(8, 16, dtype=torch.int64)
    groups[:, place] = 0
    expected = backend.prior.log_probabilities(tokens, labels, groups)[:, place, 0].exp()
    backend.draw_with(steps=16)
    plan = [[place], [p for p in range(16) if p != place]]
    by_place = noise.flatten(2).transpose(1, 2)
    found = walk(backend.prior, backend.labels_or_none(None, count), plan, Settings(), noise=by_place).tokens
    shares = torch.bincount(found[:, place, 0], minlength=8) / count
    assert (shares - expected).abs().max() < 4 * math.sqrt(0.25 / count)
    assert expected.max() > 2 * expected.min()


def test_bytes_add_up_and_the_mean_is_the_mean() -> None:
    location = torch.tensor([-1.3, -0.9, 0.0, 0.4, 1.2]).view(-1, 1, 1, 1)
    log_scale = torch.tensor([-1.0, -3.0, -7.0, 0.5, -2.0]).view(-1, 1, 1, 1)
    levels = (torch.arange(256) / 127.5 - 1).view(1, 1, 1, -1)
    chances = log_probability(levels.expand(5, 1, 1, -1), location, log_scale).double().exp()
    assert torch.allclose(chances.sum(-1), torch.ones(5, 1, 1, dtype=torch.float64), atol=1e-4)
    mean = (chances * levels).sum(-1).flatten()
    assert (mean - mean_picture(location, log_scale).flatten()).abs().max() < 1e-2


def test_the_quantiser() -> None:
    quantiser = Quantiser((8, 5, 5, 5))
    latents = torch.randn(50, 4) * 3
    indices = quantiser.indices(latents)
    assert (indices >= 0).all() and (indices < torch.tensor([8, 5, 5, 5])).all()
    assert torch.equal(quantiser.split(quantiser.join(indices)), indices)
    assert len(quantiser.join(indices).unique()) > 30 and quantiser.join(indices).max() < 1000
    assert torch.equal(quantiser.indices(torch.atanh(quantiser.values(indices))), indices)
    assert torch.equal(quantiser.indices(torch.full((1, 4), torch.nan)), quantiser.indices(torch.zeros(1, 4)) * 0)
    latents.requires_grad_(True)
    quantiser(latents).sum().backward()
    assert latents.grad is not None and torch.allclose(latents.grad, 1 - latents.detach().tanh() ** 2, atol=1e-6)
    # In bf16 as in fp32: nothing is lost to the precision of what comes before.
    assert torch.equal(quantiser.indices(latents.detach().bfloat16()), quantiser.indices(latents.bfloat16().float()))
