"""Filling holes: known pixels bit for bit in every mode, folders, masks, sizes, sheets, and what is refused."""

import io
import json
import shlex
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageOps
from torch import Tensor

from imggen.cli.app import main
from imggen.engine.blend import membrane, seamless
from imggen.engine.holes import feathered, grown, parts_of, squares
from imggen.engine.info import describe_file
from imggen.engine.inpaint import inpaint, plan
from imggen.engine.load import save_backend
from imggen.engine.options import InpaintOptions
from imggen.errors import DataError, UsageError
from imggen.io.image import Bytes
from imggen.models import build_backend, presets
from imggen.models.gan.backend import Backend as GanBackend
from imggen.reporting import Silent

Call = Callable[..., dict[str, Any]]
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
ENDING = {"CMYK": "tif", "I": "tif", "F": "tif"}


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(message)

    def warn(self, message: str) -> None:
        self.lines.append(f"warning: {message}")


def quick(
    self: GanBackend,
    images: Tensor,
    mask: Tensor,
    noise: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 1,
) -> Tensor:
    """A fill that costs nothing: the noise's first number, everywhere."""
    assert mask.unique().tolist() in ([0, 1], [1]) and images.shape[1:] == self.image_shape
    level = torch.tanh(noise[:, :1, None, None] * temperature)
    return torch.where(mask > 0, level.expand_as(images), images)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Fill with a model of so many channels, of 16 pixels, whose fills cost nothing."""
    monkeypatch.setattr(GanBackend, "inpaint", quick)
    for channels in (1, 3, 4):
        config = presets("gan")["tiny"].with_overrides(size=16, channels=channels, width=8, max_width=16)
        save_backend(tmp_path / f"{channels}.safetensors", build_backend(config), {})

    def run(image: str, output: str, channels: int = 3, reporter: Silent | None = None, **more: Any) -> dict[str, Any]:
        options = InpaintOptions(
            model=str(tmp_path / f"{channels}.safetensors"), image=Path(image), output=output, **{"seed": 5, **more}
        )
        return inpaint(options, reporter or Silent())

    return run


def picture(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 65536, (height, width), dtype=np.uint16))
    if mode == "I":
        return Image.fromarray(random.integers(-(10**6), 10**6, (height, width), dtype=np.int32))
    if mode == "F":
        return Image.fromarray(random.normal(0, 10, (height, width)).astype(np.float32))
    if mode == "1":
        return Image.fromarray(random.random((height, width)) < 0.5)
    channels = {"L": 1, "P": 3, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    raw = random.integers(0, 256, (height, width, channels), dtype=np.uint8)
    if mode == "P":
        return Image.fromarray(raw).quantize(37)
    return Image.frombytes(mode, (width, height), raw.tobytes())


def mask_file(hole: Bytes, name: str = "m.png") -> Path:
    Image.fromarray((hole > 0).astype(np.uint8) * 255).save(name)
    return Path(name)


def pixels(path: Path | str) -> Bytes:
    with Image.open(path) as image:
        return np.asarray(image)


def square_hole(width: int = 20, height: int = 20) -> Bytes:
    hole = np.zeros((height, width), np.uint8)
    hole[6:12, 5:13] = 1
    return hole


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mode=st.sampled_from(MODES),
    width=st.integers(3, 41),
    height=st.integers(3, 41),
    channels=st.sampled_from([1, 3, 4]),
    seed=st.integers(0, 10**6),
    share=st.floats(0.01, 0.9),
    blobs=st.booleans(),
    context=st.sampled_from([0.0, 1.0, 2.0]),
)
def test_known_pixels_keep_their_bits(
    models: Call,
    mode: str,
    width: int,
    height: int,
    channels: int,
    seed: int,
    share: float,
    blobs: bool,
    context: float,
) -> None:
    random = np.random.default_rng(seed)
    hole = random.random((height, width)) < share
    if blobs:
        hole[:] = False
        hole[random.integers(height) :, : random.integers(1, width + 1)] = True
    hole[0, 0], hole[-1, -1] = True, False
    ending = ENDING.get(mode, "png")
    given_picture = picture(mode, width, height, seed)
    given_picture.save(f"x.{ending}")
    before = pixels(f"x.{ending}")
    mask = mask_file(hole.astype(np.uint8))
    models(f"x.{ending}", f"y.{ending}", channels, mask=mask, force=True, context=context, seed=seed)
    with Image.open(f"x.{ending}") as was, Image.open(f"y.{ending}") as now:
        assert (now.mode, now.size) == (was.mode, was.size)
        assert now.getpalette() == was.getpalette()
    after = pixels(f"y.{ending}")
    assert np.array_equal(before[~hole], after[~hole])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "1", "P"])
def test_webp_keeps_known_colours(models: Call, mode: str) -> None:
    picture(mode, 20, 20).save("x.png")
    hole = square_hole()
    models("x.png", "y.webp", mask=mask_file(hole))
    with Image.open("x.png") as was, Image.open("y.webp") as now:
        assert np.array_equal(np.asarray(was.convert(now.mode))[hole == 0], np.asarray(now)[hole == 0])


def test_other_seeds_other_fills_and_the_same_again(models: Call) -> None:
    picture("RGB", 20, 20).save("x.png")
    mask = mask_file(square_hole())
    found = models("x.png", "y.png", mask=mask, count=3)
    assert found["paths"] == ["y-1.png", "y-2.png", "y-3.png"]
    assert len({pixels(path).tobytes() for path in found["paths"]}) == 3
    models("x.png", "one.png", mask=mask, seed=7)
    assert np.array_equal(pixels("one.png"), pixels("y-3.png"))
    models("x.png", "p-%03d.png", mask=mask, count=2)
    assert np.array_equal(pixels("p-006.png"), pixels("y-2.png"))


def test_profile_exif_and_orientation(models: Call) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010E], exif[0x0112], exif[0x010F] = "mine", 6, "Leica"
    for ending in ("png", "webp", "tif"):
        picture("RGB", 30, 20).save(
            f"x.{ending}", icc_profile=profile, exif=exif, **({"lossless": True} if ending == "webp" else {})
        )
        with Image.open(f"x.{ending}") as image:
            upright = np.asarray(ImageOps.exif_transpose(image))
        hole = square_hole(20, 30)
        models(f"x.{ending}", f"y.{ending}", mask=mask_file(hole), boxes=((0, 0, 2, 3),))
        hole[:3, :2] = 1
        with Image.open(f"y.{ending}") as image:
            image.load()
            assert image.size == (20, 30) and image.info["icc_profile"] == profile
            kept = image.getexif()
            assert kept.get(0x0112, 1) == 1 and kept[0x010E] == "mine" and kept[0x010F] == "Leica"
            assert np.array_equal(np.asarray(image)[hole == 0], upright[hole == 0])
        assert describe_file(Path(f"y.{ending}"))["command"].startswith("imggen inpaint")


def test_jpeg_says_that_it_cannot(models: Call) -> None:
    picture("RGBA", 20, 20).save("x.png")
    told = Told()
    models("x.png", "y.jpg", reporter=told, mask=mask_file(square_hole()))
    assert any("warning: JPEG changes every pixel" in line for line in told.lines)
    with Image.open("y.jpg") as image:
        assert image.mode == "RGB" and image.size == (20, 20)
    assert describe_file(Path("y.jpg"))["seed"] == "5"


def test_alpha(models: Call) -> None:
    raw = np.full((20, 20, 4), 200, np.uint8)
    raw[6:12, 5:13, 3] = 0
    raw[0, 0, 3] = 0
    Image.fromarray(raw).save("x.png")
    models("x.png", "a.png", from_alpha=True)
    assert (pixels("a.png")[..., 3] == np.where(raw[..., 3] == 0, 255, raw[..., 3])).all()
    models("x.png", "b.png", mask=mask_file(square_hole()))
    assert np.array_equal(pixels("b.png")[..., 3], raw[..., 3])  # colours are filled, transparency stays
    models("x.png", "c.png", 4, from_alpha=True)
    assert len(np.unique(pixels("c.png")[6:12, 5:13, 3])) == 1
    picture("RGB", 20, 20).save("solid.png")
    with pytest.raises(DataError, match="no transparency"):
        models("solid.png", "d.png", from_alpha=True)
    key = picture("RGB", 20, 20)
    key.save("key.png", transparency=key.getpixel((8, 8)))
    models("key.png", "e.png", from_alpha=True)
    with Image.open("e.png") as image:
        assert image.mode == "RGB" and np.asarray(image.convert("RGBA"))[8, 8, 3] == 255


def test_masks_of_every_kind(models: Call) -> None:
    picture("L", 20, 20).save("x.png")
    hole = square_hole() > 0

    def filled_where(**more: Any) -> Bytes:
        models("x.png", "y.png", force=True, seed=12, **more)
        return pixels("y.png") != pixels("x.png")

    white = Image.fromarray(hole.astype(np.uint8) * 255)
    clear = Image.new("RGBA", (20, 20))
    clear.paste((255, 255, 255, 255), mask=white)
    for name, mask in (("grey", white), ("bits", white.convert("1")), ("rgb", white.convert("RGB")), ("clear", clear)):
        mask.save(f"{name}.png")
        found = filled_where(mask=Path(f"{name}.png"))
        assert not found[~hole].any() and found[hole].mean() > 0.8, name
    Image.fromarray(np.where(hole, 128, 127).astype(np.uint8)).save("edge.png")
    assert not filled_where(mask=Path("edge.png"))[~hole].any()
    ImageOps.invert(white).save("black.png")
    assert not filled_where(mask=Path("black.png"), invert=True)[~hole].any()
    wider = filled_where(mask=Path("grey.png"), grow=2)
    assert wider[4, 3:15].any() and not wider[:4].any() and not wider[:, :3].any()
    white.resize((40, 40)).save("large.png")
    with pytest.raises(DataError, match="40x40, its picture 20x20"):
        models("x.png", "z.png", mask=Path("large.png"))
    assert filled_where(mask=Path("large.png"), resize_mask=True)[hole].mean() > 0.8
    boxes = filled_where(boxes=((0, 0, 3, 2), (18, 18, 2, 2)))
    assert boxes[:2, :3].any() and boxes[18:, 18:].any() and boxes.sum() <= 10


def test_feathers_stay_in_the_hole(models: Call) -> None:
    Image.fromarray(np.full((32, 32), 100, np.uint8)).save("x.png")
    hole = np.zeros((32, 32), np.uint8)
    hole[4:28, 4:28] = 1
    models("x.png", "hard.png", mask=mask_file(hole))
    models("x.png", "soft.png", mask=mask_file(hole), feather=5)
    hard, soft = (np.abs(pixels(name).astype(int) - 100) for name in ("hard.png", "soft.png"))
    assert not soft[hole == 0].any() and soft[16, 16] == hard[16, 16] > 0
    assert 0 < soft[16, 4] < soft[16, 6] < soft[16, 9]
    weights = feathered(hole > 0, 5)
    assert weights[hole == 0].max() == 0 and weights[16, 16] == 1 and np.isclose(weights[16, 4], 1 / 6)


def test_expanding_grows_the_picture(models: Call) -> None:
    for mode in ("RGB", "P", "RGBA", "I;16"):
        picture(mode, 20, 16).save("x.png")
        models("x.png", "y.png", expand=(3, 0, 5, 7), force=True)
        before, after = pixels("x.png"), pixels("y.png")
        assert after.shape[:2] == (23, 28) and np.array_equal(after[:16, 3:23], before)
        if mode == "RGBA":
            assert (after[16:, :, 3] == 255).all()


def test_large_pictures_are_worked_in_squares(models: Call) -> None:
    told = Told()
    picture("RGB", 300, 200).save("x.png")
    hole = np.zeros((200, 300), np.uint8)
    hole[10:90, 20:60] = hole[150:156, 250:258] = hole[158:160, 255:257] = 1
    models("x.png", "y.png", reporter=told, mask=mask_file(hole), count=2)
    for name in ("y-1.png", "y-2.png"):
        assert np.array_equal(pixels(name)[hole == 0], pixels("x.png")[hole == 0])
        assert (pixels(name)[hole > 0] != pixels("x.png")[hole > 0]).mean() > 0.9
    assert any("squares of more than 64 pixels are worked at 16" in line for line in told.lines)
    parts, count = parts_of(hole > 0)
    found = squares(parts, count, 16, 2.0)
    assert len(found) == 2 and found[0].side == 160 and found[1].side == 20
    for place in found:
        assert 0 <= place.left <= 300 - place.side and 0 <= place.top <= 200 - place.side
    assert {part for place in found for part in place.parts} == set(range(1, count + 1))


def test_seams_are_blended() -> None:
    random = np.random.default_rng(0)
    truth = np.add.outer(np.linspace(0, 200, 48), np.linspace(0, 40, 48))[..., None].astype(np.float32)
    hole = np.zeros((48, 48), bool)
    hole[12:37, 9:30] = True
    wrong = truth + 30 + np.linspace(0, 20, 48)[None, :, None].astype(np.float32)
    mended = seamless(wrong, truth, ~hole, hole)
    assert np.abs(mended - truth)[hole].max() < 1.5 < np.abs(wrong - truth)[hole].min()
    assert np.array_equal(seamless(truth, truth, ~hole, hole), truth)
    rough = membrane(random.normal(0, 1, (48, 48, 3)).astype(np.float32), ~hole, hole)
    assert np.abs(rough[20:28, 16:22]).max() < 0.6
    assert np.array_equal(grown(hole, 0), hole) and grown(hole, 2).sum() == 29 * 25
    assert np.array_equal(membrane(truth, np.zeros_like(hole), hole), np.zeros_like(truth))


def folders() -> None:
    for name in ("a.png", "b.jpg", "sub/a.png", "sub/c.tif", "b.webp"):
        path = Path("in") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture("RGB", 20, 20, len(name)).save(path)
    for name in ("a", "b", "sub/a", "sub/c"):
        path = Path("masks") / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask_file(square_hole(), str(path))


def png_of_16_bits(kind: int, channels: int) -> bytes:
    """A PNG of 4x4 pixels of that colour type, which Pillow cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + bytes(range(1, 8 * channels + 1)) for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colours_of_16_bits_are_refused_not_cut(models: Call, kind: int, channels: int) -> None:
    Path("x.png").write_bytes(png_of_16_bits(kind, channels))
    with pytest.raises(DataError, match="16 bits a colour"):
        models("x.png", "y.png", boxes=((0, 0, 2, 2),))
    Path("g.png").write_bytes(png_of_16_bits(0, 1))
    models("g.png", "h.png", boxes=((0, 0, 2, 2),))
    assert np.array_equal(pixels("h.png")[2:], pixels("g.png")[2:]) and pixels("h.png").dtype == np.uint16


@pytest.mark.parametrize("ending", ["png", "webp", "tif", "jpg"])
def test_a_cameras_exif_goes_into_every_format(models: Call, ending: str) -> None:
    """With the folders of tags inside it that every camera and telephone writes."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Box"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.01
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    picture("RGB", 20, 20).save("x.jpg", exif=exif)
    models("x.jpg", f"y.{ending}", boxes=((0, 0, 2, 2),))
    with Image.open(f"y.{ending}") as image:
        kept = image.getexif()
        assert kept[ExifTags.Base.Make] == "Box"
        assert ending == "tif" or kept.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"


def test_files_of_several_pictures_say_so(models: Call) -> None:
    pages = [picture("RGB", 20, 20, seed) for seed in range(3)]
    pages[0].save("x.tif", save_all=True, append_images=pages[1:])
    told = Told()
    models("x.tif", "y.tif", reporter=told, boxes=((0, 0, 2, 2),))
    assert any("of its 3 pictures only the first" in line for line in told.lines)


def test_folders_of_both(models: Call) -> None:
    folders()
    Path("in/._a.png").write_bytes(b"left behind by a Mac")
    found = models("in", "out/", mask=Path("masks"))
    names = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file())
    assert names == ["a.png", "b.jpg.png", "b.webp.webp", "sub/a.png", "sub/c.tif"]
    assert sorted(found["paths"]) == [f"out/{name}" for name in names] and len(found["pictures"]) == 5
    for name, source in (("a.png", "a.png"), ("b.jpg.png", "b.jpg"), ("sub/c.tif", "sub/c.tif")):
        hole = square_hole()
        assert np.array_equal(pixels(Path("out") / name)[hole == 0], pixels(Path("in") / source)[hole == 0])
    many = models("in", "two/", mask=Path("masks/a.png"), count=2, format="png")
    assert len(many["paths"]) == 10 and "two/sub/c-2.png" in many["paths"]
    models("in", "sheet.png", mask=Path("masks"), count=2, sheet=True)
    assert pixels("sheet.png").shape == (5 * 22 + 2, 4 * 22 + 2, 3)
    with pytest.raises(UsageError, match="already exists"):
        models("in", "out/", mask=Path("masks"))


def test_one_bad_pair_and_nothing_is_written(models: Call) -> None:
    folders()

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            models("in", "out/", mask=Path("masks"))
        assert not Path("out").exists()

    Path("masks/b.png").rename("b.png")
    refused(r"b\.jpg has no mask")
    mask_file(np.zeros((20, 20), np.uint8), "masks/b.png")
    refused("no hole")
    mask_file(np.ones((20, 20), np.uint8), "masks/b.png")
    refused("everything is hole")
    mask_file(square_hole(21, 20), "masks/b.png")
    refused("21x20")
    Path("masks/b.png").write_bytes(b"\x89PNG")
    refused("cannot be read")
    Path("b.png").rename("masks/b.png")
    Path("in/sub/c.tif").write_bytes(b"II*\0")
    refused(r"c\.tif cannot be read")


def test_sheets(models: Call) -> None:
    picture("RGB", 20, 20).save("x.png")
    models("x.png", "s.png", mask=mask_file(square_hole()), count=3, sheet=True)
    sheet = pixels("s.png")
    assert sheet.shape == (24, 5 * 22 + 2, 3)
    assert np.array_equal(sheet[2:22, 2:22], pixels("x.png")) and (sheet[2 + 8, 24 + 8] == 128).all()
    models("x.png", "y.png", mask=Path("m.png"), seed=7)
    assert np.array_equal(sheet[2:22, -22:-2], pixels("y.png"))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_classical_needs_no_model(mode: str) -> None:
    y, x = np.mgrid[:40, :50]
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    smooth = (y * 3 + x * 2).astype(np.uint8)[..., None].repeat(channels, 2)
    Image.fromarray(smooth[..., 0] if mode == "L" else smooth).save("x.png")
    options = InpaintOptions(image=Path("x.png"), output="y.png", method="classical", boxes=((20, 0, 2, 40),))
    inpaint(options, Silent())
    assert np.abs(pixels("y.png").astype(int) - pixels("x.png")).max() <= 2
    assert np.array_equal(pixels("y.png")[:, :20], pixels("x.png")[:, :20])
    assert describe_file(Path("y.png"))["method"] == "classical"


def test_a_real_model_fills() -> None:
    disc = np.hypot(*(np.mgrid[:32, :32] - 15.5))
    Image.fromarray(np.where(abs(disc - 8) < 2, 255, 0).astype(np.uint8)).save("x.png")
    options = InpaintOptions(
        model="gan", image=Path("x.png"), output="y.png", boxes=((16, 10, 8, 8),), label="0", seed=1, temperature=0.8
    )
    found = inpaint(options, Silent())
    hole = np.zeros((32, 32), bool)
    hole[10:18, 16:24] = True
    was, now = pixels("x.png").astype(float), pixels("y.png").astype(float)
    assert np.array_equal(was[~hole], now[~hole]) and found["pictures"][0]["hole"] == 0.0625
    assert np.abs(was - now)[hole].mean() < np.abs(was[hole] - was[hole].mean()).mean()


@pytest.mark.parametrize("more", [{"boxes": ((1, 2, 3, 4),), "grow": 1}, {"expand": (1, 2, 3, 4), "context": 0.0}, {}])
def test_the_command_of_a_file_makes_it_again(models: Call, more: dict[str, Any]) -> None:
    picture("RGB", 20, 20).save("x y.png")
    models("x y.png", "y.png", mask=mask_file(square_hole()), **more)
    command = shlex.split(describe_file(Path("y.png"))["command"])
    first = Path("y.png").read_bytes()
    Path("y.png").unlink()
    with pytest.raises(SystemExit) as caught:
        main([*command[1:], "--quiet"])
    assert not caught.value.code and Path("y.png").read_bytes() == first


@pytest.mark.parametrize(
    ("output", "more", "kind", "message"),
    [
        ("y.png", {}, UsageError, "where is the hole"),
        ("y.png", {"boxes": ((15, 0, 6, 2),)}, UsageError, "not in the picture"),
        ("y.png", {"boxes": ((0, 0, 20, 20),)}, DataError, "everything is hole"),
        ("y.bmp", {"boxes": ((0, 0, 2, 2),)}, UsageError, "bmp"),
        ("-", {"boxes": ((0, 0, 2, 2),)}, UsageError, "files"),
        ("y/", {"boxes": ((0, 0, 2, 2),), "sheet": True}, UsageError, "one picture"),
        ("x.png", {"boxes": ((0, 0, 2, 2),)}, UsageError, "already exists"),
        ("y-%s.png", {"boxes": ((0, 0, 2, 2),)}, UsageError, "one number"),
        ("new/y.png", {"boxes": ((0, 0, 2, 2),)}, UsageError, "there is no folder new"),
        ("new/y.png", {"boxes": ((0, 0, 2, 2),), "sheet": True}, UsageError, "there is no folder new"),
        ("y.png", {"mask": Path("none.png")}, DataError, "no file"),
        ("y.png", {"mask": Path("bad.png")}, DataError, "cannot be read"),
        ("y.png", {"boxes": ((0, 0, 2, 2),), "label": "7"}, UsageError, "no classes"),
        ("y.png", {"from_alpha": True, "feather": 2}, UsageError, "feather"),
        ("y.png", {"expand": (20_000, 0, 0, 0)}, UsageError, "too large"),
        ("y.png", {"boxes": ((0, 0, 2, 2),), "format": "png"}, UsageError, "ending"),
    ],
)
def test_what_cannot_be_is_refused(
    models: Call, output: str, more: dict[str, Any], kind: type[Exception], message: str
) -> None:
    picture("RGB", 20, 20).save("x.png")
    Path("bad.png").write_bytes(b"no picture")
    before = sorted(Path().iterdir())
    with pytest.raises(kind, match=message):
        models("x.png", output, **more)
    assert sorted(Path().iterdir()) == before


def test_modes_that_a_format_cannot_hold(models: Call) -> None:
    picture("CMYK", 20, 20).save("x.tif")
    mask = mask_file(square_hole())
    with pytest.raises(UsageError, match="PNG cannot hold"):
        models("x.tif", "y.png", mask=mask)
    buffer = io.BytesIO()
    picture("CMYK", 20, 20).save(buffer, "JPEG")
    Path("in").mkdir()
    Path("in/c.jpg").write_bytes(buffer.getvalue())
    assert models("in", "out/", mask=mask)["paths"] == ["out/c.tif"]
    Image.new("LAB", (20, 20)).save("lab.tif")
    with pytest.raises(DataError, match="mode LAB"):
        models("lab.tif", "y.tif", mask=mask)


def test_warnings_and_plans(models: Call, tmp_path: Path) -> None:
    picture("RGB", 20, 20).save("x.png")
    hole = np.ones((20, 20), np.uint8)
    hole[0, :10] = 0
    told = Told()
    models("x.png", "y.png", reporter=told, mask=mask_file(hole))
    assert any("98% is hole" in line for line in told.lines)
    more = {"model": str(tmp_path / "3.safetensors"), "image": Path("x.png"), "boxes": ((0, 0, 4, 5),)}
    found = plan(InpaintOptions(output="z.png", count=2, **more), Silent())
    assert found["pictures"] == [{"image": "x.png", "hole": 0.05, "squares": 1, "paths": ["z-1.png", "z-2.png"]}]
    assert not list(Path().glob("z*")) and json.dumps(found)


def test_memory_that_is_too_small_halves_the_batch(models: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    picture("RGB", 20, 20).save("x.png")
    mask, told = mask_file(square_hole()), Told()
    models("x.png", "a.png", mask=mask, count=5)

    def little(self: GanBackend, images: Tensor, *rest: Any, **more: Any) -> Tensor:
        if len(images) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return quick(self, images, *rest, **more)

    monkeypatch.setattr(GanBackend, "inpaint", little)
    models("x.png", "b.png", reporter=told, mask=mask, count=5)
    assert any("not enough memory" in line for line in told.lines)
    assert all(np.array_equal(pixels(f"a-{k}.png"), pixels(f"b-{k}.png")) for k in range(1, 6))
