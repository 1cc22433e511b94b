"""`imggen evaluate` of a segmentation model: known numbers, baselines, the report, refusals."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imggen.data.masks import MaskTable
from imggen.engine.checkpoints import save_backend
from imggen.engine.evaluation.prior import prior_of
from imggen.models import build_model, presets
from tests.helpers import read_pixels, run_cli

NAMES = ("ground", "<b>wall</b>", "roof")


@pytest.fixture
def model() -> str:
    """An untrained model of three classes that finds two of them or more."""
    table = MaskTable(False, (0, 1, 2), NAMES, void=255).to_json()
    config = presets("segment")["tiny"].with_overrides(size=16, width=8, halvings=1, table=table)
    torch.manual_seed(0)
    built = build_model(config)
    with torch.no_grad():
        for weight in built.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    save_backend(Path("model.safetensors"), built, {})
    return "model.safetensors"


def write_data(split: str, count: int) -> None:
    """Noise with masks: class 1 in the upper half, class 2 in a corner, class 0 elsewhere; one void pixel."""
    random = np.random.default_rng(count)
    for folder in ("photos", "masks"):
        (Path(folder) / split).mkdir(parents=True)
    for number in range(count):
        height = int(random.integers(12, 24))
        mask = np.zeros((height, 16), np.uint8)
        mask[: height // 2] = 1
        mask[3 * height // 4 :, :8] = 2
        mask[0, 0] = 255
        Image.fromarray(random.integers(0, 256, (height, 16, 3), np.uint8)).save(f"photos/{split}/{number}.png")
        Image.fromarray(mask).save(f"masks/{split}/{number}.png")


def overlaps(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """The IoU of each class, counted once more."""
    found, truth = (np.concatenate([pair[index].ravel() for pair in pairs]) for index in (0, 1))
    known = truth != 255
    both = [((found == number) & (truth == number) & known).sum() for number in range(3)]
    either = [(((found == number) | (truth == number)) & known).sum() for number in range(3)]
    return [float(one / other) for one, other in zip(both, either, strict=True)]


def test_metrics_are_those_of_the_masks_that_segment_writes(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_data("train", 4)
    write_data("test", 14)
    code, _, err = run_cli(capsys, "segment", model, "--image", "photos/test", "-o", "found", "--device", "cpu")
    assert code == 0, err
    words = ("evaluate", model, "--data", "photos", "--masks", "masks", "--device", "cpu", "-o", "r.html")
    code, out, err = run_cli(capsys, *words, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["split"] == "test" and result["count"] == 14 and "4 masks of train" in result["baselines_from"]
    pairs = [(read_pixels(f"found/{number}.png"), read_pixels(f"masks/test/{number}.png")) for number in range(14)]
    expected = overlaps(pairs)
    assert result["metrics"]["mean_iou"]["value"] == pytest.approx(np.mean(expected))
    for entry, iou in zip(result["classes"], expected, strict=True):
        estimate = entry["metrics"]["iou"]
        assert estimate["value"] == pytest.approx(iou) and estimate["low"] <= iou <= estimate["high"]
    assert sum(map(sum, result["confusion"])) == sum(int((truth != 255).sum()) for _, truth in pairs)
    assert result["baselines"]["position"]["mean_iou"]["value"] > 0.9
    assert result["baselines"]["majority"]["accuracy"]["value"] == pytest.approx(0.5, abs=0.05)
    worst = [entry["iou"] for entry in result["worst"]]
    assert len(worst) == 12 and worst == sorted(worst)
    page = Path("r.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 12 and "<b>wall" not in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)

    # Data without a test split: all of it, and baselines from its other images
    code, out, _ = run_cli(capsys, "evaluate", model, "--data", "photos/test", "--masks", "masks/test", "-n", 10)
    assert code == 0 and "10 images, split all; baselines from the other masks" in out and "worst:" in out


def test_what_does_not_fit_is_refused(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_data("test", 10)
    data = ("--data", "photos", "--device", "cpu")
    for words, message in (
        ((model,), "is compared with masks"),
        ((model, "--masks", "masks", "--iw", 5), "--iw does not apply"),
        (("vae-digits", "--masks", "masks"), "is a generator: --masks does not apply"),
        (("photos", "--masks", "masks"), "is a folder of images: --masks does not apply"),
    ):
        code, _, err = run_cli(capsys, "evaluate", *words, *data, "-q")
        assert code == 2 and message in err and len(err.splitlines()) == 2
    Image.new("L", (16, 16), 7).save("masks/test/0.png")
    Image.new("RGB", (16, 16)).save("photos/test/0.png")
    code, _, err = run_cli(capsys, "evaluate", model, "--masks", "masks", *data)
    assert "value 7 is none of the classes" in err


def test_a_prior_knows_the_other_masks_only() -> None:
    left, right = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    left[:, :4], right[:, 4:] = 1, 2
    prior = prior_of([left, left, right, None], 3, [0, 0, 1, 1])
    assert np.array_equal(prior.guess("position", 0, (8, 8)), right)
    assert np.array_equal(prior.guess("position", 2, (16, 8)), left.repeat(2, 0))
    whole = prior_of([left, left, right], 3)
    assert np.array_equal(whole.guess("position", 0, (8, 8)), left)
    assert np.array_equal(whole.guess("majority", 0, (2, 3)), np.zeros((2, 3)))
