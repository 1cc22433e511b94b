"""A small VAE configuration, images of bars that it learns in seconds, and training on them."""

from collections.abc import Callable, Sequence

import torch

from imggen.models import build_learner, presets
from imggen.models.vae.config import VaeConfig
from imggen.models.vae.learner import VaeLearner

SMALL = {"size": 16, "channels": 1, "width": 8, "max_width": 16, "z": 3, "depth": 0.01, "mixtures": 3}
# Adam alone: it needs no more than these few steps.
ADAM_ONLY = {"muon_rate": 0.0, "weight_decay": 0.0}
# Learns bars in seconds.
QUICK = {
    "width": 16,
    "max_width": 16,
    "z": 4,
    "likelihood": "gaussian",
    "learning_rate": 1e-2,
    "warm_up": 0.5,
    **ADAM_ONLY,
}
CLASSES = {"classes": ("upright", "level"), "class_counts": (1, 1)}


def small_config(**values: object) -> VaeConfig:
    config = presets("vae")["tiny"].with_overrides(**{**SMALL, **values})
    assert isinstance(config, VaeConfig)
    return config


def vae_learner(config: VaeConfig, seed: int = 0) -> VaeLearner:
    torch.manual_seed(seed)
    learner = build_learner(config)
    assert isinstance(learner, VaeLearner)
    return learner


def bars(count: int, seed: int = 0, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft bright bars on a dark ground, upright (class 0) or level (class 1): one half determines the other."""
    generator = torch.Generator().manual_seed(seed)
    position = torch.randint(2, size - 4, (count,), generator=generator)
    labels = torch.randint(0, 2, (count,), generator=generator)
    along = torch.arange(size)
    bright = torch.exp(-((along - position[:, None]) / 1.5).square())
    upright = bright[:, None, :].expand(-1, size, -1)
    images = torch.where(labels.view(-1, 1, 1).bool(), upright.transpose(1, 2), upright)
    return images.unsqueeze(1) * 1.6 - 0.8, labels


def train_on_bars(config: VaeConfig, steps: int, *, batch: int = 16, labeled: bool = False) -> VaeLearner:
    learner = vae_learner(config)
    for index in range(steps):
        torch.manual_seed(index)
        images, labels = bars(batch, seed=index)
        learner.step(images, labels if labeled else None, index / steps, index * batch)
    return learner


def assert_resumes_bit_exactly(
    config: VaeConfig, run: Callable[[VaeLearner, int, int], None], pauses: Sequence[int]
) -> VaeLearner:
    """A training of twelve steps has the same state to the last bit if it is resumed after any of `pauses` steps.

    `run(learner, first, last)` runs some of the steps. Returns the learner that ran through.
    """
    learner = vae_learner(config)
    learner.to(torch.device("cpu"))  # in the memory layout of a training run
    states, done = {}, 0
    for pause in (*pauses, 12):
        run(learner, done, pause)
        tensors, document = learner.state()
        states[pause], done = ({name: value.clone() for name, value in tensors.items()}, document), pause
    expected_tensors, expected_document = states[12]
    for pause in pauses:
        resumed = vae_learner(config, seed=pause)
        resumed.to(torch.device("cpu"))
        resumed.load_state(*states[pause])
        run(resumed, pause, 12)
        tensors, document = resumed.state()
        assert document == expected_document and tensors.keys() == expected_tensors.keys()
        for name, value in expected_tensors.items():
            assert torch.equal(value, tensors[name]), (pause, name)
    return learner
