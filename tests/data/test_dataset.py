"""Data sets from folder to batch, and the order of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imggen.data import decode
from imggen.data.dataset import DataOptions, Order, mirror, scan_dataset
from imggen.errors import UsageError
from imggen.reporting import Silent
from tests.data.helpers import load, write_images


def test_decoded_once_and_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "d")
    data = load(tmp_path)
    assert (len(data), data.size, data.channels, data.classes, data.class_counts) == (6, 32, 3, ("a", "b"), (3, 3))

    def fail(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(decode, "decode_image", fail)
    again = load(tmp_path)
    assert again.key == data.key and (again.images == data.images).all()
    images, labels = again.batch(np.array([5, 0]))
    assert images.shape == (2, 3, 32, 32) and images.is_contiguous(memory_format=torch.channels_last)
    assert images[:, 0, 0, 0].tolist() == [5, 0] and labels.tolist() == [1, 0]
    on_device, _ = again.to("cpu").batch(np.array([5, 0]))
    assert torch.equal(on_device, images)


def test_scanning_chooses_size_and_channels_without_decoding(tmp_path: Path) -> None:
    write_images(tmp_path / "d")
    options = DataOptions(cache_dir=tmp_path / "cache")
    scanned = scan_dataset(str(tmp_path / "d"), options, max_size=64, reporter=Silent())
    assert (scanned.name, len(scanned), scanned.size, scanned.channels) == ("d", 6, 32, 3)
    assert scanned.classes == ("a", "b") and scanned.class_counts == (3, 3)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["surveys"]
    assert scan_dataset(str(tmp_path / "d"), options, max_size=16, reporter=Silent()).size == 16


@pytest.mark.parametrize("options", [{"crop": "left"}, {"channels": 2}, {"size": 0}])
def test_invalid_options_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, **options)
    assert caught.value.hint


def test_order() -> None:
    order = Order(7, 3)
    stream = order.indices(0, 21)
    assert all(sorted(stream[k : k + 7].tolist()) == list(range(7)) for k in (0, 7, 14))
    assert Order(7, 3).indices(5, 12).tolist() == stream[5:17].tolist()
    assert Order(7, 4).indices(0, 21).tolist() != stream.tolist()


def test_mirror() -> None:
    images = torch.arange(12, dtype=torch.uint8).reshape(2, 1, 2, 3)
    assert torch.equal(mirror(images, 1.0), images.flip(3)) and torch.equal(mirror(images, 0.0), images)


def write_squares(root: Path, *sides: int, alpha: int = 0) -> None:
    """RGBA images with one transparent corner each."""
    root.mkdir()
    for number, side in enumerate(sides):
        image = Image.new("RGBA", (side, side), (number, 0, 0, 255))
        image.putpixel((0, 0), (9, 9, 9, alpha))
        image.save(root / f"{number}.png")


@pytest.mark.parametrize(
    ("sides", "max_size", "size"),
    [
        ((64, 64), 32, 64), ((32, 32), 16, 32), ((48, 48), 32, 48), ((24, 24), 16, 24),
        ((28, 28), 16, 32), ((8, 8), 32, 16), ((64, 60), 32, 32), ((128, 128), 32, 32),
    ],
)  # fmt: skip
def test_small_images_of_one_size_are_taken_as_they_are(
    tmp_path: Path, sides: tuple[int, ...], max_size: int, size: int
) -> None:
    write_squares(tmp_path / "d", *sides)
    options = DataOptions(cache_dir=tmp_path / "cache")
    for _ in range(2):  # the second time from the cached survey
        scanned = scan_dataset(str(tmp_path / "d"), options, max_size=max_size, reporter=Silent())
        is_kept = scanned.size == sides[0] == sides[1]
        assert scanned.size == size and scanned.hard_alpha == is_kept
        assert f"size {size}: {'all images have it' if is_kept else 'the '}" in scanned.choices[0]
        assert scanned.choices[1].startswith("channels 4: ")
        assert scanned.choices[2].startswith("hard edges" if is_kept else "soft edges") and len(scanned.choices) == 3
    given = DataOptions(cache_dir=tmp_path / "cache", size=16, channels=3)
    assert scan_dataset(str(tmp_path / "d"), given, max_size=max_size, reporter=Silent()).choices == ()


@pytest.mark.parametrize("keep", ["disk", "none"])
@pytest.mark.parametrize(("alpha", "is_hard"), [(0, True), (1, False), (254, False)])
def test_hard_alpha_is_seen_in_the_data(tmp_path: Path, keep: str, alpha: int, is_hard: bool) -> None:
    write_squares(tmp_path / "d", 16, 16, alpha=alpha)
    data = load(tmp_path, keep=keep)
    assert (data.channels, data.hard_alpha) == (4, is_hard)
    data.close()
    assert not load(tmp_path, channels=3).hard_alpha and not load(tmp_path, size=8).hard_alpha
