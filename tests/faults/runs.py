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
FAMILIES = (*SMALL_FAMILIES, "classify", "segment", "translate")
SMALL = {
    **SMALL_FAMILIES,
    "classify": {"width": 8, "mixup": 0.2},
    "segment": {"width": 8, "halvings": 2},
    "translate": {"width": 8, "halvings": 2, "critic_width": 8},
}
# Of each image of `imgs`: its mask, and another image of the same name.
TARGETS = {"segment": ("--masks", "masks"), "translate": ("--to", "others")}


def make_images(folder: Path, count: int = 64, size: int = 16, *, classes: int = 1) -> None:
    """Images of random colors; of several classes, each in a folder of its own."""
    random = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        place = folder / str(index % classes) if classes > 1 else folder
        place.mkdir(parents=True, exist_ok=True)
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(place / f"{index:04d}.png")


def make_data(family: str) -> None:
    """The folder `imgs` for a training of this family, and that of the masks or the other images."""
    make_images(Path("imgs"), classes=2 if family == "classify" else 1)
    if family in TARGETS:
        make_targets(family)


def make_targets(family: str) -> None:
    """The masks or the other images of those in `imgs`."""
    targets = Path(TARGETS[family][1])
    targets.mkdir()
    for path in sorted(Path("imgs").iterdir()):
        with Image.open(path) as image:
            red = np.asarray(image)[..., 0]
        target = (red > 127).astype(np.uint8) if family == "segment" else 255 - red
        Image.fromarray(target).save(targets / path.name)


def train_words(family: str, output: str, images: int, *, data: str = "imgs", seed: int = 3) -> list[str]:
    """A training of a model so small that a step takes hundredths of a second."""
    flag = "--from" if family == "translate" else "--data"
    words = ["train", family, flag, data, "-o", output, "--size", "16", "--batch", str(BATCH), "--device", "cpu"]
    words += TARGETS.get(family, ())
    for name, value in SMALL[family].items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return [*words, "--seed", str(seed), "--images", str(images)]


def read_state(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All of a run's state, checked, without the times and the command, which names the run."""
    header = read_header(run / "state.safetensors", kind="state")
    document = {name: value for name, value in header.document.items() if name not in ("seconds", "data_wait", "saved")}
    document["credits"] = {name: value for name, value in document["credits"].items() if name != "command"}
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
