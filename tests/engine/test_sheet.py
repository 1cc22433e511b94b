"""Sheets of small images: frames tell groups apart."""

from itertools import combinations

import numpy as np

from imggen.engine.sheet import Cell, draw_sheet


def test_groups_have_frames_of_different_colors() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    names = [f"{number}" for number in range(10)]
    sheet = draw_sheet([[Cell(image, "", name) for name in names], [Cell(image, "", "3"), Cell(image, "")]], 8)
    frames = [sheet[2, 16 * column + 8].astype(int) for column in range(10)]
    assert min(np.abs(one - other).sum() for one, other in combinations(frames, 2)) >= 80
    second_row = sheet.shape[0] // 2
    assert (sheet[second_row + 2, 8] == frames[3]).all()  # one group, one color
    assert (sheet[second_row + 2, 24] == 255).all()  # no group, no frame
    assert min(np.abs(frame - 255).sum() for frame in frames) >= 100  # seen on white
