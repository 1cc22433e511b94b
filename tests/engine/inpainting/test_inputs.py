"""Folders of images and masks, what is refused before anything is written, and how often files are read."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imggen.engine import inpainting
from imggen.engine.inpainting import inputs
from imggen.engine.options import InpaintOptions
from imggen.errors import DataError, UsageError
from tests.engine.inpainting.conftest import Inpaint, random_image, save_mask, square_mask
from tests.helpers import RecordingReporter, read_pixels

IMAGES = ("a.png", "b.jpg", "sub/a.png", "sub/c.tif", "b.webp")


@pytest.fixture
def folders() -> None:
    """A folder of images, and one of masks of the same names."""
    for name in IMAGES:
        path = Path("in") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        random_image("RGB", seed=len(name)).save(path)
    for name in ("a", "b", "sub/a", "sub/c"):
        path = Path("masks") / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_mask(square_mask(), str(path))


def test_folders_of_images_and_masks(inpaint: Inpaint, folders: None) -> None:
    Path("in/._a.png").write_bytes(b"left behind by a Mac")
    result = inpaint("in", "out/", mask=Path("masks"))
    names = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file())
    assert names == ["a.png", "b.jpg.png", "b.webp.webp", "sub/a.png", "sub/c.tif"]
    assert sorted(result["paths"]) == [f"out/{name}" for name in names] and len(result["images"]) == 5
    mask = square_mask()
    for name, source in (("a.png", "a.png"), ("b.jpg.png", "b.jpg"), ("sub/c.tif", "sub/c.tif")):
        filled, original = read_pixels(Path("out") / name), read_pixels(Path("in") / source)
        assert np.array_equal(filled[mask == 0], original[mask == 0])
    several = inpaint("in", "two/", mask=Path("masks/a.png"), count=2, format="png")
    assert len(several["paths"]) == 10 and "two/sub/c-2.png" in several["paths"]
    inpaint("in", "sheet.png", mask=Path("masks"), count=2, sheet=True)
    assert read_pixels("sheet.png").shape == (5 * 22 + 2, 4 * 22 + 2, 3)
    with pytest.raises(UsageError, match="already exists"):
        inpaint("in", "out/", mask=Path("masks"))


def test_after_one_bad_file_nothing_is_written(inpaint: Inpaint, folders: None) -> None:
    def check_refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            inpaint("in", "out/", mask=Path("masks"))
        assert not Path("out").exists()

    Path("masks/b.png").rename("b.png")
    check_refused(r"b\.jpg has no mask")
    save_mask(np.zeros((20, 20), np.uint8), "masks/b.png")
    check_refused("no pixel is masked")
    save_mask(np.ones((20, 20), np.uint8), "masks/b.png")
    check_refused("every pixel is masked")
    save_mask(square_mask(21, 20), "masks/b.png")
    check_refused("21x20")
    Path("masks/b.png").write_bytes(b"\x89PNG")
    check_refused("cannot be read")
    Path("b.png").rename("masks/b.png")
    Path("in/sub/c.tif").write_bytes(b"II*\0")
    check_refused(r"c\.tif cannot be read")


def test_each_file_is_read_once_where_memory_allows(
    inpaint: Inpaint, folders: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, original = list[Path](), inputs.open_source_image

    def counting(path: Path) -> Any:
        read.append(path)
        return original(path)

    monkeypatch.setattr(inputs, "open_source_image", counting)
    first = inpaint("in", "one/", mask=Path("masks"))
    assert len(read) == len(set(read)) == len(IMAGES)
    read.clear()
    monkeypatch.setattr(inputs, "MAX_KEPT_BYTES", 3 * 400 * inputs.BYTES_PER_PIXEL)
    second = inpaint("in", "two/", mask=Path("masks"))
    assert len(read) == len(IMAGES) + 2  # three are kept, two are read again
    for one, two in zip(first["paths"], second["paths"], strict=True):
        assert np.array_equal(read_pixels(one), read_pixels(two))


@pytest.mark.parametrize(
    ("output", "more", "error", "message"),
    [
        ("y.png", {}, UsageError, "no mask was given"),
        ("y.png", {"boxes": ((15, 0, 6, 2),)}, UsageError, "not inside the image"),
        ("y.png", {"boxes": ((0, 0, 20, 20),)}, DataError, "every pixel is masked"),
        ("y.bmp", {"boxes": ((0, 0, 2, 2),)}, UsageError, "bmp"),
        ("-", {"boxes": ((0, 0, 2, 2),)}, UsageError, "files"),
        ("y/", {"boxes": ((0, 0, 2, 2),), "sheet": True}, UsageError, "one image"),
        ("x.png", {"boxes": ((0, 0, 2, 2),)}, UsageError, "already exists"),
        ("y-%s.png", {"boxes": ((0, 0, 2, 2),)}, UsageError, "no single %d"),
        ("new/y.png", {"boxes": ((0, 0, 2, 2),)}, UsageError, "there is no folder new"),
        ("new/y.png", {"boxes": ((0, 0, 2, 2),), "sheet": True}, UsageError, "there is no folder new"),
        ("y.png", {"mask": Path("none.png")}, DataError, "no file"),
        ("y.png", {"mask": Path("bad.png")}, DataError, "cannot be read"),
        ("y.png", {"boxes": ((0, 0, 2, 2),), "label": "7"}, UsageError, "no classes"),
        ("y.png", {"from_alpha": True, "feather": 2}, UsageError, "feather"),
        ("y.png", {"expand": (20_000, 0, 0, 0)}, UsageError, "too large"),
        ("y.png", {"boxes": ((0, 0, 2, 2),), "format": "png"}, UsageError, "ending"),
        ("y.png", {"boxes": ((0, 0, 2, 2),), "seed": 2**63 - 1, "count": 2}, UsageError, "too large"),
    ],
)
def test_refusals(inpaint: Inpaint, output: str, more: dict[str, Any], error: type[Exception], message: str) -> None:
    random_image("RGB").save("x.png")
    Path("bad.png").write_bytes(b"not an image")
    before = sorted(Path().iterdir())
    with pytest.raises(error, match=message):
        inpaint("x.png", output, **more)
    assert sorted(Path().iterdir()) == before


def test_a_nearly_empty_image_has_a_warning(inpaint: Inpaint) -> None:
    random_image("RGB").save("x.png")
    mask = np.ones((20, 20), np.uint8)
    mask[0, :10] = 0
    reporter = RecordingReporter()
    inpaint("x.png", "y.png", reporter=reporter, mask=save_mask(mask))
    assert any("98% is masked" in warning for warning in reporter.warnings)


@pytest.mark.parametrize("link", ["same", "symbolic", "hard"])
@pytest.mark.parametrize("is_folder", [False, True])
def test_an_image_is_not_its_own_mask(inpaint: Inpaint, link: str, is_folder: bool) -> None:
    Path("in").mkdir()
    random_image("RGB").save("in/x.png")
    mask = Path("in/x.png")
    if link != "same":
        Path("masks").mkdir()
        mask = Path("masks/x.png")
        mask.hardlink_to("in/x.png") if link == "hard" else mask.symlink_to(Path("in/x.png").absolute())
    with pytest.raises(UsageError, match=r"in/x\.png would be its own mask|in in would be their own masks"):
        inpaint("in" if is_folder else "in/x.png", "out/", mask=mask.parent if is_folder else mask)
    assert not Path("out").exists()


@pytest.mark.parametrize("flag", ["image", "mask"])
def test_a_pipe_is_refused(inpaint: Inpaint, flag: str) -> None:
    os.mkfifo("pipe")
    random_image("RGB").save("x.png")
    image, mask = ("pipe", Path("x.png")) if flag == "image" else ("x.png", Path("pipe"))
    with pytest.raises(UsageError, match="pipe is a pipe or a device") as error:
        inpaint(image, "y.png", mask=mask)
    assert "give a file" in str(error.value.hint)


@pytest.mark.parametrize(
    ("size", "output", "more", "message"),
    [
        ((17_000, 2), "y.webp", {}, r"x\.png is 17000x2, and WEBP allows at most 16,383"),
        ((66_000, 2), "y.jpg", {}, r"x\.png is 66000x2, and JPEG allows at most 65,500"),
        ((66_000, 2), "out/", {"format": "jpeg"}, "JPEG allows at most"),
        ((9_000, 2), "y.png", {"sheet": True}, "the sheet is too large"),
    ],
)
def test_limits_of_formats_are_known_before_the_model(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], output: str, more: dict[str, Any], message: str
) -> None:
    Image.new("L", size).save("x.png")
    options = InpaintOptions(model="no such model", image=Path("x.png"), output=output, boxes=((0, 0, 1, 1),), **more)
    with pytest.raises(UsageError, match=message):
        inpainting.run(options, RecordingReporter())
    assert sorted(path.name for path in Path().iterdir()) == ["x.png"]
