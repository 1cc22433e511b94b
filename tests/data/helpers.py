"""Small folders and archives of images for the tests of `imggen.data`."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from PIL import Image

from imggen.data.dataset import DataOptions, Dataset, load_dataset
from imggen.reporting import Silent


class WarningRecorder(Silent):
    """A reporter that keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def write_images(root: Path, count: int = 6) -> Path:
    """RGB images in two classes, `a` and `b`; the red level of image i is i."""
    for i in range(count):
        folder = root / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20 + i), (i, 0, 9)).save(folder / f"{i:03d}.png")
    return root


def load(tmp_path: Path, reporter: Silent | None = None, **options: object) -> Dataset:
    """The data set of the folder `d`, with the cache beside it."""
    chosen = DataOptions(cache_dir=tmp_path / "cache", **options)
    return load_dataset(str(tmp_path / "d"), chosen, max_size=64, reporter=reporter or Silent())


def png(level: int = 0) -> bytes:
    """A gray PNG of 4 pixels."""
    file = io.BytesIO()
    Image.new("L", (4, 4), level).save(file, "PNG")
    return file.getvalue()


def tree(root: Path, *names: str) -> Path:
    """A folder with one PNG per name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(len(name)))
    return root


def packed(root: Path, target: Path) -> Path:
    """The files of a folder as a zip or a tar, by the ending of `target`."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w") as archive:
            for p in files:
                archive.write(p, p.relative_to(root))
    else:
        with tarfile.open(target, f"w:{target.suffix[1:].replace('tgz', 'gz').replace('tar', '')}") as tar:
            for p in files:
                tar.add(p, str(p.relative_to(root)))
    return target
