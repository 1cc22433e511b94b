"""Data sets of torchvision, without a download."""

from pathlib import Path

import pytest

from imggen.data.dataset import DataOptions, load_dataset
from imggen.data.layout import NoSplitError
from imggen.data.scan import open_source
from imggen.reporting import Silent


def test_mnist_from_the_cache(tmp_path: Path) -> None:
    raw = tmp_path / "cache" / "datasets" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        head = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (3, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + bytes(3 * 784))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + (3).to_bytes(4, "big") + bytes([1, 2, 1]))
    data = load_dataset("mnist", DataOptions(cache_dir=tmp_path / "cache"), max_size=64, reporter=Silent())
    assert (len(data), data.size, data.channels, data.labels.tolist()) == (3, 32, 1, [1, 2, 1])
    assert data.classes == tuple("0123456789")
    assert len(open_source("mnist", split="all", cache_dir=tmp_path / "cache")) == 6


def test_there_is_no_val_split(tmp_path: Path) -> None:
    with pytest.raises(NoSplitError):
        open_source("cifar10", split="val", cache_dir=tmp_path)
