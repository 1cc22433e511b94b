"""What sample and evaluate do with a family that can look at pictures and has a likelihood."""

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

from imggen.cli.app import main
from imggen.engine.checkpoints import save_backend
from imggen.engine.evaluation import run as evaluate
from imggen.engine.options import EvaluateOptions
from imggen.engine.run_dir import RunDir
from imggen.errors import UsageError
from imggen.io.checkpoint import read_header, read_tensors, write_checkpoint
from imggen.io.image import read_info
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


def redrawn(name: str, flag: str) -> None:
    """The command that a file carries makes it again, byte for byte."""
    info, first = read_info(Path(name)), Path(name).read_bytes()
    assert info is not None and flag in info["command"]
    Path(name).unlink()
    assert call(*shlex.split(info["command"])[1:]) == 0 and Path(name).read_bytes() == first


def test_pictures_beside_the_models_own(make: Make, image_folder: Path) -> None:
    backend = make(classes=("disc", "square"), class_counts=(1, 1))
    assert call("sample", "vae.safetensors", "--from", image_folder, "-n", 8, "-o", "side.png") == 0
    with Image.open("side.png") as sheet:
        found = np.asarray(sheet.convert("RGB"))
    assert found.shape[:2] == (4 * 18 + 2, 4 * 18 + 2)
    with Image.open(sorted((image_folder / "disc").glob("*.png"))[0]) as first:
        original = np.asarray(first)
    assert np.array_equal(found[2:18, 2:18], original)
    images = torch.from_numpy(original.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    levels = backend.reconstruct(images).add(1).mul(127.5).round().to(torch.uint8)[0].permute(1, 2, 0)
    assert np.abs(found[2:18, 20:36].astype(int) - levels.numpy().astype(int)).max() <= 1
    redrawn("side.png", "--from")


def test_pictures_near_a_picture(make: Make, image_folder: Path) -> None:
    make()
    picture = sorted((image_folder / "disc").glob("*.png"))[3]
    words = ("sample", "vae.safetensors", "--near", picture, "--seed", 5, "-n", 8)
    assert call(*words, "-o", "near.png") == 0
    assert call(*words, "--batch", 3, "-o", "again.png") == 0
    assert call(*words, "--temperature", 0, "-o", "cold.png") == 0
    near, again, cold = (
        np.asarray(Image.open(name).convert("RGB")).astype(int) for name in ("near.png", "again.png", "cold.png")
    )
    assert np.abs(near - again).max() <= 1
    tiles = [cold[2 + 18 * (k // 3) :, 2 + 18 * (k % 3) :][:16, :16] for k in range(9)]
    assert np.array_equal(tiles[0], np.asarray(Image.open(picture))) and all(
        np.array_equal(tiles[1], t) for t in tiles[2:]
    )
    tiles = [near[2 + 18 * (k // 3) :, 2 + 18 * (k % 3) :][:16, :16] for k in range(9)]
    assert len({tile.tobytes() for tile in tiles}) == 9
    info = read_info(Path("near.png"))
    assert info is not None and info["temperature"] == 0.5 and info["seeds"] == "5-12"
    redrawn("near.png", "--near")
    assert call(*words, "--temperature", 1, "--columns", 9, "-o", "far.png") == 0
    redrawn("far.png", "--near")


def test_any_family_looks_at_pictures(make: Make, image_folder: Path) -> None:
    """Of one without an encoder the noise is searched for."""
    make("gan", classes=("disc", "square"), class_counts=(1, 1))
    assert call("sample", "gan.safetensors", "--from", image_folder / "disc", "-n", 2, "-o", "side.png") == 0
    picture = sorted((image_folder / "disc").glob("*.png"))[0]
    assert call("sample", "gan.safetensors", "--near", picture, "-n", 3, "--temperature", 0, "-o", "near.png") == 0
    tiles = np.asarray(Image.open("near.png").convert("RGB"))
    assert tiles.shape == (38, 38, 3) and np.array_equal(tiles[20:36, 2:18], tiles[20:36, 20:36])
    assert not np.array_equal(tiles[2:18, 2:18], tiles[2:18, 20:36])


def test_what_cannot_be_is_one_clear_line(make: Make, image_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make()
    picture = sorted((image_folder / "disc").glob("*.png"))[0]
    Path("text.png").write_text("no picture", encoding="utf-8")
    for words, code, text in (
        (("vae.safetensors", "--from", image_folder, "-o", "folder/"), 2, "one sheet"),
        (("vae.safetensors", "--from", image_folder, "--near", picture), 2, "--from"),
        (("vae.safetensors", "--from", image_folder, "--seed", 3), 2, "--from"),
        (("vae.safetensors", "--near", image_folder), 3, "not a picture"),
        (("vae.safetensors", "--from", "text.png"), 3, "can be read"),
        (("vae.safetensors", "--from", "nowhere"), 3, "there is no"),
        (("vae.safetensors", "--near", picture, "--class", "cat"), 2, "no classes"),
        (("vae.safetensors", "--near", picture, "--temperature", 1.7), 2, "from 0 to 1"),
        (("vae.safetensors", "--near", picture, "-n", 1000, "--columns", 1001), 2, "too large"),
    ):
        more = () if "-o" in words else ("-o", "out.png")
        assert call("sample", *words, *more) == code, words
        assert text in capfd.readouterr().err, words
    assert not Path("out.png").exists()


def test_a_plan_of_a_sheet_says_what_is_on_it(
    make: Make, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make()
    words = ("sample", "vae.safetensors", "-n", 5, "-o", "out.png", "--json", "--dry-run")
    assert call(*words, "--from", image_folder) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["count"] == 5 and plan["from"] == str(image_folder) and "seeds" not in plan and plan["columns"] % 2 == 0
    assert call(*words, "--from", "nowhere") == 3 and not capsys.readouterr().out
    picture = sorted((image_folder / "disc").glob("*.png"))[0]
    assert call(*words, "--near", picture, "--seed", 3) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["near"] == str(picture) and plan["seeds"] == "3-7" and plan["columns"] == 3
    assert not Path("out.png").exists()


def test_bits_bounds_and_layers(make: Make, divided: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backend = make()
    given = EvaluateOptions(
        model="vae.safetensors", data=str(divided), count=20, device="cpu", iw=20, output=Path("r.html"), seed=1
    )
    document = evaluate(given, Silent())
    figures = document["metrics"]
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
    assert plain["metrics"]["bits"]["value"] == pytest.approx(figures["bits"]["value"], abs=1e-9)
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
    figures = evaluate(options, Silent())["metrics"]
    assert figures["nats"]["value"] == pytest.approx(256 * np.log(2), abs=0.1)
    assert figures["nats_iw"]["value"] == pytest.approx(256 * np.log(2), abs=0.1)
    make(likelihood="bernoulli", channels=1)  # one that says something of them
    one, other = (evaluate(replace(options, iw=iw), Silent())["metrics"]["nats"]["value"] for iw in (None, 3))
    assert one == pytest.approx(other, abs=1e-6)
    assert not any(name.startswith("bits") for name in figures)


def test_a_bound_that_a_family_does_not_have(make: Make, image_folder: Path) -> None:
    make("gan")
    for model, word in (("gan.safetensors", "a gan has no"), (str(image_folder), "has no likelihood")):
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
