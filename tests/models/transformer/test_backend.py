"""The backend: inversion, inpainting, sampling options, likelihoods, and rows that do not depend on each other."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from imggen.errors import UsageError
from imggen.models.base import HasLikelihood
from imggen.models.config import SamplingOptions
from tests.models.transformer.helpers import small_transformer, smooth_images

PRESETS = ["tiny", "classic"]
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("tiny", {}),
        ("tiny", {"guidance": 2.5}),
        ("tiny", {"steps": 5}),
        ("classic", {}),
        ("classic", {"guidance": 2.5}),
    ],
)
def test_inversion_returns_the_tokens(preset: str, settings: dict[str, Any]) -> None:
    backend, images = small_transformer(preset), smooth_images(20)
    options = SamplingOptions(**settings)
    labels = torch.arange(20) % 3
    noise = backend.invert(images, labels, options).noise
    assert noise.shape == (20, *backend.noise_shape) and noise.dtype == torch.float32 and torch.isfinite(noise).all()
    assert torch.equal(backend.generate(noise, labels, options), backend.reconstruct(images))
    # Also one by one: the noise of a row does not depend on the others.
    assert torch.equal(backend.generate(noise[7:8], labels[7:8], options), backend.reconstruct(images[7:8]))
    assert not torch.equal(backend.generate(noise, (labels + 1) % 3, options), backend.reconstruct(images))
    # Inversion is at temperature 1, whatever is asked for.
    tempered = SamplingOptions(**{**settings, "temperature": 0.5})
    assert torch.equal(backend.invert(images[:2], labels[:2], tempered).noise, noise[:2])


def test_options_that_exclude_images_cannot_be_inverted() -> None:
    for options in (SamplingOptions(top_k=2), SamplingOptions(top_p=0.5)):
        with pytest.raises(UsageError, match="cannot be generated"):
            small_transformer().invert(smooth_images(), options=options)


@pytest.mark.slow
def test_inversion_chooses_the_most_likely_labels() -> None:
    """By likelihood and by the frequency of the classes: 5, 3, 2."""
    backend = small_transformer()
    backend.min_batch = 100  # larger batches, which are faster
    labels = torch.arange(300) % 3
    noise = torch.randn(300, *backend.noise_shape, generator=torch.Generator().manual_seed(0))
    images = backend.generate(noise, labels)
    chosen, tokens = backend.invert(images).labels, backend.tokenizer.encode(images)
    assert chosen is not None
    likelihoods = [backend.token_likelihood(tokens, torch.full((300,), label), backend.steps) for label in range(3)]
    expected = torch.stack(likelihoods, 1) + torch.tensor([5.0, 3.0, 2.0]).log()
    close = expected.topk(2, 1).values.diff(dim=1).abs()[:, 0] < 1e-2
    assert torch.equal(chosen[~close], expected.argmax(1)[~close]) and close.sum() < 30
    assert len(chosen.unique()) > 1
    backend, images = small_transformer(), smooth_images()
    assert torch.equal(backend.generate(*backend.invert(images)), backend.reconstruct(images))


def test_inpainting_chooses_the_class_if_trained_with_labels_only() -> None:
    """By the unmasked part; that class is then used as if it had been given."""
    images, mask = smooth_images(), torch.zeros(6, 1, 16, 16)
    mask[..., 8:] = 1
    for preset in PRESETS:
        backend = small_transformer(preset, drop_label=0.0)
        noise = torch.randn(6, *backend.noise_shape)
        filled = backend.inpaint(images, mask, noise)
        by_label = torch.stack([backend.inpaint(images, mask, noise, torch.full((6,), label)) for label in range(3)])
        assert (by_label == filled).flatten(2).all(2).any(0).all()
        assert not torch.equal(by_label[0], by_label[1])
        # For the any-order prior the masked pixels have no influence on the choice.
        if preset == "tiny":
            other = torch.where(mask > 0, images.flip(0), images)
            assert torch.equal(backend.inpaint(other, mask, noise), filled)


@pytest.mark.parametrize(("relative_cost", "rows"), [(1000, 16), (5, 4), (0.1, 1)])
def test_large_priors_have_smaller_batches(monkeypatch: pytest.MonkeyPatch, relative_cost: float, rows: int) -> None:
    backend = small_transformer()
    cost = backend.prior.length * sum(weight.numel() for weight in backend.prior.parameters())
    monkeypatch.setattr("imggen.models.transformer.prior.CPU_BATCH_COST", relative_cost * cost)
    assert backend.min_batch == rows
    noise, labels = torch.randn(6, *backend.noise_shape), LABELS
    assert torch.equal(backend.generate(noise, labels)[3:4], backend.generate(noise[3:4], labels[3:4]))


@pytest.mark.slow
def test_frames_of_an_interpolation_are_samples() -> None:
    """cos(πt/2)z₀ + sin(πt/2)z₁ of independent ends: at every t the tokens are distributed as those of any noise."""
    backend = small_transformer(classes=False)
    backend.min_batch = count = 300  # one batch, which is faster
    generator = torch.Generator().manual_seed(0)
    ends = torch.randn(2, count, *backend.noise_shape, generator=generator)
    noise = torch.randn(count, *backend.noise_shape, generator=generator)

    def tokens(noise: Tensor) -> Tensor:
        return backend.tokenizer.encode(backend.generate(noise)).double()

    expected = tokens(noise)
    standard_error = expected.std(0) * math.sqrt(2 / count)
    for t in (0.25, 0.5):
        frame = tokens(math.cos(math.pi * t / 2) * ends[0] + math.sin(math.pi * t / 2) * ends[1])
        assert ((frame.mean(0) - expected.mean(0)).abs() < 5 * standard_error + 1e-9).all()
        assert frame.std(0).mean() > 0.97 * expected.std(0).mean()
    # The control: the middle of a straight line has too little variance.
    assert tokens((ends[0] + ends[1]) / 2).std(0).mean() < 0.95 * expected.std(0).mean()


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("settings", [{}, {"guidance": 2.0, "steps": 5}, {"steps": 3, "top_k": 3}])
def test_for_inference_generates_the_same(preset: str, settings: dict[str, Any]) -> None:
    """Also from the noise of the original's inversion; the original stays as it is."""
    backend = small_transformer(preset)
    options = SamplingOptions(
        **{key: value for key, value in settings.items() if preset != "classic" or key != "steps"}
    )
    fast = backend.for_inference()
    noise, labels = torch.randn(40, *backend.noise_shape), torch.arange(40) % 3
    images = fast.generate(noise, labels, options)
    assert torch.equal(images, backend.generate(noise, labels, options))
    assert torch.equal(fast.generate(noise[3:20], labels[3:20], options), images[3:20])
    if not options.top_k:
        originals = smooth_images(20)
        inverted = backend.invert(originals, labels[:20], options).noise
        assert torch.equal(fast.generate(inverted, labels[:20], options), backend.reconstruct(originals))
    state = backend.state_dict()
    assert all(torch.equal(state[key], value) for key, value in small_transformer(preset).state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_rows_do_not_depend_on_each_other(preset: str) -> None:
    backend = small_transformer(preset)
    noise, labels = torch.randn(40, *backend.noise_shape), torch.arange(40) % 3
    images = backend.generate(noise, labels)
    order = torch.randperm(40)
    assert torch.equal(backend.generate(noise[order], labels[order]), images[order])
    for rows in (slice(0, 1), slice(3, 20), slice(39, 40)):
        assert torch.equal(backend.generate(noise[rows], labels[rows]), images[rows])


@pytest.mark.slow
def test_options_have_an_effect_and_their_defaults_none() -> None:
    backend = small_transformer()
    noise = torch.randn(6, *backend.noise_shape)
    plain = backend.generate(noise, LABELS)
    changes: list[dict[str, Any]] = [
        {"steps": 1}, {"steps": 16}, {"guidance": 3.0}, {"top_k": 2}, {"top_p": 0.5}, {"guidance": 0.0},
        {"temperature": 0.5},
    ]  # fmt: skip
    for settings in changes:
        assert not torch.equal(backend.generate(noise, LABELS, SamplingOptions(**settings)), plain), settings
    defaults: list[dict[str, Any]] = [
        {}, {"guidance": 1.0}, {"steps": backend.steps}, {"top_k": 8}, {"top_p": 1.0}, {"temperature": 1.0}
    ]  # fmt: skip
    for settings in defaults:
        assert torch.equal(backend.generate(noise, LABELS, SamplingOptions(**settings)), plain), settings
    # Guidance 0: the class has no influence.
    unguided = SamplingOptions(guidance=0.0)
    assert torch.equal(backend.generate(noise, LABELS, unguided), backend.generate(noise, LABELS.flip(0), unguided))


def test_options_out_of_range_or_not_supported() -> None:
    ranges = {"steps": 0, "top_p": 0.0, "top_k": -1, "guidance": -1.0, "temperature": 3.0}
    for name, value in ranges.items():
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} must be"):
            SamplingOptions(**{name: value})
    with pytest.raises(UsageError, match="no classes"):
        small_transformer(classes=False).check_options(SamplingOptions(guidance=2.0))
    with pytest.raises(UsageError, match="drop-label"):
        small_transformer(drop_label=0.0).check_options(SamplingOptions(guidance=2.0))
    with pytest.raises(UsageError, match="one token"):
        small_transformer("classic").check_options(SamplingOptions(steps=3))
    small_transformer("classic").check_options(SamplingOptions(steps=16, guidance=2.0))
    small_transformer().check_options(SamplingOptions(temperature=0.5, steps=3, guidance=2.0, top_k=2, top_p=0.5))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_token_depends_on_its_own_patch_only(preset: str) -> None:
    """Whatever is masked, the tokens of patches without masked pixels stay the same."""
    backend, images = small_transformer(preset), smooth_images()
    mask = torch.zeros(6, 1, 16, 16)
    mask[:, :, 5:11, 2:9] = 1
    touched = backend.touched_tokens(mask)
    assert touched[0].view(4, 4).tolist() == [[False] * 4, [True] * 3 + [False], [True] * 3 + [False], [False] * 4]
    before = backend.tokenizer.encode(images)
    after = backend.tokenizer.encode(torch.where(mask > 0, torch.rand_like(images) * 2 - 1, images))
    assert torch.equal(before[~touched], after[~touched])
    assert not torch.equal(before, after)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_inpainting(preset: str) -> None:
    backend, images = small_transformer(preset), smooth_images()
    mask = torch.zeros(6, 1, 16, 16)
    mask[:3, :, 4:12, 4:12] = 1
    mask[3, :, 3, 3] = 1
    mask[5] = 1
    noise = torch.randn(6, *backend.noise_shape)
    filled = backend.inpaint(images, mask, noise, LABELS)
    assert torch.equal(filled * (1 - mask), images * (1 - mask)) and torch.equal(filled[4], images[4])
    other = backend.inpaint(images, mask, -noise, LABELS)
    assert not torch.equal(filled[:3], other[:3])
    # Different noise gives different fills also where no patch is masked by much.
    thin = torch.zeros(24, 1, 16, 16)
    thin[:, :, :, 7:9] = 1
    noises = torch.randn(24, *backend.noise_shape)
    fills = backend.inpaint(images[:1].repeat(24, 1, 1, 1), thin, noises, LABELS[:1].repeat(24))
    assert len({fill.numpy().tobytes() for fill in fills}) > 12
    # The masked pixels have no influence, nor do the other rows.
    hidden = torch.where(mask > 0, torch.ones_like(images), images)
    assert torch.equal(backend.inpaint(hidden, mask, noise, LABELS), filled)
    alone = backend.inpaint(images[3:4], mask[3:4], noise[3:4], LABELS[3:4])
    torch.testing.assert_close(alone, filled[3:4], rtol=0, atol=1e-6)
    # If all is masked, the fill is a sample. Without labels it is sampled without a class.
    assert torch.equal(filled[5:], backend.generate(noise[5:], LABELS[5:]))
    assert not torch.equal(backend.inpaint(images, mask, noise)[:3], filled[:3])


def test_a_fill_depends_on_all_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the any-order prior: unmasked pixels below the mask change its tokens too."""
    backend, images = small_transformer(), smooth_images()
    mask = torch.zeros(6, 1, 16, 16)
    mask[:, :, :8] = 1
    noise = torch.randn(6, *backend.noise_shape)
    changed = images.clone()
    changed[:, :, 12:] = -changed[:, :, 12:]
    decode, decoded = backend.tokenizer.decode, []

    def record_tokens(tokens: Tensor) -> Tensor:
        decoded.append(tokens[:6, :8])
        return decode(tokens)

    monkeypatch.setattr(backend.tokenizer, "decode", record_tokens)
    for originals in (images, changed):
        backend.inpaint(originals, mask, noise, LABELS)
    assert len(decoded) == 2 and not torch.equal(*decoded)


@pytest.mark.parametrize("preset", PRESETS)
def test_likelihood_is_that_of_tokens_and_pixels(preset: str) -> None:
    backend, images = small_transformer(preset), smooth_images()
    assert isinstance(backend, HasLikelihood) and not backend.binarized
    tokens = backend.tokenizer.encode(images)
    likelihood = backend.log_likelihood(images, LABELS)
    pixels = backend.tokenizer.log_likelihood(images, tokens)
    assert likelihood.shape == (6,)
    assert torch.allclose(likelihood - pixels, backend.token_likelihood(tokens, LABELS, 16), atol=1e-3)
    assert (likelihood < pixels).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_diagnostics(preset: str) -> None:
    backend, images = small_transformer(preset), smooth_images()
    diagnostics = backend.diagnostics(images, LABELS)
    names = {"nats_16", "unigram", "psnr", "codes"} | ({"nats_8", "nats_4", "nats_1"} if preset == "tiny" else set())
    assert set(diagnostics) == names
    assert all(item.values.shape == (6,) and item.title and item.description for item in diagnostics.values())
    assert max(Counter(item.title for item in diagnostics.values()).values()) == 1
    likelihood = backend.token_likelihood(backend.tokenizer.encode(images), LABELS, 16)
    assert torch.allclose(diagnostics["nats_16"].values * 16, -likelihood)
    if preset == "tiny":
        assert set(backend.diagnostics(images, LABELS, SamplingOptions(steps=5))) == {*names, "nats_5"}
