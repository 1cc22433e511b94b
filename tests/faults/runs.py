"""Small trainings for the programs and tests of this folder: their command lines, and what their checkpoints hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from imggen.engine.checkpoints import load_model
from imggen.io.checkpoint import read_header, read_tensors
from tests.test_contract import SMALL as SMALL_FAMILIES

BATCH = 16
SMALL = {**SMALL_FAMILIES, "classify": {"width": 8, "mixup": 0.2}}


def make_images(folder: Path, count: int = 64, size: int = 16, *, classes: int = 1) -> None:
    """Images of random colors; of several classes, each in a folder of its own."""
    random = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        place = folder / str(index % classes) if classes > 1 else folder
        place.mkdir(parents=True, exist_ok=True)
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(place / f"{index:04d}.png")


def train_words(family: str, output: str, images: int, *, data: str = "imgs", seed: int = 3) -> list[str]:
    """A training of a model so small that a step takes hundredths of a second."""
    words = ["train", family, "--data", data, "-o", output, "--size", "16", "--batch", str(BATCH), "--device", "cpu"]
    for name, value in SMALL[family].items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return [*words, "--seed", str(seed), "--images", str(images)]


def read_state(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All of a run's state, checked, without the times."""
    header = read_header(run / "state.safetensors", kind="state")
    document = {name: value for name, value in header.document.items() if name not in ("seconds", "data_wait", "saved")}
    return read_tensors(run / "state.safetensors", header, None), document


def differences(one: Path, other: Path) -> list[str]:
    """In what two runs differ: tensors and counters of the states, and the models' hashes."""
    (tensors, document), (other_tensors, other_document) = read_state(one), read_state(other)
    names = [name for name, tensor in tensors.items() if not torch.equal(tensor, other_tensors[name])]
    names += [name for name in document if document[name] != other_document[name]]
    hashes = [load_model(str(run), device="cpu").hash for run in (one, other)]
    return names + (["hash"] if hashes[0] != hashes[1] else [])


def problems(run: Path) -> list[str]:
    """What is wrong with a run that has ended: its model, its metrics, and files that should not be there."""
    load_model(str(run), device="cpu")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    images = [line["images"] for line in lines]
    found = [] if images == sorted(set(images)) else [f"metrics at {images}"]
    return found + [f"left over: {path.name}" for path in run.rglob(".*")]
