"""The adversarial phase of the tokenizer: what it changes, what it leaves alone, and that resuming is exact."""

import math
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from imggen.errors import UsageError
from imggen.models import build_learner, presets
from imggen.models.transformer.adversarial import ADVERSARIAL_FRACTION, DISCRIMINATOR_WARM_UP
from imggen.models.transformer.learner import TransformerLearner


def small_learner(**overrides: object) -> TransformerLearner:
    settings = {
        "size": 16, "channels": 1, "width": 32, "depth": 2, "heads": 2, "tokenizer_width": 16,
        "tokenizer_fraction": 0.99, "adversarial": 4.0, "edges": 0.0, "learning_rate": 4e-3, **overrides,
    }  # fmt: skip
    torch.manual_seed(0)
    learner = build_learner(presets("transformer")["tiny"].with_overrides(**settings))
    assert isinstance(learner, TransformerLearner)
    return learner


def grain(count: int, seed: int, channels: int = 1) -> Tensor:
    """Images of one gray level, with noise on it that tokens cannot encode: the decoder's means are smooth."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(count, 1, 1, 1, generator=generator) - 0.5
    return level + torch.randint(0, 2, (count, channels, 16, 16), generator=generator) * 0.8 - 0.4


def roughness(images: Tensor) -> float:
    """The root mean square difference of pixels from the mean of their 2x2 square."""
    coarse = interpolate(avg_pool2d(images, 2), scale_factor=2)
    return float((images - coarse).square().mean().sqrt())


def train(learner: TransformerLearner, first: int, last: int, total: int, channels: int = 1) -> list[dict[str, Tensor]]:
    """Steps from `first` to `last` of a run of `total` steps; returns the metrics of each."""
    metrics = []
    for index in range(first, last):
        torch.manual_seed(index)
        metrics.append(learner.step(grain(16, index, channels), None, 0.99 * index / total, index * 16))
    return metrics


@pytest.mark.slow
def test_decoded_images_become_rougher_and_tokens_stay() -> None:
    learner, total = small_learner(), 192
    start = math.ceil(total * (1 - ADVERSARIAL_FRACTION))
    assert not any("critic" in metrics for metrics in train(learner, 0, start, total))
    tokenizer = learner.model.tokenizer
    encoder = {name: value.clone() for name, value in tokenizer.encoder.state_dict().items()}
    tokens = learner.backend.tokenizer.encode(grain(64, 1))
    images = grain(64, 9999)
    before = roughness(tokenizer.decode(tokenizer.encode(images)).detach())

    phase = train(learner, start, total, total)
    assert all("critic" in metrics for metrics in phase)
    adversarial = ["adversarial" in metrics for metrics in phase]
    assert adversarial == sorted(adversarial)
    assert abs(adversarial.index(True) - DISCRIMINATOR_WARM_UP * len(phase)) <= 1
    assert sum("penalty" in metrics for metrics in phase) == -(-len(phase) // 8)

    with torch.no_grad():
        decoded = learner.backend.tokenizer.decode(learner.backend.tokenizer.encode(images))
    assert before < 0.5 * roughness(images)
    assert roughness(decoded) > before + 0.15 * roughness(images)
    assert avg_pool2d(decoded - images, 8).abs().mean() < 0.15
    assert all(torch.equal(value, encoder[name]) for name, value in tokenizer.encoder.state_dict().items())
    assert (learner.backend.tokenizer.encode(grain(64, 1)) == tokens).float().mean() > 0.95


@pytest.mark.parametrize("adversarial", [0.0, 2.0])
def test_kept_tokens_freeze_the_encoder_and_the_decoder_learns(adversarial: float) -> None:
    trained = small_learner(adversarial=0.0)
    train(trained, 0, 6, 6)
    learner = small_learner(keep_tokens=True, adversarial=adversarial)
    learner.begin_from(trained.backend.state_dict())
    metrics = train(learner, 0, 6, 6)
    # The discriminator is there from the first step: the decoder needs no training before it.
    assert all(("critic" in step) == bool(adversarial) for step in metrics)
    before, after = trained.backend.tokenizer, learner.backend.tokenizer
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(old, new) == name.startswith("encoder"), name


@cache
def whole_run() -> TransformerLearner:
    """A learner after all 12 steps."""
    learner = small_learner()
    train(learner, 0, 12, 12)
    return learner


@pytest.mark.slow
@pytest.mark.parametrize("pause", [6, 8, 11])
def test_resuming_is_bit_exact(pause: int) -> None:
    whole, first, second = whole_run(), small_learner(), small_learner()
    train(first, 0, pause, 12)
    tensors, document = first.state()
    second.load_state({name: value.clone() for name, value in tensors.items()}, document)
    train(second, pause, 12, 12)
    expected, resumed = whole.state(), second.state()
    assert expected[1] == resumed[1] and expected[0].keys() == resumed[0].keys()
    assert all(torch.equal(value, resumed[0][name]) for name, value in expected[0].items())
    assert whole.adversarial is not None and whole.adversarial.steps > 0


@pytest.mark.parametrize("channels", [3, 4])
def test_color_alpha_and_half_precision(channels: int) -> None:
    learner = small_learner(channels=channels)
    learner.precision = torch.bfloat16
    for metrics in train(learner, 10, 12, 12, channels):
        assert {"critic", "adversarial", "psnr"} <= metrics.keys()
        assert all(torch.isfinite(value).all() for value in metrics.values())


def test_micro_batches_are_the_same_step() -> None:
    """During the discriminator's warm-up; the discriminator itself differs, since each part is augmented at random."""
    whole, parts = small_learner(), small_learner()
    parts.micro_batch = 6
    both = [train(learner, 71, 72, 100)[0] for learner in (whole, parts)]
    assert all({"critic", "penalty"} <= metrics.keys() and "adversarial" not in metrics for metrics in both)
    for (name, one), other in zip(whole.model.state_dict().items(), parts.model.state_dict().values(), strict=True):
        assert torch.allclose(one, other, atol=2e-5), name
    assert "adversarial" in train(parts, 90, 91, 100)[0]
    assert parts.adversarial is not None and parts.adversarial.steps == 2


def test_small_images_have_no_adversarial_phase() -> None:
    with pytest.raises(UsageError, match="adversarial"):
        small_learner(size=8)
