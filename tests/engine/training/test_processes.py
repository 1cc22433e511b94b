"""Two processes with half of the batch each train what one process with the whole batch trains."""

import multiprocessing
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from imggen.data.dataset import Order
from imggen.engine.distributed import ProcessGroup
from imggen.engine.training.training_run import TrainingRun
from imggen.models import CLASSIFIER, GENERATOR, build_learner, global_batch, kind_of, presets
from imggen.models.config import ModelConfig
from imggen.models.efficientnet import VECTOR_SIZE
from imggen.models.gan.learner import GanLearner
from imggen.models.mapper.segment.config import SegmentConfig
from imggen.models.mapper.segment.learner import VOID
from imggen.models.mapper.translate.config import TranslateConfig
from tests.faults.runs import SMALL
from tests.test_contract import random_images

SIZE = 2
BATCH = 8
# The progress of each step: every stage of a family is reached.
STEPS = {"gan": (0.0, 0.3, 0.9, 0.97), "vae": (0.0, 0.2, 0.5, 0.6, 0.9), "transformer": (0.0, 0.2, 0.5, 0.6, 0.9)}
STEPS_OF_OTHERS = (0.0, 0.3, 0.9)
BACKBONE = {"name": "pretrained", "hash": "0", "dimensions": VECTOR_SIZE, "model": None}
TABLE = {"names": ["ground", "tree", "sky"]}
# What makes the steps of a preset need more than gradients: statistics over the batch, dropout, further networks.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gan": ("gan", "tiny", {}),
    "gan base": ("gan", "base", {"blocks": 1}),
    "vae": ("vae", "tiny", {"free_nats": 2.0, "sharpen": 0.3, "inpaint_fraction": 0.2}),
    "vae dense": ("vae", "dense", {"likelihood": "gaussian"}),
    "transformer": ("transformer", "tiny", {"dropout": 0.1, "adversarial": 2.0, "tokenizer_fraction": 0.7}),
    "transformer classic": ("transformer", "classic", {}),
    "classify": ("classify", "tiny", {"mixup": 0.4}),
    "classify head": ("classify", "head", {"backbone": BACKBONE}),
    "segment": ("segment", "tiny", {"table": TABLE}),
    "translate": ("translate", "tiny", {"target_channels": 4}),
    "translate pairs": ("translate", "tiny", {"paired": True, "target_channels": 1}),
    "translate noise": ("translate", "tiny", {"paired": True, "target_channels": 1, "noise": 3}),
}
Tensors = dict[str, torch.Tensor]


def config_of(name: str) -> ModelConfig:
    family, preset, overrides = CASES[name]
    config = presets(family)[preset].with_overrides(size=16, channels=3 if "backbone" in overrides else 4)
    if kind_of(family) in (GENERATOR, CLASSIFIER):
        config = config.with_overrides(classes=("ant", "bee", "owl"), class_counts=(5, 3, 2))
    return config.with_overrides(**{**SMALL[family], **overrides})


def batch_of(config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Random images with labels, or with masks of which half of the images are without a class, or with targets."""
    images, labels = random_images(config, BATCH)
    if isinstance(config, SegmentConfig):
        classes = torch.randint(len(config.pixel_classes), (BATCH, 1, 16, 16))
        classes[: BATCH // 2, :, :8] = VOID
        return torch.cat([images, classes / 127.5 - 1], 1), None
    if isinstance(config, TranslateConfig):
        return torch.cat([images, torch.rand(BATCH, config.target_channels, 16, 16) * 2 - 1], 1), None
    return images, labels


def train(name: str, rank: int, size: int) -> Tensors:
    """The state after some steps of process `rank` of `size`, in float64: the order of sums then hardly matters."""
    torch.manual_seed(3)
    learner = build_learner(config_of(name))
    for network in learner.networks.values():
        network.double()
    learner.set_dataset_size(100)
    if name.startswith("gan"):
        assert isinstance(learner, GanLearner)
        learner.augmentation.strength = 0.4
    images, labels = batch_of(learner.config)
    part = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
    with global_batch.part_of_batch(rank, size):
        for index, progress in enumerate(STEPS.get(learner.config.family, STEPS_OF_OTHERS)):
            torch.manual_seed(index)
            learner.step(images[part].double(), None if labels is None else labels[part], progress, index * BATCH)
    return learner.state()[0]


def in_float64(work: Callable[[], Any]) -> Any:
    """Compute everything in float64."""
    to_float32 = torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    try:
        return work()
    finally:
        torch.Tensor.float = to_float32  # type: ignore[method-assign]
        torch.set_default_dtype(torch.float32)


def worker(rank: int, folder: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/join", rank=rank, world_size=SIZE)
    for name in names:
        torch.save(in_float64(lambda name=name: train(name, rank, SIZE)), Path(folder) / f"{name}-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_one() -> dict[str, Tensors]:
    """The states that one process reaches, for every case."""
    return {name: in_float64(lambda name=name: train(name, 0, 1)) for name in CASES}


@pytest.fixture(scope="module")
def of_two(of_one: dict[str, Tensors], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the states that two processes reach; they are forked once torch has loaded what it needs."""
    folder = tmp_path_factory.mktemp("processes")
    # A fork starts at once; with a GPU torch cannot compute gradients in one.
    context = multiprocessing.get_context("forkserver" if torch.cuda.is_available() else "fork")
    workers = [context.Process(target=worker, args=(rank, str(folder), list(CASES))) for rank in range(SIZE)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork of a process with threads
        for process in workers:
            process.start()
    for process in workers:
        process.join(200)
        assert process.exitcode == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one_does(name: str, of_one: dict[str, Tensors], of_two: Path) -> None:
    first, second = (torch.load(of_two / f"{name}-{rank}.pt") for rank in range(SIZE))
    assert first.keys() == second.keys() == of_one[name].keys()
    for key, value in of_one[name].items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=0, atol=1e-9, msg=key)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_processes_divide_every_batch_of_one_process_without_overlap(size: int) -> None:
    def indices(rank: int, size: int, images: int) -> list[int]:
        plan = SimpleNamespace(processes=ProcessGroup(rank, size), batch=12)
        run = SimpleNamespace(plan=plan, order=Order(48, seed=1), train_rows=np.arange(48))
        return TrainingRun.rows_of_step(run, images).tolist()  # type: ignore[arg-type]

    epoch: list[int] = []
    for images in range(0, 48, 12):
        parts = [indices(rank, size, images) for rank in range(size)]
        assert {len(part) for part in parts} == {12 // size}
        batch = [index for part in parts for index in part]
        assert batch == indices(0, 1, images)
        epoch += batch
    assert sorted(epoch) == list(range(48))
