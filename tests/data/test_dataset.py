"""Data sets from folder to batch, and the order of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

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
