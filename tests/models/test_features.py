"""What every family sees in images, and how it keeps hard edges: parts of the contract."""

from pathlib import Path

import pytest
import torch

from imggen.engine.checkpoints import load_backend, save_backend
from imggen.models import build_backend
from imggen.models.base import Features
from imggen.models.gan.backend import GanBackend
from imggen.models.gan.inversion import SearchBudget
from imggen.models.hard_alpha import harden_alpha
from tests.test_contract import SMALL_SEARCH, cases_that_differ_when_small, random_images, small


@pytest.mark.parametrize(("family", "preset"), cases_that_differ_when_small())
def test_hard_alpha_is_kept(family: str, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SearchBudget, "for_cost", lambda *arguments: SMALL_SEARCH)
    torch.manual_seed(0)
    backend = build_backend(small(family, preset, channels=4).with_overrides(hard_alpha=True)).eval()
    images = torch.rand(2, 4, 16, 16) * 2 - 1
    images[:, 3] = images[:, 3].sign()
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, 3:11, 5:14] = 1
    noise = torch.randn(2, *backend.noise_shape)
    with torch.no_grad():
        generated, fast = backend.generate(noise), backend.for_inference().generate(noise)
        made = [generated, fast, backend.inpaint(images, mask, noise), backend.reconstruct(images)]
    for result in made:
        assert set(result[:, 3].unique().tolist()) <= {-1.0, 1.0}
    assert (generated[:, :3].amin(1)[generated[:, 3] < 0] == 1).all()


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize(("family", "preset"), cases_that_differ_when_small())
def test_features(family: str, preset: str, classes: bool) -> None:
    """Finite for every image, and row i from image i alone."""
    torch.manual_seed(0)
    backend = build_backend(small(family, preset, classes=classes)).eval()
    images, _ = random_images(backend.config)
    images[0], images[1] = -1, 1
    features = backend.features(images)
    assert backend.limitation("features") == ""
    assert features.vectors.dtype == torch.float32 and features.vectors.shape[0] == 8 and features.vectors.ndim == 2
    sides = [each.shape[-1] for each in features.maps]
    assert sides == sorted(sides) and all(each.shape[0] == 8 for each in features.maps)
    for whole, part in zip(_flat(features), _flat(backend.features(images[2:5])), strict=True):
        assert torch.isfinite(whole).all() and not whole.requires_grad
        assert torch.allclose(whole[2:5], part, atol=1e-4)
        assert not torch.equal(whole[2], whole[3])
    assert torch.equal(features.vectors, backend.features(images).vectors)
    save_backend(Path("model.safetensors"), backend, {})
    loaded = load_backend("model.safetensors", device="cpu").backend
    assert torch.equal(features.vectors, loaded.features(images).vectors)


def _flat(features: Features) -> tuple[torch.Tensor, ...]:
    return (features.vectors, *features.maps)


@pytest.mark.parametrize(("family", "preset"), cases_that_differ_when_small())
def test_class_scores(family: str, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    assert build_backend(small(family, preset)).eval().class_scores(torch.zeros(2, 3, 16, 16)) is None
    backend = build_backend(small(family, preset, classes=True)).eval()
    images, _ = random_images(backend.config)
    if isinstance(backend, GanBackend):
        assert backend.class_scores(images) is None and backend.limitation("classes")
        if backend.encoder is None:  # the textbook's
            return
        monkeypatch.setattr(SearchBudget, "for_cost", lambda *arguments: SMALL_SEARCH)
        backend.encoder.trained.fill_(1)
    assert backend.limitation("classes") == ""
    scores = backend.class_scores(images)
    assert scores is not None and scores.shape == (8, 3) and torch.isfinite(scores).all()
    assert torch.equal(backend.invert(images).labels, scores.argmax(1))
    alone = backend.class_scores(images[2:5])
    assert alone is not None and torch.allclose(scores[2:5], alone, atol=1e-3)
    if preset == "dense":
        return
    mask = torch.zeros(8, 1, 16, 16)
    mask[:, :, 4:, :] = 1
    masked = backend.class_scores(images, mask)
    other = torch.where(mask > 0, torch.randn_like(images), images)
    assert masked is not None and torch.allclose(backend.class_scores(other, mask), masked, atol=1e-3)
    if family != "transformer":  # untrained encoders of masked images guess
        return
    # Where nothing is known of an image, the classes are as likely as they were frequent.
    unknown = backend.class_scores(images[:1], torch.ones(1, 1, 16, 16))
    assert unknown is not None
    assert torch.allclose(unknown.softmax(1), torch.tensor([[0.5, 0.3, 0.2]]), atol=1e-4)


def test_hardened_alpha_has_a_gradient() -> None:
    images = torch.tensor([0.5, -0.5, 0.1, 0.2]).view(1, 4, 1, 1).repeat(1, 1, 1, 2)
    images[..., 1] *= -1
    images.requires_grad_(True)
    hardened = harden_alpha(images)
    assert hardened.flatten(2)[0].T.tolist() == [[0.5, -0.5, pytest.approx(0.1), 1], [1, 1, 1, -1]]
    (gradient,) = torch.autograd.grad(hardened[:, 3].sum() + hardened[:, :3].sum(), images)
    # Colors where they are visible; alpha by itself, and by the colors that it lets show instead of white.
    assert gradient.flatten(2)[0].T.tolist() == [
        [1, 1, 1, pytest.approx(1 + (0.1 - 3) / 2)],
        [0, 0, 0, pytest.approx(1 + (-0.1 - 3) / 2)],
    ]
