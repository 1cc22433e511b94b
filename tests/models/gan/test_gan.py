"""What only the GAN has: its rule for the penalty, the search that runs it backwards, its two shapes of networks."""

import pytest
import torch

from imggen.errors import UsageError
from imggen.models import build_backend, build_learner, presets
from imggen.models.gan import dcgan as networks
from imggen.models.gan import r3gan as residual
from imggen.models.gan.backend import GanBackend
from imggen.models.gan.config import GanConfig
from imggen.models.gan.inversion import Effort
from imggen.models.gan.learner import GanLearner


def config(preset: str = "tiny", **more: object) -> GanConfig:
    found = presets("gan")[preset].with_overrides(**{"size": 16, "channels": 1, "width": 8, "max_width": 16, **more})
    assert isinstance(found, GanConfig)
    return found


@pytest.mark.parametrize(
    ("size", "batch", "first", "last"), [(32, 512, 0.05, 0.005), (64, 256, 2.0, 0.2), (256, 256, 150.0, 15.0)]
)
def test_the_rule_for_gamma_is_near_the_published(size: int, batch: int, first: float, last: float) -> None:
    given = config("base", size=size)
    for progress, published in ((0.0, first), (1.0, last)):
        assert 0.4 < 2 * given.penalty_weight(batch, progress) / published < 2.5
    assert config("dcgan").penalty_weight(64, 0.0) == 0


@pytest.mark.parametrize(("preset", "size", "low", "high"), [("large", 64, 22e6, 23e6), ("base", 32, 5e6, 6.5e6)])
def test_networks_have_the_published_size(preset: str, size: int, low: float, high: float) -> None:
    given = presets("gan")[preset].with_overrides(size=size, channels=3)
    for part in (residual.Generator, residual.Discriminator):
        with torch.device("meta"):
            network = part(given)
        assert low < sum(p.numel() for p in network.parameters()) < high


@pytest.mark.parametrize("size", [16, 32, 64, 128, 256, 512])
def test_every_size_can_be_built(size: int) -> None:
    for preset in presets("gan"):
        given = presets("gan")[preset].with_overrides(size=size)
        with torch.device("meta"):
            drawn = build_backend(given).eval().generate(torch.randn(2, given.z_dim))
            shape = (residual if given.blocks else networks).Discriminator(given)(drawn).shape
        assert drawn.shape == (2, 3, size, size) and shape == (2,)


def test_multiplications_are_counted() -> None:
    for preset in ("tiny", "base"):
        given = config(preset, size=32, channels=3)
        backend = build_backend(given).eval()
        counted = 0.0

        def count(layer: torch.nn.Module, given: tuple[torch.Tensor], out: torch.Tensor) -> None:
            nonlocal counted
            if isinstance(layer, torch.nn.Conv2d):
                counted += layer.weight.numel() * out[0, 0].numel()
            elif isinstance(layer, torch.nn.ConvTranspose2d):
                counted += layer.weight.numel() * given[0][0, 0].numel()

        hooks = [layer.register_forward_hook(count) for layer in backend.modules()]
        backend.generate(torch.randn(1, given.z_dim))
        for hook in hooks:
            hook.remove()
        assert 0.7 < given.multiplications / counted < 1.3


def test_residual_networks_start_at_unit_scale() -> None:
    torch.manual_seed(0)
    given = config("base", size=32, channels=3, max_width=32)
    picture = residual.Generator(given)(torch.randn(64, given.z_dim))
    logits = residual.Discriminator(given)(torch.randn(64, 3, 32, 32))
    assert 0.2 < picture.std() < 5 and 0.01 < logits.std() < 5


def test_only_differences_count_in_pairs() -> None:
    learner = build_learner(config("base"))
    assert isinstance(learner, GanLearner)
    on_real, on_fake = torch.randn(8), torch.randn(8)
    assert torch.allclose(learner._loss_d(on_real, on_fake), learner._loss_d(on_real + 3, on_fake + 3))
    alone = build_learner(config("tiny"))
    assert isinstance(alone, GanLearner)
    assert not torch.allclose(alone._loss_d(on_real, on_fake), alone._loss_d(on_real + 3, on_fake + 3))


def test_few_pictures_get_more_augmentation_and_sooner() -> None:
    found = []
    for count in (300, 3_000, 30_000, 3_000_000):
        learner = build_learner(config(augment=0.5))
        assert isinstance(learner, GanLearner)
        learner.expect(count)
        assert learner.steering.strength == 0
        found.append((learner.steering.limit, learner.steering.images))
    assert found == [(0.5, 30_000), (0.25, 300_000), (0.0, 500_000), (0.0, 500_000)]


def test_strength_is_remembered() -> None:
    first, again = build_learner(config()), build_learner(config())
    assert isinstance(first, GanLearner) and isinstance(again, GanLearner)
    first.steering.update(1.0, 10_000)
    again.load_state(*first.state())
    assert again.steering.strength == first.steering.strength > 0
    assert again.steering.signs == first.steering.signs


def trained(classes: bool) -> GanBackend:
    """A model whose classes are told apart at a glance: dark and bright."""
    names, counts = (("dark", "bright"), (1, 1)) if classes else ((), ())
    torch.manual_seed(0)
    learner = build_learner(config(classes=names, class_counts=counts, learning_rate=2e-3, augment=0.0))
    labels = torch.arange(32) % 2
    for index in range(120):
        torch.manual_seed(index)
        images = (labels * 1.2 - 0.6)[:, None, None, None] + 0.3 * torch.rand(32, 1, 1, 16)
        images = images.expand(-1, -1, 16, -1).contiguous(memory_format=torch.channels_last)
        learner.step(images, labels if classes else None, index / 120, index * 32)
    backend = learner.backend
    assert isinstance(backend, GanBackend)
    return backend


def test_the_search_finds_class_and_noise() -> None:
    backend = trained(classes=True)
    labels = torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        images = backend.generate(torch.randn(4, *backend.noise_shape), labels)
    found = backend.likely_labels(images)
    assert found is not None and torch.equal(found, labels)
    with torch.no_grad():
        again = backend.generate(backend.invert(images), labels)
        others = torch.stack([backend.generate(torch.randn(4, *backend.noise_shape), labels) for _ in range(8)])
    # Far nearer than the nearest of a few other draws of the class is.
    chance = (others - images).square().flatten(2).mean(2).min(0).values
    assert ((again - images).square().flatten(1).mean(1) < 0.3 * chance).all()
    with pytest.raises(ValueError, match="labels"):
        backend.invert(images, torch.tensor([0]))
    half = torch.zeros(4, 1, 16, 16)
    half[..., 8:] = 1
    found = backend.likely_labels(images * (1 - half), half)
    assert found is not None and torch.equal(found, labels)
    filled = backend.inpaint(images * (1 - half), half, torch.randn(4, *backend.noise_shape))
    assert torch.equal(filled * (1 - half), images * (1 - half))
    assert (filled - images).square().mean() < 0.4 * chance.mean()


def test_lengths_of_filters_are_held() -> None:
    """And directions are not; without it lengths move. BatchNorm's gains are no filters."""
    for hold in (True, False):
        torch.manual_seed(0)
        learner = build_learner(config(normalise=hold, learning_rate=1e-2))
        assert isinstance(learner, GanLearner)
        for network in (learner.model, learner.discriminator):
            networks.hold_lengths(network)
        first = learner.discriminator.layers[0].weight.detach().clone()
        images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        for index in range(3):
            learner.step(images, None, index / 3, index * 8)
        filters = [m for n in (learner.model, learner.discriminator) for m in n.modules() if hasattr(m, "kernel_size")]
        assert len(filters) >= 5
        spread = [
            m.weight.square().mean((0, 2, 3) if isinstance(m, torch.nn.ConvTranspose2d) else (1, 2, 3)).sqrt()
            for m in filters
        ]
        assert all(torch.allclose(s, torch.full_like(s, 0.02), rtol=1e-4) for s in spread) == hold
        assert not torch.equal(learner.discriminator.layers[0].weight, first)
    with pytest.raises(UsageError, match="normalise"):
        presets("gan")["base"].with_overrides(normalise=True)


def test_grown_data_take_augmentation_back() -> None:
    learner = build_learner(config(augment=0.5))
    assert isinstance(learner, GanLearner)
    learner.expect(300)
    learner.steering.strength = 0.4
    tensors, document = learner.state()
    grown = build_learner(config(augment=0.5))
    assert isinstance(grown, GanLearner)
    grown.expect(100_000)
    grown.load_state(tensors, document)
    assert grown.steering.strength == 0.0


def test_a_row_of_the_search_depends_on_that_row_alone() -> None:
    backend = trained(classes=False)
    images = torch.rand(3, 1, 16, 16) * 2 - 1
    mask = torch.zeros(3, 1, 16, 16)
    mask[:, :, 4:12, 4:12] = 1
    noise = torch.randn(3, *backend.noise_shape)
    together = backend.inpaint(images, mask, noise)
    alone = backend.inpaint(images[1:2], mask[1:2], noise[1:2])
    assert (together[1:2] - alone).abs().max() < 0.05
    assert backend.likely_labels(images) is None


def test_costly_models_are_searched_with_less_effort() -> None:
    small, middle, big = (Effort.for_cost(cost) for cost in (1e7, 5e8, 1e10))
    total = [effort.draws + 3 * (effort.starts * effort.steps + effort.more) for effort in (small, middle, big)]
    assert total[0] > total[1] > total[2]
