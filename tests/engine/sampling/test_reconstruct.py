"""Grids of images beside their reconstructions (--from) and of samples near an image (--near)."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imggen.engine.checkpoints import save_backend
from imggen.io.image import ImageArray, read_info
from imggen.io.pixels import from_array, to_float, to_uint8
from imggen.models.base import Backend
from imggen.models.gan.inversion import SearchBudget
from tests.helpers import run_cli, small_gan, small_vae
from tests.test_contract import SMALL_SEARCH

CLASSES: dict[str, Any] = {"classes": ("disc", "square"), "class_counts": (1, 1)}
Command = Callable[..., tuple[int, str, str]]


def saved_vae(**more: Any) -> Backend:
    """Write vae.safetensors: an untrained VAE of 16 pixels."""
    backend = small_vae(**more)
    save_backend(Path("vae.safetensors"), backend, {})
    return backend


@pytest.fixture
def sample(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `imggen sample`; returns exit code, stdout and stderr."""
    return lambda *words: run_cli(capsys, "sample", *words, "--quiet", "--device", "cpu")


def check_command(sample: Command, name: str, flag: str) -> None:
    """The command that a file carries makes it again, byte for byte."""
    info, first = read_info(Path(name)), Path(name).read_bytes()
    assert info is not None and flag in info["command"]
    Path(name).unlink()
    assert sample(*shlex.split(info["command"])[2:])[0] == 0 and Path(name).read_bytes() == first


def read_rgb(path: Path | str) -> ImageArray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def cells(sheet: ImageArray, columns: int, count: int) -> list[ImageArray]:
    """The images of 16 pixels in a grid."""
    return [sheet[2 + 18 * (k // columns) :, 2 + 18 * (k % columns) :][:16, :16] for k in range(count)]


def test_images_beside_their_reconstructions(sample: Command, image_folder: Path) -> None:
    backend = saved_vae(**CLASSES)
    assert sample("vae.safetensors", "--from", image_folder, "-n", 8, "-o", "side.png")[0] == 0
    sheet = read_rgb("side.png")
    assert sheet.shape[:2] == (4 * 18 + 2, 4 * 18 + 2)
    original = read_rgb(sorted((image_folder / "disc").glob("*.png"))[0])
    assert np.array_equal(sheet[2:18, 2:18], original)
    reconstruction = to_uint8(backend.reconstruct(to_float(from_array(original[None], "cpu"))))[0]
    assert np.abs(sheet[2:18, 20:36].astype(int) - reconstruction).max() <= 1
    check_command(sample, "side.png", "--from")


@pytest.mark.slow
def test_samples_near_an_image(sample: Command, image_folder: Path) -> None:
    saved_vae()
    path = sorted((image_folder / "disc").glob("*.png"))[3]
    words = ("vae.safetensors", "--near", path, "--seed", 5, "-n", 8)
    assert sample(*words, "-o", "near.png")[0] == 0
    assert sample(*words, "--batch", 3, "-o", "again.png")[0] == 0
    assert sample(*words, "--temperature", 0, "-o", "cold.png")[0] == 0
    near, again, cold = (read_rgb(name).astype(int) for name in ("near.png", "again.png", "cold.png"))
    assert np.abs(near - again).max() <= 1
    # At temperature 0 all samples are the reconstruction
    first, *others = cells(cold, 3, 9)
    assert np.array_equal(first, read_rgb(path)) and all(np.array_equal(others[0], other) for other in others)
    assert len({cell.tobytes() for cell in cells(near, 3, 9)}) == 9
    info = read_info(Path("near.png"))
    assert info is not None and info["temperature"] == 0.5 and info["seeds"] == "5-12"
    check_command(sample, "near.png", "--near")
    assert sample(*words, "--temperature", 1, "--columns", 9, "-o", "far.png")[0] == 0
    check_command(sample, "far.png", "--near")


@pytest.mark.slow
def test_a_family_without_an_encoder(sample: Command, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GAN searches for the noise of an image, and for its class."""
    monkeypatch.setattr(SearchBudget, "for_cost", lambda *arguments: SMALL_SEARCH)
    save_backend(Path("gan.safetensors"), small_gan(class_counts=(1, 1), gain=1), {})
    assert sample("gan.safetensors", "--from", image_folder / "disc", "-n", 2, "-o", "side.png")[0] == 0
    path = sorted((image_folder / "disc").glob("*.png"))[0]
    assert sample("gan.safetensors", "--near", path, "-n", 3, "--temperature", 0, "-o", "near.png")[0] == 0
    sheet = read_rgb("near.png")
    assert sheet.shape == (38, 38, 3)
    original, *others = cells(sheet, 2, 4)
    assert np.array_equal(others[1], others[2]) and not np.array_equal(original, others[0])


@pytest.mark.slow
def test_refusals(sample: Command, image_folder: Path) -> None:
    saved_vae()
    path = sorted((image_folder / "disc").glob("*.png"))[0]
    Path("text.png").write_text("not an image", encoding="utf-8")
    for words, code, text in (
        (("--from", image_folder, "-o", "folder/"), 2, "one grid"),
        (("--from", image_folder, "--near", path), 2, "--from"),
        (("--from", image_folder, "--seed", 3), 2, "--from"),
        (("--near", image_folder), 3, "not an image file"),
        (("--from", "text.png"), 3, "can be read"),
        (("--from", "nowhere"), 3, "there is no"),
        (("--near", path, "--class", "cat"), 2, "no classes"),
        (("--near", path, "--class", "all"), 2, "one class"),
        (("--near", path, "--temperature", 1.7), 2, "from 0 to 1"),
        (("--near", path, "-n", 1000, "--columns", 1001), 2, "too large"),
    ):
        output = () if "-o" in words else ("-o", "out.png")
        result = sample("vae.safetensors", *words, *output)
        assert result[0] == code and text in result[2], words
    assert not Path("out.png").exists()


def test_dry_runs(sample: Command, image_folder: Path) -> None:
    saved_vae()
    words = ("vae.safetensors", "-n", 5, "-o", "out.png", "--json", "--dry-run")
    plan = json.loads(sample(*words, "--from", image_folder)[1])
    assert plan["count"] == 5 and plan["from"] == str(image_folder) and "seeds" not in plan and plan["columns"] % 2 == 0
    assert sample(*words, "--from", "nowhere")[:2] == (3, "")
    path = sorted((image_folder / "disc").glob("*.png"))[0]
    plan = json.loads(sample(*words, "--near", path, "--seed", 3)[1])
    assert plan["near"] == str(path) and plan["seeds"] == "3-7" and plan["columns"] == 3
    assert not Path("out.png").exists()
