"""Training on images that are decoded on the fly equals training on decoded ones, resumed or not."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from imggen.engine.options import TrainOptions
from imggen.engine.training.plan import make_plan
from imggen.engine.training.training_run import TrainingRun
from imggen.reporting import Silent


def new_run(cache: str) -> TrainingRun:
    options = TrainOptions(
        family="gan",
        data="imgs",
        size=16,
        batch=16,
        seed=3,
        mirror=True,
        images=1_000,
        cache=cache,
        overrides={"width": 8, "max_width": 16},
    )
    return TrainingRun(make_plan(options, Silent()), Silent())


def steps(run: TrainingRun, count: int) -> TrainingRun:
    for _ in range(count):
        run.step(run.images / 1_000)
    return run


def tensors(run: TrainingRun) -> dict[str, Tensor]:
    """Weights, their average and the optimizers' state."""
    return run.learner.state()[0]


@pytest.mark.usefixtures("image_folder")
def test_on_the_fly_equals_the_cache_also_when_resumed() -> None:
    expected = tensors(steps(new_run("disk"), 5))
    live = steps(new_run("none"), 3)
    assert live.plan.dataset.on_the_fly
    resumed = new_run("none")
    resumed.learner.load_state(*live.learner.state())
    resumed.steps, resumed.images = live.steps, live.images
    for run in (steps(live, 2), steps(resumed, 2)):
        assert tensors(run).keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(run).items())
        run.plan.dataset.close()
    assert not list(Path("cache").glob(".*/"))
