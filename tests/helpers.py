"""What several tests use: a reporter that records, the command line in this process, small models, files read back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imggen.cli.app import main
from imggen.data.masks import MaskTable
from imggen.engine.checkpoints import save_backend
from imggen.io.image import ImageArray
from imggen.models import build_backend, build_model, presets
from imggen.models.base import Backend
from imggen.reporting import Silent

CLASSES = ("ant", "bee", "owl")


class RecordingReporter(Silent):
    """Keeps every message: `infos`, `warnings`, and `lines`, which has both in order."""

    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.infos.append(message)
        self.lines.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)
        self.lines.append(f"warning: {message}")


def run_cli(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run a command line in this process; returns exit code, stdout and stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    output = capsys.readouterr()
    return int(caught.value.code or 0), output.out, output.err


def small_gan(*, class_counts: tuple[int, ...] = (), channels: int = 3, gain: float = 12) -> Backend:
    """An untrained GAN of 16 pixels in eval mode, with a class of CLASSES for each of `class_counts`.

    A new network generates gray: with weights `gain` times as large its images differ.
    """
    torch.manual_seed(3)
    config = presets("gan")["tiny"].with_overrides(
        size=16,
        channels=channels,
        width=8,
        max_width=16,
        classes=CLASSES[: len(class_counts)],
        class_counts=class_counts,
    )
    backend = build_backend(config)
    with torch.no_grad():
        for parameter in backend.parameters():
            parameter.mul_(gain)
    return backend.eval().requires_grad_(False)


def find_browser() -> str:
    """The path of Chromium; skips the test without one."""
    browser = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium here: .ci/run installs one")
    return browser


def browser_words() -> list[str]:
    """The command line of a headless Chromium with a profile in the current folder; skips the test without one."""
    return [
        find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={Path('profile').resolve()}", "--virtual-time-budget=3000",
    ]  # fmt: skip


def small_vae(**more: Any) -> Backend:
    """An untrained VAE of 16 pixels in eval mode; `more` are fields of its configuration."""
    torch.manual_seed(0)
    values = {"size": 16, "width": 8, "max_width": 8, "z": 2, "depth": 0.01, "mixtures": 2, **more}
    return build_backend(presets("vae")["tiny"].with_overrides(**values)).eval()


def save_segmenter(path: Path) -> None:
    """Write an untrained segmentation model of the classes sky and ground."""
    torch.manual_seed(0)
    table = MaskTable(False, (0, 1), ("sky", "ground")).to_json()
    config = presets("segment")["tiny"].with_overrides(width=8, halvings=2, table=table)
    save_backend(path, build_model(config).eval(), {})


def read_pixels(path: Path | str) -> ImageArray:
    """The pixels of an image file, in its own mode."""
    with Image.open(path) as image:
        return np.asarray(image)


def read_frames(path: str) -> tuple[list[ImageArray], list[float]]:
    """Frames of an animation and their durations in milliseconds, as another program reads them."""
    if path.endswith(".mp4"):
        import av

        with av.open(path) as container:
            decoded = [frame.reformat(format="rgb24", src_colorspace="ITU709") for frame in container.decode(video=0)]
            frames = [frame.to_ndarray() for frame in decoded]
            rate = container.streams.video[0].average_rate
            assert rate is not None
        return frames, [float(1000 / rate)] * len(frames)
    frames, durations = [], []
    with Image.open(path) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            durations.append(float(image.info["duration"]))
            frames.append(np.asarray(image.convert("RGB")))
    return frames, durations
