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
from PIL import Image

from imggen.engine.checkpoints import save_backend
from imggen.engine.evaluation.evaluate import evaluate
from imggen.engine.options import EvaluateOptions
from imggen.errors import UsageError
from imggen.io.image import read_info
from imggen.models import build_backend, presets
from imggen.models.base import Backend
from imggen.reporting import Silent
from tests.helpers import run_cli

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
    """Data with held-out images, here the same ones."""
    for split in ("train", "test"):
        shutil.copytree(image_folder, Path("data") / split)
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


def test_images_beside_their_reconstructions(cli: Cli, make: Make, image_folder: Path) -> None:
    backend = make(classes=("disc", "square"), class_counts=(1, 1))
    assert cli("sample", "vae.safetensors", "--from", image_folder, "-n", 8, "-o", "side.png")[0] == 0
    with Image.open("side.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.shape[:2] == (4 * 18 + 2, 4 * 18 + 2)
    with Image.open(sorted((image_folder / "disc").glob("*.png"))[0]) as first:
        original = np.asarray(first)
    assert np.array_equal(pixels[2:18, 2:18], original)
    images = torch.from_numpy(original.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    expected = backend.reconstruct(images).add(1).mul(127.5).round().to(torch.uint8)[0].permute(1, 2, 0)
    assert np.abs(pixels[2:18, 20:36].astype(int) - expected.numpy().astype(int)).max() <= 1
    assert_command_reproduces(cli, "side.png", "--from")


def test_images_near_an_image(cli: Cli, make: Make, image_folder: Path) -> None:
    make()
    image = sorted((image_folder / "disc").glob("*.png"))[3]
    words = ("sample", "vae.safetensors", "--near", image, "--seed", 5, "-n", 8)
    assert cli(*words, "-o", "near.png")[0] == 0
    assert cli(*words, "--batch", 3, "-o", "again.png")[0] == 0
    assert cli(*words, "--temperature", 0, "-o", "cold.png")[0] == 0
    near, again, cold = (
        np.asarray(Image.open(name).convert("RGB")).astype(int) for name in ("near.png", "again.png", "cold.png")
    )
    assert np.abs(near - again).max() <= 1
    tiles = [cold[2 + 18 * (k // 3) :, 2 + 18 * (k % 3) :][:16, :16] for k in range(9)]
    assert np.array_equal(tiles[0], np.asarray(Image.open(image))) and all(
        np.array_equal(tiles[1], t) for t in tiles[2:]
    )
    tiles = [near[2 + 18 * (k // 3) :, 2 + 18 * (k % 3) :][:16, :16] for k in range(9)]
    assert len({tile.tobytes() for tile in tiles}) == 9
    info = read_info(Path("near.png"))
    assert info is not None and info["temperature"] == 0.5 and info["seeds"] == "5-12"
    assert_command_reproduces(cli, "near.png", "--near")
    assert cli(*words, "--temperature", 1, "--columns", 9, "-o", "far.png")[0] == 0
    assert_command_reproduces(cli, "far.png", "--near")


@pytest.mark.slow
def test_a_family_without_an_encoder_inverts_by_optimization(cli: Cli, make: Make, image_folder: Path) -> None:
    """`--from` and `--near` work with a GAN too."""
    make("gan", classes=("disc", "square"), class_counts=(1, 1))
    assert cli("sample", "gan.safetensors", "--from", image_folder / "disc", "-n", 2, "-o", "side.png")[0] == 0
    image = sorted((image_folder / "disc").glob("*.png"))[0]
    assert cli("sample", "gan.safetensors", "--near", image, "-n", 3, "--temperature", 0, "-o", "near.png")[0] == 0
    tiles = np.asarray(Image.open("near.png").convert("RGB"))
    assert tiles.shape == (38, 38, 3) and np.array_equal(tiles[20:36, 2:18], tiles[20:36, 20:36])
    assert not np.array_equal(tiles[2:18, 2:18], tiles[2:18, 20:36])


def test_errors_are_one_clear_line(cli: Cli, make: Make, image_folder: Path) -> None:
    make()
    image = sorted((image_folder / "disc").glob("*.png"))[0]
    Path("text.png").write_text("not an image", encoding="utf-8")
    for words, code, text in (
        (("vae.safetensors", "--from", image_folder, "-o", "folder/"), 2, "one sheet"),
        (("vae.safetensors", "--from", image_folder, "--near", image), 2, "--from"),
        (("vae.safetensors", "--from", image_folder, "--seed", 3), 2, "--from"),
        (("vae.safetensors", "--near", image_folder), 3, "is not a"),
        (("vae.safetensors", "--from", "text.png"), 3, "can be read"),
        (("vae.safetensors", "--from", "nowhere"), 3, "there is no"),
        (("vae.safetensors", "--near", image, "--class", "cat"), 2, "no classes"),
        (("vae.safetensors", "--near", image, "--temperature", 1.7), 2, "from 0 to 1"),
        (("vae.safetensors", "--near", image, "-n", 1000, "--columns", 1001), 2, "too large"),
    ):
        more = () if "-o" in words else ("-o", "out.png")
        exit_code, _, errors = cli("sample", *words, *more)
        assert exit_code == code and text in errors, words
    assert not Path("out.png").exists()


def test_dry_run_reports_the_sheet(cli: Cli, make: Make, image_folder: Path) -> None:
    make()
    words = ("sample", "vae.safetensors", "-n", 5, "-o", "out.png", "--json", "--dry-run")
    exit_code, out, _ = cli(*words, "--from", image_folder)
    plan = json.loads(out)
    assert exit_code == 0
    assert plan["count"] == 5 and plan["from"] == str(image_folder) and "seeds" not in plan and plan["columns"] % 2 == 0
    assert cli(*words, "--from", "nowhere")[:2] == (3, "")
    image = sorted((image_folder / "disc").glob("*.png"))[0]
    exit_code, out, _ = cli(*words, "--near", image, "--seed", 3)
    plan = json.loads(out)
    assert exit_code == 0
    assert plan["near"] == str(image) and plan["seeds"] == "3-7" and plan["columns"] == 3
    assert not Path("out.png").exists()


@pytest.mark.slow
def test_bits_bounds_and_layers(cli: Cli, make: Make, split_folder: Path) -> None:
    backend = make()
    options = EvaluateOptions(
        model="vae.safetensors", data=str(split_folder), count=20, device="cpu", iw=20, output=Path("r.html"), seed=1
    )
    document = evaluate(options, Silent())
    figures = document["figures"]
    assert {"bits", "bits_iw", "bits_png", "bits_webp"} <= set(figures)
    assert figures["bits_iw"]["value"] < figures["bits"]["value"]
    assert [layer["name"] for layer in document["layers"]] == [layer.name for layer in backend.core.layers]
    assert all(layer["used"] == (layer["nats"] >= 0.1) for layer in document["layers"])
    page = Path("r.html").read_text(encoding="utf-8")
    assert "importance-weighted" in page and document["layers"][0]["name"] in page
    exit_code, out, _ = cli("evaluate", "vae.safetensors", "--data", split_folder, "-n", 20)
    assert exit_code == 0
    assert "unused layers:" in out and "bits_webp" in out
    exit_code, out, _ = cli("evaluate", "vae.safetensors", "--data", split_folder, "-n", 20, "--json", "--iw", 3)
    assert exit_code == 0 and json.loads(out)["iw"] == 3
    # --iw and --output do not change the other metrics.
    options = EvaluateOptions(model="vae.safetensors", data=str(split_folder), count=20, device="cpu", seed=1)
    plain = evaluate(options, Silent())
    assert plain["figures"]["bits"]["value"] == pytest.approx(figures["bits"]["value"], abs=1e-9)
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
    figures = evaluate(options, Silent())["figures"]
    assert figures["nats"]["value"] == pytest.approx(256 * np.log(2), abs=0.1)
    assert figures["nats_iw"]["value"] == pytest.approx(256 * np.log(2), abs=0.1)
    make(likelihood="bernoulli", channels=1)  # one that depends on the images
    one, other = (evaluate(replace(options, iw=iw), Silent())["figures"]["nats"]["value"] for iw in (None, 3))
    assert one == pytest.approx(other, abs=1e-6)
    assert not any(name.startswith("bits") for name in figures)


def test_iw_needs_layers_of_latents(make: Make, image_folder: Path) -> None:
    make("gan")
    for model, word in (("gan.safetensors", "a gan has no"), (str(image_folder), "have no")):
        with pytest.raises(UsageError, match=word):
            evaluate(EvaluateOptions(model=model, data=str(image_folder), count=20, device="cpu", iw=5), Silent())


def test_training_on_binarized_images_of_28_pixels(cli: Cli, image_folder: Path) -> None:
    words = ["--data", image_folder, "--size", 28, "--channels", 1, "--likelihood", "bernoulli", "--preset", "tiny"]
    small = ["--width", 8, "--max-width", 8, "--depth", 0.1, "--images", 32, "--batch", 16, "-o", "run"]
    assert cli("train", "vae", *words, *small)[0] == 0
    assert "nats" in Path("run/metrics.jsonl").read_text(encoding="utf-8")
    assert cli("train", "vae", *words, *small, "--force", "--encoder", "16x2,16d3")[0] == 2
