"""What a segmentation model must do: rows, any size, reach, exact resume, learning; and masks without blending."""

import copy

import pytest
import torch
from torch import Tensor

from imggen.errors import UsageError
from imggen.models import build_learner, build_model, presets
from imggen.models.learner import Learner, NonFiniteError
from imggen.models.mapper.pairs import augment_pairs, classes_in
from imggen.models.mapper.segment.config import SegmentConfig
from imggen.models.mapper.segment.learner import VOID, losses
from imggen.models.mapper.segment.model import SegmentModel
from tests.test_contract import copied


def config(**more: object) -> SegmentConfig:
    given = {"size": 16, "width": 8, "halvings": 2, "ema_images": 0, "table": {"names": ["dark", "light"]}, **more}
    found = presets("segment")["tiny"].with_overrides(**given)
    assert isinstance(found, SegmentConfig)
    return found


def awake(model: torch.nn.Module) -> SegmentModel:
    """The model with random weights where blocks begin at zero."""
    assert isinstance(model, SegmentModel)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


def pairs_of(count: int, channels: int = 3) -> Tensor:
    """Noise in large squares, and as the mask where it is light."""
    generator = torch.Generator().manual_seed(count)
    gray = torch.rand(count, 1, 4, 4, generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3) * 2 - 1
    mask = (gray > 0).float() / 127.5 - 1
    return torch.cat([gray.expand(-1, channels, -1, -1), mask], 1).contiguous(memory_format=torch.channels_last)


def run_steps(learner: Learner, first: int, last: int, pairs: Tensor) -> None:
    for index in range(first, last):
        torch.manual_seed(index)
        learner.step(pairs[(index * 8 + torch.arange(8)) % len(pairs)], None, index / 50, index * 8)


SEEN = [("own", 16), ("pretrained", 32), ("pretrained", 64), ("pretrained", 128)]  # magnified four times, twice, once


@pytest.mark.parametrize(("features", "size"), SEEN)
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 16, 16), (3, 13, 22), (4, 5, 40)])
def test_any_size_and_rows(channels: int, height: int, width: int, features: str, size: int) -> None:
    model = awake(build_model(config(channels=channels, features=features, size=size)))
    images = torch.rand(3, channels, height, width) * 2 - 1
    with torch.no_grad():
        scores, alone, again = model(images), model(images[1:2]), model(images)
        seen = model.features(images)
    assert scores.shape == (3, 2, height, width) and torch.equal(scores, again)
    assert torch.allclose(scores[1:2], alone, atol=1e-5)
    assert seen.vectors.shape == (3, 32) and seen.maps[-1].shape[1] == 8


@pytest.mark.parametrize(("features", "size", "slack"), [(*SEEN[0], 12), *((*each, 99) for each in SEEN[1:])])
def test_nothing_beyond_the_reach_has_an_effect(features: str, size: int, slack: int) -> None:
    model = awake(build_model(config(features=features, size=size)))
    reach = model.network.reach
    image = torch.rand(1, 3, 1, 16 * (2 * reach // 16 + 3)) * 2 - 1
    changed, middle = image.clone(), image.shape[3] // 2
    changed[..., middle] += 5
    with torch.no_grad():
        moved = (model(image) - model(changed)).abs().amax((0, 1, 2)).nonzero()
    assert reach - slack <= (moved - middle).abs().max() <= reach


def test_it_learns_and_resumes_exactly() -> None:
    pairs = pairs_of(48)
    torch.manual_seed(3)
    learner = build_learner(config(learning_rate=1e-2))
    run_steps(learner, 0, 45, pairs)
    tensors, document = copied(learner.state()[0]), copy.deepcopy(learner.state()[1])
    run_steps(learner, 45, 50, pairs)
    torch.manual_seed(99)
    resumed = build_learner(learner.config)
    resumed.load_state(tensors, document)
    run_steps(resumed, 45, 50, pairs)
    for name, value in learner.state()[0].items():
        assert torch.equal(value, resumed.state()[0][name]), name
    new = pairs_of(16)
    model = learner.saved_model
    assert isinstance(model, SegmentModel)
    with torch.no_grad():
        found = model(new[:, :3]).argmax(1)
    assert (found == classes_in(new[:, 3:])).float().mean() > 0.93


def test_its_backbone_is_not_trained() -> None:
    learner = build_learner(config(features="pretrained", learning_rate=1e-2))
    before = copied(dict(learner.saved_model.named_parameters()))
    run_steps(learner, 0, 3, pairs_of(24))
    for name, value in learner.saved_model.named_parameters():
        assert torch.equal(value, before[name]) == (".backbone." in name), name
    with pytest.raises(UsageError, match="own or pretrained"):
        config(features="vae")


def test_void_pixels_teach_nothing() -> None:
    scores = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    classes = torch.randint(3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    classes[:, :2] = VOID
    other = scores.clone()
    other[:, :, :2] *= -7
    assert torch.allclose(torch.stack(losses(scores, classes)), torch.stack(losses(other, classes)))
    entropy, dice = losses(scores, torch.full_like(classes, VOID))
    assert float(entropy) == 0 and float(dice) == 0


def test_masks_move_with_their_images_and_are_never_blended() -> None:
    pairs = pairs_of(8)
    torch.manual_seed(0)
    images, masks = augment_pairs(pairs[:, :3], pairs[:, 3:], 1.0, 0.0, "nearest")
    assert set(classes_in(masks).unique().tolist()) == {0, 1}
    assert not torch.equal(images, pairs[:, :3])
    agree = ((images[:, 0] > 0).long() == classes_in(masks)).float().mean()
    assert agree > 0.9


def test_non_finite_images_never_reach_a_weight() -> None:
    learner = build_learner(config())
    pairs = pairs_of(8)
    pairs[0, 0] = torch.nan
    before = copied(dict(learner.networks["model"].named_parameters()))
    with pytest.raises(NonFiniteError):
        learner.step(pairs, None, 0.5, 0)
    for name, value in learner.networks["model"].named_parameters():
        assert torch.equal(value, before[name]), name
