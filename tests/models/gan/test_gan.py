"""What only the GAN has: its rule for gamma, inversion by search, the networks of DCGAN and R3GAN."""

import pytest
import torch
from torch import nn

from imggen.errors import UsageError
from imggen.models import build_backend, build_learner, presets
from imggen.models.gan import dcgan, r3gan
from imggen.models.gan.backend import GanBackend
from imggen.models.gan.config import GanConfig
from imggen.models.gan.inversion import SearchBudget
from imggen.models.gan.learner import GanLearner
from imggen.models.transfer import transfer


def config(preset: str = "tiny", **more: object) -> GanConfig:
    small = presets("gan")[preset].with_overrides(**{"size": 16, "channels": 1, "width": 8, "max_width": 16, **more})
    assert isinstance(small, GanConfig)
    return small


def learner_of(config: GanConfig) -> GanLearner:
    learner = build_learner(config)
    assert isinstance(learner, GanLearner)
    return learner


@pytest.mark.parametrize(
    ("size", "batch", "first", "last"), [(32, 512, 0.05, 0.005), (64, 256, 2.0, 0.2), (256, 256, 150.0, 15.0)]
)
def test_the_rule_for_gamma_is_near_the_published(size: int, batch: int, first: float, last: float) -> None:
    given = config("base", size=size)
    for progress, published in ((0.0, first), (1.0, last)):
        assert 0.4 < 2 * given.penalty_weight(batch, progress) / published < 2.5
    assert config("dcgan").penalty_weight(64, 0.0) == 0


@pytest.mark.parametrize(("size", "rise"), [(32, 1.0), (64, 4.0)])
def test_the_penalty_of_a_large_dcgan_rises(size: int, rise: float) -> None:
    first, middle, last = (config(size=size).penalty_weight(8, progress) for progress in (0.0, 0.5, 1.0))
    assert middle == pytest.approx(first * rise**0.5) and last == pytest.approx(first * rise)


@pytest.mark.parametrize(("preset", "size", "low", "high"), [("large", 64, 22e6, 23e6), ("base", 32, 5e6, 6.5e6)])
def test_networks_have_the_published_size(preset: str, size: int, low: float, high: float) -> None:
    given = presets("gan")[preset].with_overrides(size=size, channels=3)
    for part in (r3gan.Generator, r3gan.Discriminator):
        with torch.device("meta"):
            network = part(given)
        assert low < sum(p.numel() for p in network.parameters()) < high


@pytest.mark.parametrize("size", [16, 24, 32, 40, 48, 56, 64, 96, 128, 256, pytest.param(512, marks=pytest.mark.slow)])
def test_every_size_can_be_built(size: int) -> None:
    for preset in presets("gan"):
        given = presets("gan")[preset].with_overrides(size=size)
        with torch.device("meta"):
            backend = build_backend(given).eval()
            generated = backend.generate(torch.randn(2, given.z_dim))
            shape = backend.discriminator(generated).shape
            encoder = backend.encoder
            encoded = None if encoder is None else encoder(generated, torch.ones(2, 1, size, size))
        assert generated.shape == (2, 3, size, size) and shape == (2,)
        assert (encoded is None) == (preset == "dcgan")
        assert encoded is None or encoded.z.shape == (2, given.z_dim)


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
    images = r3gan.Generator(given)(torch.randn(64, given.z_dim))
    logits = r3gan.Discriminator(given)(torch.randn(64, 3, 32, 32))
    assert 0.2 < images.std() < 5 and 0.01 < logits.std() < 5


def test_few_images_get_more_augmentation_and_sooner() -> None:
    limits = []
    for count in (300, 3_000, 30_000, 3_000_000):
        learner = learner_of(config(augment=0.5))
        learner.set_dataset_size(count)
        assert learner.augmentation.strength == 0
        limits.append((learner.augmentation.limit, learner.augmentation.ramp_images))
    assert limits == [(0.5, 30_000), (0.5, 300_000), (0.25, 500_000), (0.0, 500_000)]


def test_augmentation_strength_is_part_of_the_state() -> None:
    first, again = learner_of(config()), learner_of(config())
    first.augmentation.update(1.0, 10_000)
    again.load_state(*first.state())
    assert again.augmentation.strength == first.augmentation.strength > 0
    assert again.augmentation.mean_sign == first.augmentation.mean_sign


def test_augmentation_is_limited_anew_when_the_data_set_has_grown() -> None:
    learner = learner_of(config(augment=0.5))
    learner.set_dataset_size(300)
    learner.augmentation.strength = 0.4
    grown = learner_of(config(augment=0.5))
    grown.set_dataset_size(300_000)
    grown.load_state(*learner.state())
    assert grown.augmentation.strength == 0.0


@pytest.fixture(scope="module")
def conditional() -> GanBackend:
    """A model of images that are either dark or bright: two classes that are easy to tell apart."""
    torch.manual_seed(0)
    classes = {"classes": ("dark", "bright"), "class_counts": (1, 1)}
    given = config(learning_rate=2e-3, augment=0.0, encoder_fraction=0.0, **classes)
    learner = build_learner(given)
    labels = torch.arange(32) % 2
    for index in range(120):
        torch.manual_seed(index)
        images = (labels * 1.2 - 0.6)[:, None, None, None] + 0.3 * torch.rand(32, 1, 1, 16)
        images = images.expand(-1, -1, 16, -1).contiguous(memory_format=torch.channels_last)
        learner.step(images, labels, index / 120, index * 32)
    backend = learner.backend
    assert isinstance(backend, GanBackend)
    return backend


@pytest.fixture
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the budget that networks of this size have."""
    monkeypatch.setattr(SearchBudget, "for_cost", lambda *arguments: SearchBudget(128, 4, 20, 60))


@pytest.mark.slow
@pytest.mark.usefixtures("short_search")
def test_inversion_recovers_class_and_noise(conditional: GanBackend) -> None:
    torch.manual_seed(1)
    labels = torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        images = conditional.generate(torch.randn(4, *conditional.noise_shape), labels)
    inversion = conditional.invert(images)
    assert inversion.labels is not None and torch.equal(inversion.labels, labels)
    with torch.no_grad():
        again = conditional.generate(*inversion)
        others = torch.stack([conditional.generate(torch.randn(4, *conditional.noise_shape), labels) for _ in range(8)])
    # Much nearer than the nearest of a few other samples of the class.
    chance = (others - images).square().flatten(2).mean(2).min(0).values
    assert ((again - images).square().flatten(1).mean(1) < 0.3 * chance).all()
    with pytest.raises(ValueError, match="labels"):
        conditional.invert(images, torch.tensor([0]))
    # Half of the image decides the class, too, and the other half is inpainted from it.
    mask = torch.zeros(4, 1, 16, 16)
    mask[..., 8:] = 1
    filled = conditional.inpaint(images * (1 - mask), mask, torch.randn(4, *conditional.noise_shape))
    assert torch.equal(filled * (1 - mask), images * (1 - mask))
    assert (filled - images).square().mean() < 0.4 * chance.mean()
    # Given labels are kept.
    assert torch.equal(conditional.invert(images, 1 - labels).labels, 1 - labels)


def test_filter_norms_are_kept_with_normalize() -> None:
    """Directions change; without the option norms change, too. BatchNorm's gains are no filters."""
    for normalize in (True, False):
        torch.manual_seed(0)
        learner = learner_of(config(normalize=normalize, learning_rate=1e-2))
        for network in (learner.model, learner.discriminator):
            dcgan.normalize_filters(network)
        first = learner.discriminator.layers[0].weight.detach().clone()
        images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        for index in range(3):
            learner.step(images, None, index / 3, index * 8)
        filters = [m for n in (learner.model, learner.discriminator) for m in n.modules() if hasattr(m, "kernel_size")]
        assert len(filters) >= 5
        rms = [
            m.weight.square().mean((0, 2, 3) if isinstance(m, torch.nn.ConvTranspose2d) else (1, 2, 3)).sqrt()
            for m in filters
        ]
        assert all(torch.allclose(value, torch.full_like(value, 0.02), rtol=1e-4) for value in rms) == normalize
        assert not torch.equal(learner.discriminator.layers[0].weight, first)
    with pytest.raises(UsageError, match="normalize"):
        presets("gan")["base"].with_overrides(normalize=True)


@pytest.mark.slow
@pytest.mark.usefixtures("short_search")
def test_a_row_of_the_search_depends_on_that_row_alone(conditional: GanBackend) -> None:
    torch.manual_seed(1)
    images = torch.rand(3, 1, 16, 16) * 2 - 1
    mask = torch.zeros(3, 1, 16, 16)
    mask[:, :, 4:12, 4:12] = 1
    noise = torch.randn(3, *conditional.noise_shape)
    together = conditional.inpaint(images, mask, noise)
    alone = conditional.inpaint(images[1:2], mask[1:2], noise[1:2])
    assert (together[1:2] - alone).abs().max() < 0.05


def test_larger_generators_get_a_smaller_search_budget() -> None:
    budgets = [SearchBudget.for_cost(cost) for cost in (1e7, 5e8, 1e10)]
    total = [one.candidates + 3 * (one.starts * one.steps + one.final_steps) for one in budgets]
    assert total[0] > total[1] > total[2]
    for one, cost in zip(budgets, total, strict=True):
        encoded = one.from_encoder()
        assert encoded.final_steps >= 1 and encoded.candidates + 3 * encoded.final_steps < 0.5 * cost


@pytest.mark.parametrize(("slim_source", "slim"), [(True, True), (True, False), (False, False)])
def test_a_new_discriminator_first_learns_alone_beside_a_trained_generator(slim_source: bool, slim: bool) -> None:
    source, learner = (learner_of(config(slim=each, encoder_fraction=0.0)) for each in (slim_source, slim))
    given = source.averaged.state_dict()
    learner.begin_from(transfer(given, learner.saved_model.state_dict()).tensors)
    resumed = learner_of(learner.config)
    resumed.load_state(*learner.state())
    images = torch.rand(4, 1, 16, 16) * 2 - 1
    for progress, alone in ((0.0, slim_source), (0.09, slim_source), (0.11, False)):
        before = {name: value.clone() for name, value in networks_of(resumed).items()}
        metrics = resumed.step(images, None, progress, 0)
        changed = {name for name, value in networks_of(resumed).items() if not torch.equal(value, before[name])}
        assert changed == ({"discriminator"} if alone else {"generator", "discriminator"})
        assert ("loss_g" in metrics) != alone


def test_nothing_learns_alone_where_the_generator_is_new_too_or_is_not_trained() -> None:
    learner = learner_of(config(slim=True))
    learner.begin_from(learner.averaged.state_dict())
    assert not learner.discriminator_is_new and not learner.beginning
    for fraction, said in ((0.05, "new discriminator"), (1.0, "")):
        learner = learner_of(config(slim=True, encoder_fraction=fraction))
        learner.begin_from(learner_of(config(slim=True)).averaged.state_dict())
        assert learner.discriminator_is_new and said in learner.beginning and bool(said) == bool(learner.beginning)


def networks_of(learner: GanLearner) -> dict[str, torch.Tensor]:
    """The weights of each network as one vector."""
    networks = {"generator": learner.model.generator, "discriminator": learner.discriminator}
    return {name: nn.utils.parameters_to_vector(network.parameters()) for name, network in networks.items()}


def test_slim_checkpoints_have_no_discriminator() -> None:
    full, slim = (learner_of(config(slim=slim)).backend for slim in (False, True))
    assert {name.split(".")[0] for name in full.state_dict()} == {"generator", "discriminator", "encoder"}
    assert {name.split(".")[0] for name in slim.state_dict()} == {"generator", "encoder"}


def test_without_a_discriminator_the_encoder_sees() -> None:
    backend = learner_of(config(slim=True)).backend
    assert backend.limitation("features") == "its file has no discriminator"
    images = torch.rand(3, *backend.config.image_shape) * 2 - 1
    with pytest.raises(UsageError, match="no discriminator"):
        backend.features(images)
    backend.encoder.trained.fill_(1)
    features = backend.features(images)
    assert backend.limitation("features") == "" and features.vectors.shape == (3, features.maps[0][0].numel())
    assert torch.allclose(backend.features(images[1:2]).vectors, features.vectors[1:2], atol=1e-5)
