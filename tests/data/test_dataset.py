from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imggen.data import cache as store
from imggen.data import decode
from imggen.data.dataset import DataOptions, Dataset, Order, load_dataset, mirror
from imggen.errors import DataError
from imggen.reporting import Silent


class Listening(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def pictures(root: Path, count: int = 6) -> Path:
    for i in range(count):
        folder = root / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20 + i), (i, 0, 9)).save(folder / f"{i:03d}.png")
    return root


def load(tmp_path: Path, reporter: Silent | None = None, **options: object) -> Dataset:
    chosen = DataOptions(cache_dir=tmp_path / "cache", **options)
    return load_dataset(str(tmp_path / "d"), chosen, max_size=64, reporter=reporter or Silent())


def test_loads_and_reuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "d")
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
    held, _ = again.to("cpu").batch(np.array([5, 0]))
    assert torch.equal(held, images)


def test_bad_pictures(tmp_path: Path) -> None:
    root = pictures(tmp_path / "d", 30)
    (root / "a" / "000.png").write_bytes(b"")
    listening = Listening()
    data = load(tmp_path, listening)
    assert len(data) == 29 and data.skipped == (("a/000.png", "empty file"),)
    assert data.images[:, 0, 0, 0].tolist() == [*range(2, 30, 2), *range(1, 30, 2)]
    assert "skipped 1 of 30" in listening.warnings[0]
    with pytest.raises(DataError):
        load(tmp_path, strict=True)
    (root / "a" / "002.png").write_text("text")
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path)


def test_all_bad(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.png").write_text("text")
    with pytest.raises(DataError, match="none of 1"):
        load(tmp_path)


def test_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "d")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["surveys"]


def test_only_our_own_left_overs_are_swept_away(tmp_path: Path) -> None:
    """The cache may be any folder, a home for one."""
    pictures(tmp_path / "d")
    key = load(tmp_path).key
    names = (f".{key}-ab_1cd", ".vscode-server", ".npm-global", f".{key}")
    for name in names:
        (tmp_path / "cache" / name).mkdir()
        os.utime(tmp_path / "cache" / name, (0, 0))
    (tmp_path / "d" / "a" / "000.png").unlink()
    load(tmp_path)
    assert [name for name in names if (tmp_path / "cache" / name).exists()] == list(names[1:])


def test_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "d")
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match="free"):
        load(tmp_path)


def test_processes_agree_with_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "d", 40)
    threads = np.array(load(tmp_path, crop="random").images)
    monkeypatch.setattr(store, "POOL_THRESHOLD", 1)
    monkeypatch.setattr(store, "usable_cores", lambda: 2)
    chosen = DataOptions(cache_dir=tmp_path / "other", crop="random")
    listening = Listening()
    data = load_dataset(str(tmp_path / "d"), chosen, max_size=64, reporter=listening)
    assert (data.images == threads).all() and not listening.warnings


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


def test_order() -> None:
    order = Order(7, 3)
    stream = order.indices(0, 21)
    assert all(sorted(stream[k : k + 7].tolist()) == list(range(7)) for k in (0, 7, 14))
    assert Order(7, 3).indices(5, 12).tolist() == stream[5:17].tolist()
    assert Order(7, 4).indices(0, 21).tolist() != stream.tolist()


def test_mirror() -> None:
    images = torch.arange(12, dtype=torch.uint8).reshape(2, 1, 2, 3)
    assert torch.equal(mirror(images, 1.0), images.flip(3)) and torch.equal(mirror(images, 0.0), images)


def test_workers_do_not_import_torch() -> None:
    check = "import sys, imggen.data.cache; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", check], check=False, cwd=Path(decode.__file__).parents[2]).returncode == 0
    )
