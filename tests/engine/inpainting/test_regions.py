"""Regions of a mask, the tiles that hold them, and which tiles are filled together."""

from itertools import pairwise

import numpy as np
import pytest

from imggen.engine.inpainting.regions import Bounds, TileBox, find_regions, rounds_of, tile_boxes


def test_tile_boxes_hold_all_regions() -> None:
    mask = np.zeros((200, 300), bool)
    mask[10:90, 20:60] = mask[150:156, 250:258] = mask[158:160, 255:257] = True
    regions = find_regions(mask)
    everything = regions.select(np.s_[0:200, 0:300], range(1, regions.count + 1))
    assert np.array_equal(everything, mask)
    boxes = tile_boxes(regions, 16, 2.0)
    assert len(boxes) == 2 and boxes[0].side == 160 and boxes[1].side == 20
    for box in boxes:
        assert 0 <= box.left <= 300 - box.side and 0 <= box.top <= 200 - box.side
    assert {region for box in boxes for region in box.regions} == set(range(1, regions.count + 1))


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (129, 128), (400, 250)])
def test_regions_divide_the_mask(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    mask = random.random(shape) < 0.002
    mask[-1, -1] = True
    regions = find_regions(mask)
    seen = np.zeros(shape, int)
    for number, bounds in enumerate(regions.bounds(), 1):
        region = regions.select((slice(0, shape[0]), slice(0, shape[1])), [number])
        rows, columns = np.nonzero(region)
        assert bounds == Bounds(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        seen += region
    assert np.array_equal(seen, mask)


def test_regions_that_almost_touch_are_one() -> None:
    mask = np.zeros((256, 256), bool)  # cells of 2 pixels
    mask[10, 10] = mask[13, 13] = mask[100, 100] = mask[104, 100] = True
    assert find_regions(mask).count == 3


def _box(left: int, top: int, side: int, target: tuple[int, int, int, int]) -> TileBox:
    return TileBox(left, top, side, (1,), Bounds(*target))


def test_tiles_that_meet_keep_their_order() -> None:
    """Two tiles far apart, one that shows what the first fills, and one of which the second fills pixels."""
    first = _box(0, 0, 100, (40, 40, 60, 60))
    apart = _box(500, 0, 100, (540, 40, 560, 60))
    shows_first = _box(55, 35, 30, (68, 45, 72, 49))
    shown_by_third = _box(60, 80, 40, (75, 95, 85, 99))
    assert rounds_of([first, apart]) == [[first, apart]]
    assert rounds_of([first, shows_first]) == [[first], [shows_first]]
    # It shows nothing that an earlier one fills, but an earlier one must show it masked: not in an earlier round.
    shown_by_second = _box(75, 20, 22, (76, 36, 80, 40))
    assert rounds_of([first, shows_first, shown_by_second]) == [[first], [shows_first, shown_by_second]]
    assert rounds_of([first, shown_by_third, apart]) == [[first, shown_by_third, apart]]
    chain = [_box(30 * k, 0, 100, (30 * k + 45, 45, 30 * k + 55, 55)) for k in range(4)]
    assert [len(tiles) for tiles in rounds_of(chain)] == [1] * 4
    for earlier, later in pairwise(rounds_of(chain)):
        assert earlier[0].left < later[0].left
    assert rounds_of([]) == []
