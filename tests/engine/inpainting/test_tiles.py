"""Tiles of large images, and batches that do not fit into memory."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imggen.models.gan.backend import GanBackend
from tests.engine.inpainting.conftest import Inpaint, fill_with_noise, random_image, save_mask, square_mask
from tests.helpers import RecordingReporter, read_pixels


def test_large_images_are_filled_in_tiles(inpaint: Inpaint) -> None:
    reporter = RecordingReporter()
    random_image("RGB", 300, 200).save("x.png")
    mask = np.zeros((200, 300), np.uint8)
    mask[10:90, 20:60] = mask[150:156, 250:258] = mask[158:160, 255:257] = 1
    inpaint("x.png", "y.png", reporter=reporter, mask=save_mask(mask), count=2)
    original = read_pixels("x.png")
    for name in ("y-1.png", "y-2.png"):
        assert np.array_equal(read_pixels(name)[mask == 0], original[mask == 0])
        assert (read_pixels(name)[mask > 0] != original[mask > 0]).mean() > 0.9
    assert any("regions over 64 px are filled at 16 px" in line for line in reporter.infos)


def test_too_little_memory_halves_the_batch(inpaint: Inpaint, monkeypatch: pytest.MonkeyPatch) -> None:
    random_image("RGB").save("x.png")
    mask, reporter = save_mask(square_mask()), RecordingReporter()
    inpaint("x.png", "a.png", mask=mask, count=5)

    def two_at_most(self: GanBackend, images: Tensor, *rest: Any, **more: Any) -> Tensor:
        if len(images) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return fill_with_noise(self, images, *rest, **more)

    monkeypatch.setattr(GanBackend, "inpaint", two_at_most)
    inpaint("x.png", "b.png", reporter=reporter, mask=mask, count=5)
    assert any("not enough memory" in warning for warning in reporter.warnings)
    assert all(np.array_equal(read_pixels(f"a-{k}.png"), read_pixels(f"b-{k}.png")) for k in range(1, 6))
