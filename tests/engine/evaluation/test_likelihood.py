"""sample --from and --near, evaluate and train with a model that has an encoder and a likelihood."""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imggen.engine.checkpoints import save_backend
from imggen.engine.evaluation import run as evaluate
from imggen.engine.options import EvaluateOptions
from imggen.errors import UsageError
from imggen.io.image import read_info
from imggen.models import build_backend, presets
from imggen.models.base import Backend
from imggen.reporting import Silent
from tests.helpers import run_cli

pytestmark = pytest.mark.usefixtures("few_resamples")
SMALL = {"size": 16, "width": 8, "max_width": 8, "z": 2, "depth": 0.01, "mixtures": 2}
Make = Callable[..., Backend]
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def make() -> Make:
    """Write an untrained model to vae.safetensors, or FAMILY.safetensors."""

    def model(family: str = "vae", **more: Any) -> Backend:
        torch.manual_seed(0)
        values = SMALL if family == "vae" else {"size": 16, "width": 8, "max_width": 16}
        backend = build_backend(presets(family)["tiny"].with_overrides(**{**values, **more})).eval()
        save_backend(Path(f"{family}.safetensors"), backend, {})
        return backend

    return model


@pytest.fixture
def split_folder(image_folder: Path) -> Path:
    """Data of 48 images with held-out images, here the same ones."""
    for split in ("train", "test"):
        ignored = shutil.ignore_patterns("*[124578].png")
        shutil.copytree(image_folder, Path("data") / split, ignore=ignored)
    return Path("data")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line on the CPU; returns exit code, stdout and stderr."""
    return lambda *words: run_cli(capsys, *words, "--quiet", "--device", "cpu")


def assert_command_reproduces(cli: Cli, name: str, flag: str) -> None:
    """The command stored in a file makes the file again, byte for byte."""
    info, first = read_info(Path(name)), Path(name).read_bytes()
    assert info is not None and flag in info["command"]
    Path(name).unlink()
    assert cli(*shlex.split(info["command"])[1:])[0] == 0 and Path(name).read_bytes() == first


@pytest.mark.slow
def test_bits_bounds_and_layers(cli: Cli, make: Make, split_folder: Path) -> None:
    backend = make()
    options = EvaluateOptions(
        model="vae.safetensors", data=str(split_folder), count=20, device="cpu", iw=20, output=Path("r.html"), seed=1
    )
    document = evaluate(options, Silent())
    figures = document["metrics"]
    assert {"bits", "bits_iw", "bits_png", "bits_webp"} <= set(figures)
    assert figures["bits_iw"]["value"] < figures["bits"]["value"]
    assert [layer["name"] for layer in document["layers"]] == [layer.name for layer in backend.core.layers]
    assert all(layer["used"] == (layer["nats"] >= 0.1) for layer in document["layers"])
    page = Path("r.html").read_text(encoding="utf-8")
    assert "importance-weighted" in page and document["layers"][0]["name"] in page
    exit_code, out, _ = cli("evaluate", "vae.safetensors", "--data", split_folder, "-n", 12)
    assert exit_code == 0
    assert "unused layers:" in out and "bits_webp" in out
    exit_code, out, _ = cli("evaluate", "vae.safetensors", "--data", split_folder, "-n", 12, "--json", "--iw", 3)
    assert exit_code == 0 and json.loads(out)["iw"] == 3
    # --iw and --output do not change the other metrics.
    options = EvaluateOptions(model="vae.safetensors", data=str(split_folder), count=20, device="cpu", seed=1)
    plain = evaluate(options, Silent())
    assert plain["metrics"]["bits"]["value"] == pytest.approx(figures["bits"]["value"], abs=1e-9)
    assert plain["layers"] == document["layers"]


@pytest.mark.slow
def test_nats_of_binarized_images(make: Make, split_folder: Path) -> None:
    """A model whose every probability is one half has log 2 nats per value."""
    backend = make(likelihood="bernoulli", channels=1)
    with torch.no_grad():
        for name, parameter in backend.named_parameters():
            if "head" in name or "posteriors" in name:
                parameter.zero_()
    save_backend(Path("vae.safetensors"), backend, {})
    options = EvaluateOptions(model="vae.safetensors", data=str(split_folder), count=20, device="cpu", iw=2)
    figures = evaluate(options, Silent())["metrics"]
    assert figures["nats"]["value"] == pytest.approx(256 * np.log(2), abs=0.1)
    assert figures["nats_iw"]["value"] == pytest.approx(256 * np.log(2), abs=0.1)
    make(likelihood="bernoulli", channels=1)  # one that depends on the images
    one, other = (evaluate(replace(options, iw=iw), Silent())["metrics"]["nats"]["value"] for iw in (None, 3))
    assert one == pytest.approx(other, abs=1e-6)
    assert not any(name.startswith("bits") for name in figures)


def test_iw_needs_layers_of_latents(make: Make, image_folder: Path) -> None:
    make("gan")
    for model, word in (("gan.safetensors", "a gan has no"), (str(image_folder), "has no likelihood")):
        with pytest.raises(UsageError, match=word):
            evaluate(EvaluateOptions(model=model, data=str(image_folder), count=20, device="cpu", iw=5), Silent())


@pytest.mark.slow
@pytest.mark.usefixtures("few_pairs")
def test_training_on_binarized_images_of_28_pixels(cli: Cli, image_folder: Path) -> None:
    words = ["--data", image_folder, "--size", 28, "--channels", 1, "--likelihood", "bernoulli", "--preset", "tiny"]
    small = ["--width", 8, "--max-width", 8, "--depth", 0.1, "--images", 32, "--batch", 16, "-o", "run"]
    assert cli("train", "vae", *words, *small)[0] == 0
    assert "nats" in Path("run/metrics.jsonl").read_text(encoding="utf-8")
    assert cli("train", "vae", *words, *small, "--force", "--encoder", "16x2,16d3")[0] == 2
