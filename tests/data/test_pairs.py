"""Images with their masks: every format of masks, names, sizes, and what is refused."""

import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imggen.data.class_names import names_beside_masks
from imggen.data.dataset import DataOptions, Dataset, load_dataset, scan_dataset
from imggen.data.masks import VOID, MaskTable, voc_palette
from imggen.data.pair_scan import TargetOptions, match_names
from imggen.data.readers import reader_document, reader_from
from imggen.data.workers import DecodeJob
from imggen.errors import DataError, UsageError
from tests.data.helpers import tree
from tests.helpers import RecordingReporter

TRUTH = np.array([[0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]], np.uint8).repeat(4, 0).repeat(4, 1)


def as_mode(truth: np.ndarray[Any, Any], mode: str) -> Image.Image:
    """A mask of two classes in one of the modes in which masks are saved."""
    if mode == "P":
        image = Image.fromarray(truth)
        image.putpalette(voc_palette().tobytes())
        return image
    if mode == "I;16":
        return Image.fromarray(truth.astype(np.uint16))
    binary = Image.fromarray(truth * 255)
    return binary.convert(mode) if mode != "1" else binary.convert("1", dither=Image.Dither.NONE)


def write_pairs(root: Path, masks: list[Image.Image], ending: str = ".png") -> None:
    for number, mask in enumerate(masks):
        for folder in ("images", "masks"):
            (root / folder / "c").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number * 40, 10, 20)).save(root / "images" / "c" / f"{number}.bmp")
        mask.save(root / "masks" / "c" / f"{number}{ending}", **({"quality": 90} if ending == ".jpg" else {}))


def load(root: Path, **more: Any) -> Dataset:
    targets = TargetOptions(str(root / "masks"), masks=True, **more)
    options = DataOptions(use_classes=False, cache_dir=root / "cache", targets=targets)
    return load_dataset(str(root / "images"), options, max_size=64, reporter=RecordingReporter())


def table_of(dataset: Dataset) -> MaskTable:
    assert dataset.targets is not None and dataset.targets.table is not None
    return dataset.targets.table


@pytest.mark.parametrize("mode", ["P", "L", "1", "I;16", "RGB", "RGBA", "LA"])
def test_every_mode_gives_the_same_pairs(tmp_path: Path, mode: str) -> None:
    write_pairs(tmp_path, [as_mode(TRUTH, mode), as_mode(1 - TRUTH, mode), as_mode(TRUTH, mode)])
    dataset = load(tmp_path)
    assert dataset.channels == 3 and dataset.images.shape == (3, 16, 16, 4) and not dataset.classes
    assert np.array_equal(dataset.images[0, :, :, 3], TRUTH)
    assert np.array_equal(dataset.images[1, :, :, 3], 1 - TRUTH)
    assert dataset.images[2, 0, 0, :3].tolist() == [80, 10, 20]
    assert table_of(dataset).names == ("background", "object")


def test_255_beside_small_values_is_void_and_names_are_given(tmp_path: Path) -> None:
    values = np.where(TRUTH == 1, 3, 0).astype(np.uint8)
    values[0, 0] = 255
    write_pairs(tmp_path, [Image.fromarray(values)] * 2)
    dataset = load(tmp_path)
    assert table_of(dataset).values == (0, 3) and dataset.images[0, 0, 0, 3] == VOID
    assert set(np.unique(dataset.images[..., 3]).tolist()) == {0, 1, VOID}
    assert table_of(load(tmp_path, void="none")).values == (0, 3, 255)
    (tmp_path / "masks" / "classes.txt").write_text("0 ground\n1 wall\n2 door\n3 roof\n")
    named = load(tmp_path)
    assert table_of(named).names == ("ground", "wall", "door", "roof") and named.images[0, 0, 15, 3] == 3
    with pytest.raises(DataError, match="3 names for 2 classes"):
        load(tmp_path, names="a,b,c")
    with pytest.raises(DataError, match="void value 9"):
        load(tmp_path, void="9")


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
def test_names_in_an_archive_of_masks(tmp_path: Path, ending: str) -> None:
    write_pairs(tmp_path, [Image.fromarray(np.where(TRUTH == 1, 3, 0).astype(np.uint8))] * 2)
    (tmp_path / "masks" / "classes.txt").write_text("0 ground\n1 wall\n2 door\n3 roof\n")
    other = tmp_path / "masks" / "old"
    other.mkdir()
    (other / "classes.txt").write_text("a\nb\n")
    archive = tmp_path / f"packed{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted((tmp_path / "masks").rglob("*.*")):
                file.write(path, f"masks/{path.relative_to(tmp_path / 'masks')}")
    else:
        with tarfile.open(archive, "w:gz" if ending.endswith("gz") else "w") as packed:
            packed.add(tmp_path / "masks", "masks")
    names = names_beside_masks(str(archive), tmp_path / "cache")
    assert names == names_beside_masks(str(tmp_path), tmp_path) == ["ground", "wall", "door", "roof"]


def test_damaged_names_in_an_archive_are_missing(tmp_path: Path) -> None:
    archive = tmp_path / "masks.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("classes.txt", "ground\nwall\n" * 50)
    content = bytearray(archive.read_bytes())
    begin = content.index(b"classes.txt") + len("classes.txt")
    content[begin : begin + 8] = b"\xff" * 8
    archive.write_bytes(content)
    assert names_beside_masks(str(archive), tmp_path) is None


def test_lossy_masks(tmp_path: Path) -> None:
    write_pairs(tmp_path, [as_mode(TRUTH, "L")] * 2, ".jpg")
    with pytest.raises(DataError, match="2 of 2 masks are JPEG"):
        load(tmp_path)
    dataset = load(tmp_path, lossy=True)
    assert np.array_equal(dataset.images[0, :, :, 3], TRUTH)


def test_a_mask_of_another_size_is_refused_or_resized(tmp_path: Path) -> None:
    small = as_mode(TRUTH[::4, ::4], "L")
    write_pairs(tmp_path, [as_mode(TRUTH, "L"), small])
    with pytest.raises(DataError, match="its mask is 4x4, the image 16x16"):
        load(tmp_path)
    assert np.array_equal(load(tmp_path, resize=True).images[1, :, :, 3], TRUTH)


def test_an_image_turned_by_its_metadata_has_its_mask_turned_alike(tmp_path: Path) -> None:
    wide = np.zeros((8, 16), np.uint8)
    wide[:, 8:] = 1
    write_pairs(tmp_path, [as_mode(TRUTH, "L")])
    exif = Image.Exif()
    exif[274] = 6
    for folder, image in (("images", Image.new("RGB", (16, 8))), ("masks", Image.fromarray(wide))):
        image.save(
            tmp_path / folder / "c" / "turned.tif" if folder == "images" else tmp_path / "masks/c/turned.png", exif=exif
        )
    dataset = load(tmp_path)
    turned = dataset.images[1, :, :, 3]
    assert (turned[:8] == 0).all() and (turned[8:] == 1).all()


def test_what_is_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, [as_mode(TRUTH, "L")] * 2)
    soft = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(soft).save(tmp_path / "masks/c/0.png")
    with pytest.raises(DataError, match="256 gray values"):
        load(tmp_path)
    Image.fromarray(soft).convert("F").save(tmp_path / "masks/c/0.tif")
    (tmp_path / "masks/c/0.png").unlink()
    with pytest.raises(DataError, match="mode F"):
        load(tmp_path)
    as_mode(TRUTH, "L").save(tmp_path / "masks/c/0.png")
    with pytest.raises(DataError, match="has two targets"):
        load(tmp_path)
    (tmp_path / "masks/c/0.tif").unlink()
    Image.new("L", (16, 16)).save(tmp_path / "masks/c/0.png")
    Image.new("L", (16, 16)).save(tmp_path / "masks/c/1.png")
    with pytest.raises(DataError, match="one class"):
        load(tmp_path)
    with pytest.raises(UsageError, match="their own targets"):
        options = DataOptions(
            use_classes=False, cache_dir=tmp_path / "cache", targets=TargetOptions(str(tmp_path / "images"), masks=True)
        )
        load_dataset(str(tmp_path / "images"), options, max_size=64, reporter=RecordingReporter())


def test_an_unknown_value_makes_a_mask_unreadable(tmp_path: Path) -> None:
    write_pairs(tmp_path, [as_mode(TRUTH, "P")] * 2)
    with pytest.raises(DataError, match="value 1 is none of the classes") as caught:
        load(tmp_path, table=MaskTable(False, (0, 7), ("a", "b")))
    assert "other masks" in str(caught.value.hint)


def test_names_match_without_endings_and_first_folders() -> None:
    assert match_names(["a/x.jpg", "b/x.jpg", "c.png"], ["a/x.png", "b/x.tif"]) == ([0, 1], [0, 1])
    assert match_names(["images/a/x.jpg"], ["masks/a/x.png"]) == ([0], [0])
    assert match_names(["x.jpg"], ["y.png"]) == ([], [])
    # Of one side alone: shards, or a folder around the images or the masks.
    assert match_names(["0.tar/a/x.jpg", "1.tar/a/y.jpg"], ["a/x.png", "a/y.png"]) == ([0, 1], [0, 1])
    assert match_names(["x.jpg", "y.jpg"], ["masks/x.png"]) == ([0], [0])
    # Not where two images would have one mask.
    assert match_names(["a/x.jpg", "b/x.jpg"], ["x.png"]) == ([], [])
    assert match_names(["a/x.jpg", "b/x.jpg", "b/y.jpg"], ["m/x.png"]) == ([], [])


def test_folders_inside_each_other_are_not_read_for_each_other(tmp_path: Path) -> None:
    write_pairs(tmp_path, [as_mode(TRUTH, "P")] * 2)
    for outer, inner in (("images", "masks"), ("masks", "images")):
        (tmp_path / inner).rename(tmp_path / outer / "inner")
        places = {outer: tmp_path / outer, inner: tmp_path / outer / "inner"}
        for matched in (True, False):
            targets = TargetOptions(str(places["masks"]), masks=matched, matched=matched)
            options = DataOptions(use_classes=False, cache_dir=tmp_path / "cache", targets=targets)
            reporter = RecordingReporter()
            scanned = scan_dataset(str(places["images"]), options, max_size=64, reporter=reporter)
            assert len(scanned.source.names) == 2 and not reporter.warnings
        (tmp_path / outer / "inner").rename(tmp_path / inner)


def test_the_same_images_with_and_without_pairs_are_both_kept(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tree(tmp_path / name, "0.png", "1.png", "2.png", "3.png")
    reporter = RecordingReporter()
    for matched in (True, False, True):
        targets = TargetOptions(str(tmp_path / "b"), masks=False, matched=matched)
        options = DataOptions(cache_dir=tmp_path / "cache", targets=targets)
        load_dataset(str(tmp_path / "a"), options, max_size=64, reporter=reporter)
    assert len([path for path in (tmp_path / "cache").iterdir() if (path / "index.json").exists()]) == 2
    assert not any("changed" in line for line in reporter.lines)


@pytest.mark.parametrize("blue", [200, 201])
def test_palettes_that_differ_are_named(tmp_path: Path, blue: int) -> None:
    masks = [as_mode(TRUTH, "P"), as_mode(TRUTH, "P")]
    palette = [channel for value in range(256) for channel in (value, 0, 200)]
    masks[0].putpalette(palette)
    palette[2] = blue
    masks[1].putpalette(palette)
    write_pairs(tmp_path, masks)
    reporter = RecordingReporter()
    targets = TargetOptions(str(tmp_path / "masks"), masks=True)
    load_dataset(
        str(tmp_path / "images"),
        DataOptions(use_classes=False, cache_dir=tmp_path / "cache", targets=targets),
        max_size=64,
        reporter=reporter,
    )
    named = "value 0 is #0000c8 in the palette of c/0.png, and #0000c9 in that of c/1.png"
    assert any(named in warning for warning in reporter.warnings) == (blue == 201)


@pytest.mark.parametrize("count", [32, 33])
def test_many_gray_values_may_be_soft_masks(tmp_path: Path, count: int) -> None:
    gray = Image.fromarray((np.arange(256) % count).reshape(16, 16).astype(np.uint8))
    write_pairs(tmp_path, [gray, gray])
    reporter = RecordingReporter()
    targets = TargetOptions(str(tmp_path / "masks"), masks=True)
    options = DataOptions(use_classes=False, cache_dir=tmp_path / "cache", targets=targets)
    scan_dataset(str(tmp_path / "images"), options, max_size=64, reporter=reporter)
    assert any("33 classes of gray values" in warning for warning in reporter.warnings) == (count == 33)


def test_worker_processes_read_the_same(tmp_path: Path) -> None:
    write_pairs(tmp_path, [as_mode(TRUTH, "RGB")] * 2)
    targets = TargetOptions(str(tmp_path / "masks"), masks=True)
    options = DataOptions(use_classes=False, cache_dir=tmp_path / "cache", targets=targets)
    source = scan_dataset(str(tmp_path / "images"), options, max_size=64, reporter=RecordingReporter()).source
    job = DecodeJob(source, 16, 4, "center", "", 0)
    again = DecodeJob.from_json(job.to_json())
    assert again.source.reader == source.reader and again.source.names == source.names
    inner = reader_from(reader_document(source.reader.inputs))  # type: ignore[attr-defined]
    assert inner.image(0) == source.image(0)
