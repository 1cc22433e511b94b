"""Which mask belongs to which image."""

from pathlib import Path
from typing import Any

import pytest

from imggen.engine.inpainting.inputs import InpaintInput, find_inputs
from imggen.engine.inpainting.mask_files import MaskFiles
from imggen.engine.options import InpaintOptions
from imggen.errors import DataError
from imggen.reporting import Silent
from tests.data.helpers import tree
from tests.helpers import RecordingReporter

COMPOSED, DECOMPOSED = "\u00e9.png", "e\u0301.png"


def inputs(image: str, mask: str | None, output: str | None = "filled/", **more: Any) -> list[InpaintInput]:
    paths = {"mask": None if mask is None else Path(mask), "output": output}
    return find_inputs(InpaintOptions(model="gan", image=Path(image), **paths, **more), Silent())


def find(image: str) -> Path | None:
    return MaskFiles(InpaintOptions(model="gan", image=Path("i"), mask=Path("m"))).find(Path(image))


def test_the_same_name_then_the_same_stem() -> None:
    tree(Path("m"), "a.png", "a.jpg", "b.webp", "x/a.png")
    assert [find(name) for name in ("a.jpg", "b.png", "x/a.tif")] == [
        Path(f"m/{n}") for n in ("a.jpg", "b.webp", "x/a.png")
    ]
    with pytest.raises(DataError, match=r"a\.tif has more than one mask: a\.jpg, a\.png"):
        find("a.tif")


@pytest.mark.parametrize(("image", "mask"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_names_composed_differently_are_the_same(image: str, mask: str) -> None:
    tree(Path("m"), mask)
    assert find(image) == Path("m", mask) == find(image.replace("png", "jpg"))
    tree(Path("m"), image)
    assert find(image) == Path("m", image)


def test_another_case_is_a_hint() -> None:
    tree(Path("m"), "a.png")
    with pytest.raises(DataError, match=r"A\.PNG has no mask") as caught:
        find("A.PNG")
    assert caught.value.hint == "a.png differs in upper and lower case: call it A.png"
    with pytest.raises(DataError) as caught:
        find("b.jpg")
    assert caught.value.hint == "call it b.png"


def test_masks_inside_the_images_are_masks() -> None:
    tree(Path("photos"), "a.png", "masks/a.png")
    assert inputs("photos", "photos/masks") == [
        InpaintInput(Path("photos/a.png"), Path("photos/masks/a.png"), Path("a"))
    ]
    tree(Path("photos"), "mask.png")
    assert [each.image.name for each in inputs("photos", "photos/mask.png")] == ["a.png", "a.png"]


def test_images_inside_the_masks_are_images() -> None:
    tree(Path("m"), "a.png", "images/a.png")
    assert [each.mask for each in inputs("m/images", "m")] == [Path("m/a.png")]


@pytest.mark.parametrize("output", ["p/filled/", "p/sheet.png", None])
def test_results_inside_the_images_are_not_filled_again(output: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(Path("p"), "a.png", "filled/a.png", "sheet.png")
    image = "p"
    if output is None:  # the default output, in the current folder
        monkeypatch.chdir("p")
        image = "."
    found = [
        each.image.relative_to(image).as_posix() for each in inputs(image, None, output, sheet=output == "p/sheet.png")
    ]
    everything = ["a.png", "filled/a.png", "sheet.png"]
    assert found == [
        name for name in everything if name == "a.png" or name.split("/")[0] not in str(output or "filled")
    ]


def test_what_is_left_out_is_reported() -> None:
    tree(Path("p"), "a.png", "b.heic")
    reporter = RecordingReporter()
    find_inputs(InpaintOptions(model="gan", image=Path("p"), boxes=((0, 0, 1, 1),)), reporter)
    assert reporter.warnings == ["p: 1 .heic file is left out: imggen reads PNG, JPEG, WebP, GIF, BMP and TIFF"]


def test_what_a_folder_of_masks_leaves_out_is_reported() -> None:
    tree(Path("i"), "a.png")
    tree(Path("m"), "a.png", "b.heic")
    reporter = RecordingReporter()
    find_inputs(InpaintOptions(model="gan", image=Path("i"), mask=Path("m"), output="filled/"), reporter)
    assert len(reporter.warnings) == 1 and reporter.warnings[0].startswith("m: 1 .heic file is left out")
