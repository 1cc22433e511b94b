"""What the images of a source have in common, from a sample of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from imggen.data.decode import (
    PIXEL_BUDGET,
    Encoded,
    UnreadableError,
    decode_or_explain,
    decode_upright,
    read_source,
    simple_mode,
)
from imggen.data.deep_gray import MAX_16_BIT, Range, strips, used_16_bit_range
from imggen.data.readers import Source

SURVEY_IMAGES = 256
SURVEY_THREADS = 4
OPAQUE = 255
MIN_USED_RANGE = 1 / 8  # of 16 bits


@dataclass(frozen=True)
class Survey:
    """Properties of an evenly spaced sample of a source.

    `channels` is what suits most of the images, the medians are in pixels (`short_median` is of the shorter sides),
    and of the `sampled` images, `readable` could be decoded. `used_16_bit_range` is the fraction of the range of 16
    bits that the gray images of 16 bits use together; 1 if there are none. `same_size`: all are squares of one size.
    `hard_alpha`: some have transparent pixels, and no alpha is anything but 0 or 255.
    """

    channels: int
    width_median: int
    height_median: int
    short_median: int
    sampled: int
    readable: int
    used_16_bit_range: float = 1.0
    same_size: bool = False
    hard_alpha: bool = False

    def has_side(self, side: int) -> bool:
        """Whether all are squares of `side` pixels, which need no resizing."""
        return self.same_size and self.short_median == side

    def warning(self) -> str | None:
        """What the user should know before training, or None."""
        if self.used_16_bit_range >= MIN_USED_RANGE:
            return None
        levels = max(1, round(255 * self.used_16_bit_range) + 1)
        return (
            f"the sampled 16-bit images use {self.used_16_bit_range:.1%} of their range, so that {levels} gray levels "
            "are left of 256: rescale them to 0..65535 first"
        )


@dataclass(frozen=True)
class _Traits:
    """What the survey records of one image."""

    width: int
    height: int
    is_transparent: bool
    is_alpha_hard: bool
    is_gray: bool
    range_of_16_bits: Range | None


def _examine(data: Encoded, hold: Callable[[int], None]) -> _Traits:
    own = decode_upright(data, hold)
    range_of_16_bits = used_16_bit_range(own)
    image = simple_mode(own)
    del own
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    is_transparent = alpha is not None and alpha.getextrema()[0] != OPAQUE
    is_alpha_hard = alpha is None or not any(alpha.histogram()[1:OPAQUE])
    return _Traits(*image.size, is_transparent, is_alpha_hard, _is_gray(image), range_of_16_bits)


def _is_gray(image: Image.Image) -> bool:
    """Whether all pixels are gray."""
    if image.mode in ("L", "LA"):
        return True
    return all((rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all() for _, rgb in strips(image))


def survey_source(source: Source, count: int = SURVEY_IMAGES) -> Survey:
    """Decode an evenly spaced sample of at most `count` images, always the same, and summarize it.

    `channels` is 4 if at least half of them have transparent pixels, 1 if all are gray, else 3.
    """
    count = min(count, len(source))
    indices = np.linspace(0, len(source) - 1, count).round().astype(int).tolist()

    def examine(index: int) -> _Traits | None:
        try:
            data = read_source(source, index)
            with PIXEL_BUDGET.holding() as hold:
                return decode_or_explain(lambda data: _examine(data, hold), data)
        except UnreadableError:
            return None

    with ThreadPoolExecutor(SURVEY_THREADS) as threads:
        traits = [each for each in threads.map(examine, indices) if each is not None]
    if not traits:
        return Survey(3, 0, 0, 0, count, 0)
    transparent = sum(each.is_transparent for each in traits)
    channels = 4 if 2 * transparent >= len(traits) else 1 if all(each.is_gray for each in traits) else 3
    ranges = [each.range_of_16_bits for each in traits if each.range_of_16_bits is not None]
    used = max(high for _, high in ranges) - min(low for low, _ in ranges) if ranges else MAX_16_BIT
    return Survey(
        channels=channels,
        width_median=round(float(np.median([each.width for each in traits]))),
        height_median=round(float(np.median([each.height for each in traits]))),
        short_median=round(float(np.median([min(each.width, each.height) for each in traits]))),
        sampled=count,
        readable=len(traits),
        used_16_bit_range=used / MAX_16_BIT,
        same_size=len({side for each in traits for side in (each.width, each.height)}) == 1,
        hard_alpha=transparent > 0 and all(each.is_alpha_hard for each in traits),
    )
