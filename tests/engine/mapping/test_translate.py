"""imggen train translate, translate and evaluate, from folders to images; and what is kept of the originals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from imggen.engine.color import moments_of_images, transport
from imggen.engine.evaluation.translation import made_by_methods
from imggen.engine.mapping.translate import blended
from imggen.engine.tiling import map_in_tiles
from imggen.io.image import read_info
from imggen.io.pixels import to_levels
from imggen.models import build_model, presets
from tests.helpers import read_pixels, run_cli

SMALL = ["--batch", "8", "--width", "8", "--halvings", "1", "--critic-width", "8", "--seed", "1", "--device", "cpu"]
PAIRS = ["train", "translate", "--from", "a", "--to", "b", "--paired", *SMALL]


def write_data(root: Path, count: int = 16) -> None:
    """Gray squares in PNGs, and their negatives in red, as WebP, in a folder of classes."""
    random = np.random.default_rng(0)
    for folder in ("a/x", "b/x"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        gray = random.integers(0, 256, (4, 4)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        color = np.stack([255 - gray, gray // 4, gray // 4], 2)
        Image.fromarray(gray).save(root / f"a/x/{number}.png")
        Image.fromarray(color).save(root / f"b/x/{number}.webp", lossless=True)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    return tmp_path


def test_learn_pairs_then_translate_then_evaluate(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_cli(capsys, *PAIRS, "--images", "400", "--l1-only", "--learning-rate", "0.01")
    assert code == 0, err
    assert "into images of 3 channels" in err and list(Path("runs/translate/samples").iterdir())
    code, _, err = run_cli(capsys, *PAIRS[:-2], "--resume", "--to-channels", "1")
    assert code == 2 and "started with to_channels 3, not 1" in err
    code, _, err = run_cli(capsys, *PAIRS[:-2], "--resume", "--images", "408")
    assert code == 0, err
    code, out, err = run_cli(capsys, "translate", "--image", "a", "-o", "made/", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["count"] == 16 and result["paths"][0].startswith("made/x/")
    error = np.mean(
        [np.abs(read_pixels(f"made/x/{n}.png").astype(int) - read_pixels(f"b/x/{n}.webp")) for n in range(9)]
    )
    assert error < 45
    code, out, err = run_cli(
        capsys, "evaluate", "translate", "--from", "a", "--data", "b", "-n", "16", "-o", "r.html", "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["matched"] == 16 and len(found["worst"]) == 12 and Path("r.html").stat().st_size > 5000
    psnr = found["metrics"]["psnr"]["value"]
    assert psnr > max(found["baselines"][name]["psnr"]["value"] for name in ("identity", "mean")) + 0.5
    assert found["metrics"]["ssim"]["value"] <= 1
    for words in (["sample", "translate"], ["segment", "translate", "--image", "a"]):
        code, _, err = run_cli(capsys, *words)
        assert code == 2 and "translator" in err, words


def test_every_second_image_can_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path, 60)
    code, _, err = run_cli(capsys, *PAIRS, "--images", "8")
    assert code == 0, err
    for count in ("60", "30"):
        code, out, err = run_cli(capsys, "evaluate", "translate", "--from", "a", "--data", "b", "-n", count, "--json")
        assert code == 0 and json.loads(out)["metrics"].keys() == {"psnr", "ssim", "fd"}, err


def test_learn_without_pairs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(10, 16):
        Path(f"b/x/{number}.webp").rename(f"b/x/other{number}.webp")
    code, out, err = run_cli(
        capsys, "train", "translate", "--from", "a", "--to", "b", *SMALL, "--images", "32", "--json"
    )
    assert code == 0, err
    last = Path("runs/translate/metrics.jsonl").read_text().splitlines()[-1]
    assert {"critic", "adversarial", "contrast", "identity", "diversity"} <= json.loads(last).keys()
    config = Path("runs/translate/config.toml")
    code, again, err = run_cli(
        capsys, "train", "translate", "--config", config, "--seed", "1", "--force", "--json", "--device", "cpu"
    )
    assert code == 0, err
    assert json.loads(out)["hash"] == json.loads(again)["hash"]
    code, out, err = run_cli(capsys, "evaluate", "translate", "--from", "a", "--data", "b", "-n", "16", "--json")
    assert (code == 3 and "few" in err) or json.loads(out)["matched"] == 10


def test_size_alpha_profile_and_settings_are_kept(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_cli(capsys, *PAIRS, "--images", "8", "--l1-only")
    assert code == 0, err
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (13, 29, 4)).astype(np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Path("in/deep").mkdir(parents=True)
    Image.fromarray(pixels).save("in/deep/alpha.png", icc_profile=profile, dpi=(200, 200))
    Image.fromarray(pixels[..., :3]).save("in/plain.jpg")
    Image.fromarray(pixels[..., 0]).save("in/plain.png")
    Path("in/broken.png").write_bytes(b"no image")
    code, _, err = run_cli(capsys, "translate", "--image", "in", "-o", "out/")
    assert code == 3 and "broken.png" in err
    Path("in/broken.png").unlink()
    code, _, err = run_cli(capsys, "translate", "--image", "in", "-o", "out/", "--force")
    assert code == 0, err
    assert {str(path.relative_to("out")) for path in Path("out").rglob("*.png")} >= {"deep/alpha.png", "plain.jpg.png"}
    with Image.open("out/deep/alpha.png") as image:
        assert image.size == (29, 13) and image.mode == "RGBA" and image.info["icc_profile"] == profile
        assert np.array_equal(np.asarray(image)[..., 3], pixels[..., 3])
    info = read_info(Path("out/deep/alpha.png"))
    assert info is not None and info["command"] == "imggen translate --image in/deep/alpha.png -o alpha.png"
    code, _, err = run_cli(capsys, "translate", "--image", "in/plain.png", "-o", "same.png", "--strength", "0")
    assert code == 0, err
    assert np.array_equal(read_pixels("same.png"), np.repeat(pixels[..., :1], 3, 2))
    for words in (["-o", "out/x.jpg", "--format", "webp"], ["-o", "-"], ["-o", "same.png"]):
        code, _, err = run_cli(capsys, "translate", "--image", "in/plain.png", *words)
        assert code == 2, words
    code, _, err = run_cli(capsys, "translate", "--image", "in", "-o", "one.png")
    assert code == 2 and "folder" in err and not Path("one.png").exists()


def test_hard_edges_are_kept(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(3)
    for number in range(16):
        pixels = read_pixels(f"b/x/{number}.webp")
        alpha = np.where(pixels[..., :1] > 127, 255, 0).astype(np.uint8)
        Image.fromarray(np.concatenate([pixels, alpha], 2)).save(f"b/x/{number}.webp", lossless=True, exact=True)
    code, _, err = run_cli(capsys, *PAIRS, "--images", "8")
    assert code == 0 and "hard edges: alpha is only 0 or 255 in the targets" in err, err
    Image.fromarray(random.integers(0, 256, (40, 24, 4)).astype(np.uint8)).save("new.png")
    for words in ([], ["--scale", "0.6"]):
        code, _, err = run_cli(capsys, "translate", "--image", "new.png", "-o", "out.png", "--force", *words)
        assert code == 0, err
        assert set(np.unique(read_pixels("out.png")[..., 3])) <= {0, 255}
    code, _, err = run_cli(capsys, *PAIRS, "--images", "8", "--size", "8", "--dry-run", "-o", "x")
    assert code == 0 and "hard edges" not in err, err


def test_transparent_colors_are_not_seen_at_edges(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_cli(capsys, *PAIRS, "--images", "8", "--l1-only", "--size", "16")
    assert code == 0, err
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[4:12, 4:12], pixels[4:12, 12] = (10, 20, 30, 255), (10, 20, 30, 128)
    Image.fromarray(pixels).save("image.png")
    opaque = pixels.copy()
    opaque[opaque[..., 3] == 0] = 255
    Image.fromarray(opaque[..., :3]).save("opaque.png")
    for name in ("image", "opaque"):
        code, _, err = run_cli(capsys, "translate", "--image", f"{name}.png", "-o", f"{name}-made.png")
        assert code == 0, err
    made = read_pixels("image-made.png")
    assert np.array_equal(made[..., 3], pixels[..., 3])
    assert np.array_equal(made[..., :3], read_pixels("opaque-made.png"))
    code, _, err = run_cli(capsys, "translate", "--image", "image.png", "-o", "same.png", "--strength", "0")
    assert code == 0 and np.array_equal(read_pixels("same.png"), pixels), err


def test_blending_counts_colors_by_their_alpha() -> None:
    before = np.array([[[255, 255, 255, 0], [10, 20, 30, 255], [200, 0, 0, 40]]], np.uint8)
    after = np.array([[[10, 20, 30, 255], [255, 255, 255, 0], [0, 0, 200, 40]]], np.uint8)
    half = np.asarray(blended(Image.fromarray(before), Image.fromarray(after), 0.5))
    assert half[0].tolist() == [[10, 20, 30, 128], [10, 20, 30, 128], [100, 0, 100, 40]]
    assert np.array_equal(np.asarray(blended(Image.fromarray(before), Image.fromarray(after), 0)), before)


def test_what_does_not_fit(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = ["train", "translate", *SMALL, "--images", "8"]
    Path("c").mkdir()
    Image.new("L", (16, 16)).save("c/other.png")
    cases: list[tuple[list[str], int, str]] = [
        (["--from", "a", "--to", "a"], 2, "own targets"),
        (["--from", "a", "--to", "c", "--paired"], 3, "has a partner"),
        (["--from", "a", "--to", "none"], 3, "there is no none"),
        # Before any image is read.
        (["--from", "none", "--to", "b", "--l1-only"], 2, "--l1-only needs --paired"),
        (["--from", "none", "--to", "b", "--noise", "4"], 2, "--noise needs --paired"),
        (["--from", "a"], 2, "--to"),
    ]
    for words, expected, text in cases:
        code, _, err = run_cli(capsys, *start, *words)
        assert code == expected and text in err, words
        assert not Path("runs").exists()
    Image.new("RGB", (16, 32)).save("b/x/0.webp")
    Image.new("RGB", (16, 32)).save("b/x/1.webp")
    code, _, err = run_cli(capsys, *start, "--from", "a", "--to", "b", "--paired")
    assert code == 3 and "cannot be read" in err
    # What a format cannot store is refused by the header, before a model is opened.
    Path("large").mkdir()
    Image.new("L", (16, 16)).save("large/a.png")
    Image.new("L", (2, 17_000)).save("large/b.png")
    for words, text in (
        (["--image", "large", "-o", "out/", "--format", "webp"], "b.png is 2x17000, and WEBP allows"),
        (["--image", "large/b.png", "-o", "out.webp"], "WEBP allows at most 16,383"),
        (["--image", "large/b.png", "-o", "out.jpg"], "vae"),
    ):
        code, _, err = run_cli(capsys, "translate", "vae", *words)
        assert code == 2 and text in err and not Path("out").exists(), words
    code, _, err = run_cli(capsys, "translate", "vae", "--image", "a", "-o", "out/")
    assert code == 2 and "translates no images" in err and not Path("out").exists()
    code, _, err = run_cli(capsys, "evaluate", "vae", "--from", "a", "--data", "b")
    assert code == 2 and "--from does not apply" in err


def test_noise_gives_several_results(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_cli(capsys, *PAIRS, "--images", "64", "--noise", "4")
    assert code == 0, err
    code, out, err = run_cli(capsys, "translate", "--image", "a/x", "-o", "made/", "-n", "2", "--seed", "5", "--json")
    assert code == 0, err
    results = json.loads(out)["images"]
    assert [result["seed"] for result in results[:4]] == [5, 6, 5, 6] and len(results) == 32
    assert results[0]["path"] == "made/0-1.png" and results[1]["path"] == "made/0-2.png"
    first, second = (read_pixels(result["path"]) for result in results[:2])
    assert not np.array_equal(first, second)
    info = read_info(Path("made/0-2.png"))
    assert info is not None and info["command"] == "imggen translate --image a/x/0.png --seed 6 -o 0-2.png"
    code, _, err = run_cli(capsys, "translate", "--image", "a/x/0.png", "-o", "one.png", "--seed", "6")
    assert code == 0, err
    assert np.array_equal(read_pixels("one.png"), second)
    code, _, err = run_cli(capsys, "translate", "--image", "a/x", "-o", "one.png", "-n", "2")
    assert code == 2 and "a folder" in err


def test_baselines_keep_alpha() -> None:
    model: Any = build_model(presets("translate")["tiny"].with_overrides(width=8, channels=4, target_channels=4))
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 4)).astype(np.uint8)
    moments = moments_of_images(images[..., :3])
    made = made_by_methods(model, images, None, transport(moments, moments), images[0])
    for name in ("model", "identity", "color"):  # a translator begins with the image as it is
        assert np.abs(made[name].astype(int) - images).max() <= 1, name
    assert np.array_equal(made["mean"][1], images[0])


@pytest.mark.parametrize(("channels", "target"), [(3, 3), (4, 1)])
def test_tiles_give_the_whole_image(channels: int, target: int) -> None:
    torch.manual_seed(0)
    config: Any = presets("translate")["tiny"].with_overrides(
        width=8, halvings=1, channels=channels, target_channels=target
    )
    model: Any = build_model(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    image = np.random.default_rng(0).integers(0, 256, (61, 90, channels)).astype(np.uint8)

    def apply(tile: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return to_levels(model(tile))

    network = model.network
    args = {"reach": network.reach, "multiple": network.multiple, "device": torch.device("cpu")}
    whole, tiled = (map_in_tiles(image, apply, target, side=side, **args) for side in (512, 32))
    assert whole.std() > 10
    assert np.abs(whole.astype(int) - tiled).max() <= 1
