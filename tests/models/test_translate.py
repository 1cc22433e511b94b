"""What a translator must do: rows, any size and channels, exact resume, learning with and without pairs."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from imggen.errors import UsageError
from imggen.metrics.images import psnrs, ssims
from imggen.models import build_learner, build_model, presets
from imggen.models.learner import Learner, NonFiniteError
from imggen.models.mapper.translate.channels import to_channels
from imggen.models.mapper.translate.config import TranslateConfig
from imggen.models.mapper.translate.contrast import PatchContrast
from imggen.models.mapper.translate.learner import Made, Part, TranslateLearner, distance
from imggen.models.mapper.translate.model import TranslateModel
from tests.test_contract import copied


def config(**more: object) -> TranslateConfig:
    given = {"size": 16, "width": 8, "halvings": 1, "critic_width": 8, "ema_images": 0, "target_channels": 3, **more}
    found = presets("translate")["tiny"].with_overrides(**given)
    assert isinstance(found, TranslateConfig)
    return found


def pairs_of(count: int, channels: int = 1) -> Tensor:
    """Gray squares, and the same in two colors, of which none is the input's."""
    generator = torch.Generator().manual_seed(count)
    gray = torch.rand(count, 1, 4, 4, generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3) * 2 - 1
    colors = torch.cat([-gray, gray / 2, torch.full_like(gray, 0.5)], 1)
    return torch.cat([gray.expand(-1, channels, -1, -1), colors], 1).contiguous(memory_format=torch.channels_last)


def run_steps(learner: Learner, first: int, last: int, pairs: Tensor, total: int = 60) -> dict[str, Tensor]:
    """Steps from `first` to `last` of a training of `total` steps."""
    metrics: dict[str, Tensor] = {}
    for index in range(first, last):
        torch.manual_seed(index)
        metrics = learner.step(pairs[(index * 8 + torch.arange(8)) % len(pairs)], None, index / total, index * 8)
    return metrics


@pytest.mark.parametrize(("channels", "target", "height", "width"), [(1, 3, 16, 16), (3, 1, 13, 22), (4, 4, 5, 40)])
def test_any_size_and_channels_and_rows(channels: int, target: int, height: int, width: int) -> None:
    model = build_model(config(channels=channels, target_channels=target)).eval()
    images = torch.rand(3, channels, height, width) * 2 - 1
    with torch.no_grad():
        made, alone = model(images), model(images[1:2])
        features = model.features(images)
    assert made.shape == (3, target, height, width)
    assert torch.allclose(made[1:2], alone, atol=1e-5)
    assert features.vectors.shape == (3, 16) and features.maps[-1].shape[1] == 8


@pytest.mark.parametrize(
    "more",
    [{"paired": True}, {"paired": True, "l1_only": True}, {"paired": True, "noise": 3}, {}],
    ids=["paired", "l1 only", "noise", "unpaired"],
)
def test_it_resumes_exactly(more: dict[str, object]) -> None:
    pairs = pairs_of(24)
    torch.manual_seed(3)
    learner = build_learner(config(channels=1, **more))
    run_steps(learner, 0, 3, pairs)
    tensors, document = copied(learner.state()[0]), copy.deepcopy(learner.state()[1])
    metrics = run_steps(learner, 3, 6, pairs)
    assert all(value.isfinite() for value in metrics.values())
    torch.manual_seed(99)
    resumed = build_learner(learner.config)
    resumed.load_state(tensors, document)
    run_steps(resumed, 3, 6, pairs)
    for name, value in learner.state()[0].items():
        assert torch.equal(value, resumed.state()[0][name]), name
    with pytest.raises(ValueError, match="missing"):
        resumed.load_state({}, document)


def test_micro_batches_give_the_same_step() -> None:
    pairs = pairs_of(8)
    weights = []
    for micro_batch in (None, 4):
        torch.manual_seed(0)
        learner = build_learner(config(channels=1, paired=True, l1_only=True))
        learner.micro_batch = micro_batch
        run_steps(learner, 0, 2, pairs)
        weights.append(copied(dict(learner.networks["model"].named_parameters())))
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-5), name


@pytest.mark.parametrize("exchanged", [False, True])
def test_it_learns_pairs_in_both_directions(exchanged: bool) -> None:
    torch.manual_seed(0)
    channels = 3 if exchanged else 1
    sides = {"channels": channels, "target_channels": 4 - channels}
    learner = build_learner(config(**sides, paired=True, learning_rate=3e-3))
    pairs, new = ((each.roll(-1, 1) if exchanged else each) for each in (pairs_of(48), pairs_of(16)))
    images, truth = new[:, :channels], new[:, channels:]
    before = torch.nn.functional.l1_loss(learner.saved_model(images), truth)
    run_steps(learner, 0, 60, pairs)
    with torch.no_grad():
        after = torch.nn.functional.l1_loss(learner.saved_model(images), truth)
    assert after < 0.2 and after < before / 4


@pytest.mark.parametrize("paired", [True, False])
def test_images_of_one_kind_stay_as_they_are(paired: bool) -> None:
    torch.manual_seed(0)
    learner = build_learner(config(channels=3, paired=paired, learning_rate=2e-3))
    colors, new = pairs_of(64)[:, 1:], pairs_of(16)[:, 1:]
    run_steps(learner, 0, 45, torch.cat([colors, colors if paired else colors.flip(0)], 1), total=45)
    with torch.no_grad():
        assert (learner.saved_model(new) - new).abs().mean() < 0.05  # 30 dB and more


def test_noise_says_what_the_input_does_not() -> None:
    # Outputs of one color, of which the input says nothing.
    generator = torch.Generator().manual_seed(0)
    gray = pairs_of(48)[:, :1]
    color = torch.rand(48, 3, 1, 1, generator=generator).mul(2).sub(1).round().expand(-1, -1, 16, 16)
    pairs = torch.cat([gray, color], 1).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    learner = build_learner(config(channels=1, paired=True, l1_only=True, noise=4, learning_rate=5e-3))
    for index in range(160):
        torch.manual_seed(index)
        metrics = learner.step(pairs[(index * 8 + torch.arange(8)) % 48], None, index / 160, index * 8)
    with torch.no_grad():
        made = [learner.saved_model(gray[:16], torch.randn(1, 4, generator=generator).repeat(16, 1)) for _ in range(12)]
        none = learner.saved_model(gray[:16])
    means = torch.stack([each.mean((2, 3)) for each in made])  # (12, 16, 3)
    assert metrics["l1"] < 0.4  # 0.5 by the median alone
    assert means.std(0).mean() > 0.15 and means.std(1).mean() < 0.1
    assert torch.equal(none, learner.saved_model(gray[:16], torch.zeros(16, 4)))


def test_it_learns_the_colors_of_the_other_images_without_pairs() -> None:
    torch.manual_seed(0)
    learner = build_learner(config(channels=1, learning_rate=2e-3))
    pairs = pairs_of(64)
    pairs[:, 1:] = pairs[:, 1:].flip(0)
    run_steps(learner, 0, 45, pairs, total=45)
    new = pairs_of(16)
    with torch.no_grad():
        made = learner.saved_model(new[:, :1])
    means = (made.mean((0, 2, 3)) - new[:, 1:].mean((0, 2, 3))).abs()
    assert means.max() < 0.3
    assert (made[:, 2] - 0.5).abs().mean() < 0.9 * (new[:, 0] - 0.5).abs().mean()


@pytest.mark.parametrize("paired", [True, False])
def test_no_loss_depends_on_the_colors_of_transparent_pixels(paired: bool) -> None:
    pairs = torch.rand(8, 5, 16, 16) * 2 - 1
    pairs[:, 4, :8] = -1
    other = pairs.clone()
    other[:, 1:4, :8] = 0.7
    found = []
    for each in (pairs, other):
        torch.manual_seed(0)
        learner = build_learner(config(channels=1, target_channels=4, paired=paired))
        run_steps(learner, 0, 1, each)
        found.append(copied(dict(learner.networks["model"].named_parameters())))
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_colors_of_edges_are_those_of_opaque_pixels() -> None:
    white, red = torch.ones(1, 4, 1, 1), torch.tensor([1.0, -1, -1, 1])[None, :, None, None]
    clear = torch.cat([white[:, :3], -white[:, 3:]], 1)
    half = torch.cat([red[:, :3], torch.zeros(1, 1, 1, 1)], 1)
    assert distance(half, torch.cat([red[:, :3], -white[:, 3:]], 1)) == distance(half, clear)
    assert distance(half, red) < distance(torch.cat([white[:, :3], half[:, 3:]], 1), red)


def test_it_learns_hard_alpha() -> None:
    torch.manual_seed(0)
    learner = build_learner(
        config(channels=1, target_channels=4, paired=True, hard_alpha=True, l1_only=True, learning_rate=3e-3)
    )
    gray, new = pairs_of(48)[:, :1], pairs_of(16)[:, :1]
    run_steps(learner, 0, 60, torch.cat([gray, -gray, gray, gray, gray.sign()], 1))
    with torch.no_grad():
        made = learner.saved_model(new)
    assert set(made[:, 3].unique().tolist()) == {-1.0, 1.0}
    assert (made[:, 3:] == new.sign()).float().mean() > 0.9
    assert (made[:, :3].amin(1, keepdim=True)[made[:, 3:] < 0] == 1).all()
    with pytest.raises(UsageError, match="4 channels"):
        config(channels=4, hard_alpha=True)


def test_non_finite_images_never_reach_a_weight() -> None:
    learner = build_learner(config(channels=1))
    pairs = pairs_of(8)
    pairs[0, 0] = torch.nan
    before = copied(dict(learner.networks["model"].named_parameters()))
    with pytest.raises(NonFiniteError):
        learner.step(pairs, None, 0.5, 0)
    for name, value in learner.networks["model"].named_parameters():
        assert torch.equal(value, before[name]), name


def test_contrast_is_lowest_where_places_agree() -> None:
    torch.manual_seed(0)
    contrast = PatchContrast([8])
    maps = torch.randn(2, 8, 8, 8)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    same = contrast([maps], [maps], images)
    other = contrast([maps], [maps.flip(3)], images)
    assert same < other / 2


def test_turning_notices_results_that_lie_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = TranslateLearner(config(channels=1))
    images, targets = pairs_of(8)[:, :1], pairs_of(8)[:, 1:]

    def turning() -> Tensor:
        made = learner._translate(images)
        return learner._unpaired_losses(Part(1.0, images, targets), made, 0.0)["turning"][1]

    assert turning() < 1e-6  # a new translator leaves everything where it is
    translate = learner._translate
    monkeypatch.setattr(learner, "_translate", lambda images: Made(translate(images).images.roll(1, 3), []))
    monkeypatch.setattr(learner, "contrast", lambda *maps: torch.zeros(()))
    assert turning() > 0.1


def test_contrast_does_not_tell_plain_places_apart() -> None:
    contrast = PatchContrast([8])
    maps = torch.randn(2, 8, 8, 8)
    images = torch.full((2, 1, 16, 16), -1.0)
    assert contrast([maps], [maps.flip(3)], images) == 0
    images[:, :, :8] = 1
    assert contrast([maps], [maps.flip(3)], images) > 1


def test_channels_are_those_of_pillow() -> None:
    color = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None]
    assert to_channels(color, 1).item() == pytest.approx(0.299 * 2 - 1, abs=1e-6)
    assert to_channels(color, 4).flatten().tolist() == [1, -1, -1, 1]
    transparent = torch.cat([color, -torch.ones(1, 1, 1, 1)], 1)
    assert to_channels(transparent, 3).flatten().tolist() == [1, 1, 1]
    assert to_channels(transparent, 1).item() == pytest.approx(1)


def test_pairs_are_learned_faster() -> None:
    plain = config()
    assert config(paired=True).learning_rate == pytest.approx(2.5 * plain.learning_rate)
    assert config(paired=True, learning_rate=1e-4).learning_rate == 1e-4
    assert config(paired=True).with_overrides(paired=True) == config(paired=True)


def test_noise_needs_pairs() -> None:
    with pytest.raises(UsageError, match="--noise needs --paired"):
        config(noise=4)


def test_l1_alone_needs_pairs() -> None:
    with pytest.raises(UsageError, match="--paired"):
        config(l1_only=True)


def test_similarity_of_images() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 256, (3, 16, 12, 3)).astype(np.uint8)
    noisy = np.clip(truth + random.normal(0, 20, truth.shape), 0, 255).astype(np.uint8)
    assert ssims(truth, truth).tolist() == pytest.approx([1, 1, 1])
    assert psnrs(truth, truth).tolist() == [99, 99, 99]
    shifted = psnrs(np.full((1, 4, 4, 1), 100, np.uint8), np.full((1, 4, 4, 1), 110, np.uint8))
    assert shifted.item() == pytest.approx(20 * np.log10(25.5))
    assert (ssims(noisy, truth) < 0.99).all() and (ssims(noisy, truth) > 0.5).all()
    assert isinstance(build_model(config()), TranslateModel)
    clear = np.concatenate([truth, np.zeros_like(truth[..., :1])], 3)
    assert psnrs(clear, np.zeros_like(clear)).tolist() == [99, 99, 99]
