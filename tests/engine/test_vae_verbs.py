"""What evaluate and train do with a family that has a likelihood."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imggen.cli.app import main
from imggen.engine.checkpoints import save_backend
from imggen.engine.evaluation.evaluate import evaluate
from imggen.engine.options import EvaluateOptions
from imggen.engine.run_dir import RunDir
from imggen.errors import UsageError
from imggen.io.checkpoint import read_header, read_tensors, write_checkpoint
from imggen.models import build_backend, presets
from imggen.models.base import Backend
from imggen.reporting import Silent

SMALL = {"size": 16, "width": 8, "max_width": 8, "z": 2, "depth": 0.01, "mixtures": 2}
Make = Callable[..., Backend]


@pytest.fixture
def make() -> Make:
    """Write vae.safetensors with fresh weights."""

    def model(family: str = "vae", **more: Any) -> Backend:
        torch.manual_seed(0)
        values = SMALL if family == "vae" else {"size": 16, "width": 8, "max_width": 16}
        backend = build_backend(presets(family)["tiny"].with_overrides(**{**values, **more})).eval()
        save_backend(Path(f"{family}.safetensors"), backend, {})
        return backend

    return model


@pytest.fixture
def divided(image_folder: Path) -> Path:
    """Data with held-out pictures; here the same ones."""
    for split in ("train", "test"):
        shutil.copytree(image_folder, Path("data") / split)
    return Path("data")


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([*map(str, words), "--quiet", "--device", "cpu"])
    return int(caught.value.code or 0)


def test_bits_bounds_and_layers(make: Make, divided: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backend = make()
    given = EvaluateOptions(
        model="vae.safetensors", data=str(divided), count=20, device="cpu", iw=20, output=Path("r.html"), seed=1
    )
    document = evaluate(given, Silent())
    figures = document["figures"]
    assert {"bits", "bits_iw", "bits_png", "bits_webp"} <= set(figures)
    assert figures["bits_iw"]["value"] < figures["bits"]["value"]
    assert [layer["name"] for layer in document["layers"]] == [layer.name for layer in backend.core.layers]
    assert all(layer["used"] == (layer["nats"] >= 0.1) for layer in document["layers"])
    page = Path("r.html").read_text(encoding="utf-8")
    assert "importance-weighted" in page and document["layers"][0]["name"] in page
    assert call("evaluate", "vae.safetensors", "--data", divided, "-n", 20) == 0
    out = capsys.readouterr().out
    assert "unused layers:" in out and "bits_webp" in out
    assert call("evaluate", "vae.safetensors", "--data", divided, "-n", 20, "--json", "--iw", 3) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["iw"] == 3
    # What else is asked for changes no figure beside it.
    options = EvaluateOptions(model="vae.safetensors", data=str(divided), count=20, device="cpu", seed=1)
    plain = evaluate(options, Silent())
    assert plain["figures"]["bits"]["value"] == pytest.approx(figures["bits"]["value"], abs=1e-9)
    assert plain["layers"] == document["layers"]


def test_nats_of_binarised_pictures(make: Make, divided: Path) -> None:
    """A model that knows nothing, at half grey everywhere: log 2 a value."""
    backend = make(likelihood="bernoulli", channels=1)
    with torch.no_grad():
        for name, parameter in backend.named_parameters():
            if "head" in name or "posteriors" in name:
                parameter.zero_()
    save_backend(Path("vae.safetensors"), backend, {})
    options = EvaluateOptions(model="vae.safetensors", data=str(divided), count=20, device="cpu", iw=2)
    figures = evaluate(options, Silent())["figures"]
    assert figures["nats"]["value"] == pytest.approx(256 * np.log(2), abs=0.1)
    assert figures["nats_iw"]["value"] == pytest.approx(256 * np.log(2), abs=0.1)
    make(likelihood="bernoulli", channels=1)  # one that says something of them
    one, other = (evaluate(replace(options, iw=iw), Silent())["figures"]["nats"]["value"] for iw in (None, 3))
    assert one == pytest.approx(other, abs=1e-6)
    assert not any(name.startswith("bits") for name in figures)


def test_a_bound_that_a_family_does_not_have(make: Make, image_folder: Path) -> None:
    make("gan")
    for model, word in (("gan.safetensors", "a gan has no"), (str(image_folder), "pictures have no")):
        with pytest.raises(UsageError, match=word):
            evaluate(EvaluateOptions(model=model, data=str(image_folder), count=20, device="cpu", iw=5), Silent())


def test_binarised_pictures_of_28_pixels_train(image_folder: Path) -> None:
    words = ["--data", image_folder, "--size", 28, "--channels", 1, "--likelihood", "bernoulli", "--preset", "tiny"]
    small = ["--width", 8, "--max-width", 8, "--depth", 0.1, "--images", 32, "--batch", 16, "-o", "run"]
    assert call("train", "vae", *words, *small) == 0
    assert "nats" in Path("run/metrics.jsonl").read_text(encoding="utf-8")
    assert call("train", "vae", *words, *small, "--force", "--encoder", "16x2,16d3") == 2


def test_a_run_of_before_an_option_was_there_goes_on(image_folder: Path) -> None:
    """Its files say nothing of `around`, which it had none of."""
    small = ["--width", 8, "--max-width", 8, "--depth", 0.1, "--mixtures", 2, "--around", 0, "--batch", 16]
    words = ["train", "vae", "--data", image_folder, "-o", "run"]
    assert call(*words, *small, "--images", 32) == 0
    path = RunDir(Path("run")).state
    header = read_header(path)
    tensors = read_tensors(path, header, None)
    document = json.loads(json.dumps(header.document))
    del document["config"]["around"]
    write_checkpoint(path, tensors, document, kind="state")
    assert call(*words, "--resume", "--images", 64, "--around", 1) == 2
    assert call(*words, "--resume", "--images", 64) == 0
    assert read_header(RunDir(Path("run")).weights).document["config"]["around"] == 0
