"""Filling holes from the outside: folders, sheets, commands, plans, and what is refused."""

import io
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from imggen.cli.app import main
from imggen.engine.info import describe_file
from imggen.engine.inpainting.inpaint import inpaint, plan
from imggen.engine.options import InpaintOptions
from imggen.errors import DataError, UsageError
from imggen.models.gan.backend import GanBackend as GanBackend
from imggen.reporting import Silent
from tests.engine.inpaint_help import Call, Told, folders, mask_file, picture, pixels, quick, square_hole


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
