"""Tiles of large images, which of them share a batch, and batches that do not fit into memory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imggen.engine.checkpoints import save_backend
from imggen.engine.inpainting.image_file import Mask
from imggen.engine.inpainting.regions import TileBox, find_regions, tile_boxes
from imggen.engine.inpainting.tiles import Canvas, TileInpainter
from imggen.models.base import DEFAULT_SAMPLING
from imggen.models.gan.backend import GanBackend
from tests.engine.inpainting.conftest import Inpaint, fill_with_noise, random_image, save_mask, square_mask
from tests.helpers import RecordingReporter, read_pixels, small_gan


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


class CountingInpaint:
    """A fill that depends on every pixel and on the mask of its own row; keeps the size of every batch."""

    def __init__(self, largest: int = 1000) -> None:
        self.largest = largest
        self.batches: list[int] = []

    def __call__(self, images: Tensor, mask: Tensor, noise: Tensor, *rest: Any) -> Tensor:
        if len(images) > self.largest:
            raise torch.OutOfMemoryError("out of memory")
        self.batches.append(len(images))
        rows = torch.arange(images.shape[3]).float()
        shown = [float((image * (1 + torch.cos(rows))).double().sum()) for image in images]
        return torch.stack(
            [
                torch.where(one > 0, torch.sin(7 * (rows + total + one.sum() + z[0])).expand_as(image), image)
                for image, one, z, total in zip(images, mask, noise, shown, strict=True)
            ]
        )


Fill = Callable[..., tuple[list[np.ndarray[Any, Any]], CountingInpaint, list[int]]]


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Fill images of these masks, with two fills each; returns the fills, the calls and the progress."""

    backend = small_gan()

    def run(
        *masks: Mask, batch: int = 64, largest: int = 1000, context: float = 2.0, one_by_one: bool = False
    ) -> tuple[list[np.ndarray[Any, Any]], CountingInpaint, list[int]]:
        inpainter = TileInpainter(backend, range(2), None, DEFAULT_SAMPLING, batch, lambda size: None)
        calls, progress = CountingInpaint(largest), list[int]()
        monkeypatch.setattr(inpainter.backend, "inpaint", calls)
        canvases = []
        for number, mask in enumerate(masks):
            pixels = np.asarray(random_image("RGB", *mask.shape[::-1], seed=number))
            regions = find_regions(mask)
            boxes = tile_boxes(regions, 16, context)
            canvases.append(Canvas(np.stack([pixels] * 2), mask.copy(), regions, boxes))
        parts = [[box] for box in canvases[0].boxes] if one_by_one else [canvases[0].boxes]
        for boxes in parts:
            canvases[0].boxes = boxes
            inpainter.fill(canvases, progress.append)
        assert not any(canvas.masked.any() for canvas in canvases)
        return [canvas.fills for canvas in canvases], calls, progress

    return run


def random_mask(seed: int) -> Mask:
    """(H, W) with up to 14 regions of up to 16 pixels, of which many meet."""
    random = np.random.default_rng(seed)
    mask = np.zeros((int(random.integers(50, 120)), int(random.integers(50, 120))), bool)
    for _ in range(random.integers(2, 14)):
        side = int(random.integers(1, random.choice([6, 16])))
        top, left = (int(random.integers(0, length - side)) for length in mask.shape)
        mask[top : top + side, left : left + side] = random.random((side, side)) < random.choice([0.5, 1.0])
    mask[0, 0] = True
    return mask


@pytest.mark.parametrize("seed", range(8))
def test_filling_together_equals_one_after_another(fill: Fill, seed: int) -> None:
    mask, context = random_mask(seed), float(np.random.default_rng(seed).choice([1.0, 2.0, 5.0]))
    (alone,), _, _ = fill(mask, context=context, batch=1, one_by_one=True)
    (together,), calls, progress = fill(mask, context=context)
    assert np.array_equal(alone, together)
    assert sum(progress) == sum(calls.batches) == 2 * len(tile_boxes(find_regions(mask), 16, context))
    (halved,), calls, _ = fill(mask, context=context, largest=3)
    assert np.array_equal(alone, halved) and max(calls.batches) <= 3


def test_tiles_that_do_not_meet_share_a_batch(fill: Fill) -> None:
    mask = np.zeros((200, 600), bool)
    for y in range(20, 200, 40):
        for x in range(20, 600, 60):
            mask[y : y + 3, x : x + 3] = True
    (together,), calls, progress = fill(mask)
    assert calls.batches == progress == [64, 36]
    near = np.zeros((64, 64), bool)
    near[10:13, 10:13] = near[17:21, 10:12] = True
    _, calls, _ = fill(near)
    assert calls.batches == [2, 2]  # each tile shows the other one's region
    both, calls, _ = fill(mask, near)
    assert calls.batches == [64, 38, 2] and np.array_equal(both[0], together)


def test_a_later_tile_shows_what_an_earlier_one_filled(fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    """And an earlier one shows the later one's region masked."""
    near = np.zeros((64, 64), bool)
    near[10:13, 10:13] = near[17:21, 10:12] = True
    shown: list[list[float]] = []

    class Recording(CountingInpaint):
        def __call__(self, images: Tensor, mask: Tensor, noise: Tensor, *rest: Any) -> Tensor:
            shown.append([float(one.sum()) for one in mask])
            return super().__call__(images, mask, noise, *rest)

    monkeypatch.setitem(globals(), "CountingInpaint", Recording)
    fill(near)
    assert shown == [[8 + 6, 8 + 6], [9, 9]]


def test_the_work_of_a_tile_does_not_grow_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the pixels inside its square are read."""
    sizes: list[int] = []
    mask = np.zeros((500, 500), bool)
    mask[100:103, 100:103] = True
    regions = find_regions(mask)
    (box,) = tile_boxes(regions, 16, 2.0)
    assert isinstance(box, TileBox)
    select = type(regions).select
    monkeypatch.setattr(type(regions), "select", lambda *given: sizes.append((chosen := select(*given)).size) or chosen)
    canvas = Canvas(np.zeros((1, 500, 500, 3), np.uint8), mask.copy(), regions, [box])
    inpainter = TileInpainter(small_gan(), [0], None, DEFAULT_SAMPLING, 1, lambda size: None)
    monkeypatch.setattr(inpainter.backend, "inpaint", CountingInpaint())
    inpainter.fill([canvas], lambda count: None)
    assert sizes == [16 * 16] * 3 and not canvas.masked.any()


@pytest.mark.parametrize("options", [{}, {"feather": 3}])
def test_fills_of_a_model_of_hard_edges_have_hard_edges(
    inpaint: Inpaint, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backend = small_gan(channels=4)
    backend.config = replace(backend.config, hard_alpha=True)
    save_backend(tmp_path / "hard.safetensors", backend, {})

    def fill_with_stripes(self: GanBackend, images: Tensor, mask: Tensor, *rest: Any, **more: Any) -> Tensor:
        stripes = torch.ones_like(images)
        stripes[..., ::3] = -1
        return torch.where(mask > 0, stripes, images)

    monkeypatch.setattr(GanBackend, "inpaint", fill_with_stripes)
    image = random_image("RGBA", 60, 50)
    image.putalpha(image.getchannel("A").point(lambda value: 255 * (value > 127)))
    image.save("x.png")
    mask = np.zeros((50, 60), np.uint8)
    mask[5:45, 8:50] = 1
    inpaint("x.png", "y.png", mask=save_mask(mask), weights=tmp_path / "hard.safetensors", **options)
    alpha = read_pixels("y.png")[..., 3]
    assert set(np.unique(alpha[mask > 0])) == {0, 255}
