"""Sampling options and a family's own metrics, from the command line to files and reports."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from imggen.engine.checkpoints import save_backend
from imggen.io.image import read_info
from imggen.models import build_backend, presets
from tests.helpers import run_cli

SMALL = {"size": 16, "width": 32, "depth": 2, "heads": 2, "tokenizer_width": 8}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = presets("transformer")["tiny"].with_overrides(
        channels=3, classes=("disc", "square"), class_counts=(60, 60), **SMALL
    )
    save_backend(tmp_path / "m.safetensors", build_backend(config), {})
    return tmp_path / "m.safetensors"


@pytest.mark.slow
def test_options_are_recorded_and_the_command_gives_the_same_file(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--steps", 3, "--guidance", 1.5, "--top-k", 4, "--top-p", 0.9]
    assert run_cli(capsys, "sample", model, "--seed", 1, "-n", 4, *given, "-o", "a.png")[0] == 0
    info = read_info(Path("a.png"))
    assert info is not None
    assert {name: info[name] for name in ("steps", "guidance", "top_k", "top_p")} == {
        "steps": 3, "guidance": 1.5, "top_k": 4, "top_p": 0.9,
    }  # fmt: skip
    first = Path("a.png").read_bytes()
    assert run_cli(capsys, *info["command"].split()[1:], "--force")[0] == 0
    assert Path("a.png").read_bytes() == first
    assert run_cli(capsys, "sample", model, "--seed", 1, "-n", 4, "-o", "b.png")[0] == 0
    plain = read_info(Path("b.png"))
    assert plain is not None and "steps" not in plain and "--steps" not in plain["command"]
    assert Path("b.png").read_bytes() != first


def test_an_option_that_a_family_does_not_have_is_an_error(
    model: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_cli(capsys, "sample", "gan", "--steps", 3)
    assert code == 2 and "a gan has no option --steps" in err and "--temperature" in err
    code, _, err = run_cli(capsys, "evaluate", "gan", "--data", image_folder, "--top-k", 3)
    assert code == 2 and "--top-k" in err
    code, _, err = run_cli(capsys, "evaluate", image_folder, "--data", image_folder, "--guidance", 3)
    assert code == 2 and "is a folder of images" in err
    assert run_cli(capsys, "sample", model, "--steps", 0)[0] == 2
    assert run_cli(capsys, "sample", model, "--top-p", 1.5)[0] == 2


@pytest.mark.slow
def test_evaluate_prints_a_familys_own_metrics(
    model: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        shutil.copytree(image_folder, Path("data") / split)
    words = ["evaluate", model, "--data", "data", "-n", 20, "--device", "cpu", "-o", "r.html"]
    code, out, err = run_cli(capsys, *words, "--steps", 2, "--json")
    assert code == 0, err
    result = json.loads(out)
    metrics = result["metrics"]
    assert {"bits", "nats_1", "nats_4", "nats_8", "nats_16", "unigram", "psnr"} <= set(metrics)
    assert metrics["nats_16"]["low"] <= metrics["nats_16"]["value"] <= metrics["nats_16"]["high"]
    assert result["sampling"] == {"steps": 2} and result["descriptions"]["psnr"][0] == "Reconstruction, dB"
    assert "Reconstruction, dB" in Path("r.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_interpolation_and_inpainting_take_sampling_options(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--steps", 2, "--guidance", 2.0, "--seed", 1, "--force"]
    pixels = {}
    for steps in (2, 16):
        words[1] = steps
        assert run_cli(capsys, "interpolate", model, "--frames", 4, *words, "-o", "w.png")[0] == 0
        assert run_cli(capsys, "inpaint", model, "--image", "w.png", "--box", "4,4,8,8", *words, "-o", "y.png")[0] == 0
        for name in ("w.png", "y.png"):
            info = read_info(Path(name))
            assert info is not None and f"--steps {steps} --guidance 2.0" in info["command"]
            with Image.open(name) as image:
                pixels[name, steps] = image.convert("RGB").tobytes()
    assert pixels["w.png", 2] != pixels["w.png", 16]
    for words in (["interpolate", "gan"], ["inpaint", "gan", "--image", "y.png", "--box", "4,4,8,8"]):
        code, _, err = run_cli(capsys, *words, "--steps", 3, "--force")
        assert code == 2 and "a gan has no option --steps" in err
    words = ["inpaint", "--method", "classical", "--image", "y.png", "--box", "4,4,8,8", "--steps", 3]
    code, _, err = run_cli(capsys, *words)
    assert code == 2 and "classical samples nothing" in err and "--steps" in err
