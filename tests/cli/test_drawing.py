"""Settings of drawing and a family's own figures, from the command line to files and reports."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from imggen.cli.app import main
from imggen.engine.checkpoints import save_backend
from imggen.io.image import read_info
from imggen.models import build_backend, presets

SMALL = {"size": 16, "width": 32, "depth": 2, "heads": 2, "tokenizer_width": 8}


def call(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = presets("transformer")["tiny"].with_overrides(
        channels=3, classes=("disc", "square"), class_counts=(60, 60), **SMALL
    )
    save_backend(tmp_path / "m.safetensors", build_backend(config), {})
    return tmp_path / "m.safetensors"


def test_settings_are_kept_and_draw_the_same_again(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--steps", 3, "--guidance", 1.5, "--top-k", 4, "--top-p", 0.9]
    assert call(capsys, "sample", model, "--seed", 1, "-n", 4, *given, "-o", "a.png")[0] == 0
    info = read_info(Path("a.png"))
    assert info is not None
    assert {name: info[name] for name in ("steps", "guidance", "top_k", "top_p")} == {
        "steps": 3, "guidance": 1.5, "top_k": 4, "top_p": 0.9,
    }  # fmt: skip
    first = Path("a.png").read_bytes()
    assert call(capsys, *info["command"].split()[1:], "--force")[0] == 0
    assert Path("a.png").read_bytes() == first
    assert call(capsys, "sample", model, "--seed", 1, "-n", 4, "-o", "b.png")[0] == 0
    plain = read_info(Path("b.png"))
    assert plain is not None and "steps" not in plain and "--steps" not in plain["command"]
    assert Path("b.png").read_bytes() != first


def test_a_family_that_knows_no_such_setting_says_so(
    model: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "sample", "gan", "--steps", 3)
    assert code == 2 and "gan knows no --steps" in err and "--temperature" in err
    code, _, err = call(capsys, "evaluate", "gan", "--data", image_folder, "--top-k", 3)
    assert code == 2 and "--top-k" in err
    code, _, err = call(capsys, "evaluate", image_folder, "--data", image_folder, "--guidance", 3)
    assert code == 2 and "drawn already" in err
    assert call(capsys, "sample", model, "--steps", 0)[0] == 2
    assert call(capsys, "sample", model, "--top-p", 1.5)[0] == 2


def test_evaluate_prints_what_a_family_measures(
    model: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        shutil.copytree(image_folder, Path("data") / split)
    words = ["evaluate", model, "--data", "data", "-n", 20, "--device", "cpu", "-o", "r.html"]
    code, out, err = call(capsys, *words, "--steps", 2, "--json")
    assert code == 0, err
    found = json.loads(out)
    figures = found["figures"]
    assert {"bits", "nats_1", "nats_4", "nats_8", "nats_16", "unigram", "psnr"} <= set(figures)
    assert figures["nats_16"]["low"] <= figures["nats_16"]["value"] <= figures["nats_16"]["high"]
    assert found["drawing"] == {"steps": 2} and found["explained"]["psnr"][0] == "Reconstruction, dB"
    assert "Reconstruction, dB" in Path("r.html").read_text(encoding="utf-8")


def test_walks_and_fills_take_settings_too(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--steps", 2, "--guidance", 2.0, "--seed", 1, "--force"]
    shown = {}
    for steps in (2, 16):
        words[1] = steps
        assert call(capsys, "interpolate", model, "--frames", 4, *words, "-o", "w.png")[0] == 0
        assert call(capsys, "inpaint", model, "--image", "w.png", "--box", "4,4,8,8", *words, "-o", "y.png")[0] == 0
        for name in ("w.png", "y.png"):
            info = read_info(Path(name))
            assert info is not None and f"--steps {steps} --guidance 2.0" in info["command"]
            with Image.open(name) as image:
                shown[name, steps] = image.convert("RGB").tobytes()
    assert shown["w.png", 2] != shown["w.png", 16]
    for words in (["interpolate", "gan"], ["inpaint", "gan", "--image", "y.png", "--box", "4,4,8,8"]):
        code, _, err = call(capsys, *words, "--steps", 3, "--force")
        assert code == 2 and "gan knows no --steps" in err
    words = ["inpaint", "--method", "classical", "--image", "y.png", "--box", "4,4,8,8", "--steps", 3]
    code, _, err = call(capsys, *words)
    assert code == 2 and "classical draws nothing" in err
