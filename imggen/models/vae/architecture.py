"""An architecture as a readable string, fitted to any size of picture.

Encoder: `32x6,32d2,16x6,…` is six blocks at 32 pixels, down by 2, six blocks at 16. Decoder: `1x1,4m1,4x2,…` is one
layer of latents at 1 pixel, up from 1 to 4 (with a layer there), two more at 4. The notation is VDVAE's (Child 2020,
arXiv 2011.10650).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from imggen.errors import UsageError

_TOKEN = re.compile(r"(\d{1,4})([xdm])(\d{1,4})")
_MOST = 1000


@dataclass(frozen=True)
class Stage:
    """One resolution: its side in the string, blocks of the encoder, layers of latents, its side for these pictures."""

    nominal: int
    encoder: int
    decoder: int
    side: int = 0


def parse(encoder: str, decoder: str) -> tuple[Stage, ...]:
    """Both strings → stages from the coarsest to the finest. Raises UsageError that names the part that is wrong."""
    down = _encoder(encoder)
    up = _decoder(decoder)
    if sorted(down) != sorted(up):
        odd = ", ".join(str(side) for side in sorted(set(down) ^ set(up)))
        raise UsageError(f"encoder and decoder have different resolutions: {odd}", "each needs the other's")
    return tuple(Stage(side, down[side], up[side], side) for side in sorted(down))


def _tokens(text: str, what: str, kinds: str) -> list[tuple[int, str, int]]:
    found = []
    for part in text.replace(" ", "").split(","):
        match = _TOKEN.fullmatch(part)
        if match is None or match[2] not in kinds or not 1 <= int(match[1]) <= 1024 or int(match[3]) < 1:
            shown = " or ".join({"x": "16x2", "d": "16d2", "m": "16m8"}[kind] for kind in kinds)
            raise UsageError(f"{what}: '{part[:40]}' is not a part of an architecture", f"parts look like {shown}")
        found.append((int(match[1]), match[2], int(match[3])))
    if sum(number for _, kind, number in found if kind == "x") > _MOST:
        raise UsageError(f"{what}: more than {_MOST} blocks")
    return found


def _encoder(text: str) -> dict[int, int]:
    blocks: dict[int, int] = {}
    now = 0
    for side, kind, number in _tokens(text, "encoder", "xd"):
        now = now or side
        if side != now:
            raise UsageError(f"encoder: '{side}{kind}{number}' stands where the picture is {now} wide")
        blocks.setdefault(now, 0)
        if kind == "x":
            blocks[now] += number
        elif number < 2 or now % number:
            raise UsageError(f"encoder: '{side}{kind}{number}' cannot divide {now}", "such as 16d2")
        else:
            now //= number
            blocks.setdefault(now, 0)
    return blocks


def _decoder(text: str) -> dict[int, int]:
    layers: dict[int, int] = {}
    now = 0
    for side, kind, number in _tokens(text, "decoder", "xm"):
        if kind == "m":
            if number != now or side <= now or side % now:
                raise UsageError(
                    f"decoder: '{side}m{number}' goes up from {number}, where the picture is {now or 'not yet'} wide",
                    "16m8 goes from 8 up to 16",
                )
            now, layers[side] = side, 1
            continue
        now = now or side
        if side != now:
            raise UsageError(f"decoder: '{side}x{number}' stands where the picture is {now} wide")
        layers[now] = layers.get(now, 0) + number
    return layers


def fit(stages: Sequence[Stage], side: int, depth: float = 1.0) -> tuple[Stage, ...]:
    """The stages for maps of `side` pixels: finer ones are added with half the blocks, or dropped.

    A side that is no power of two is rounded up at every halving. `depth` is the share of blocks kept, one at least.
    Raises UsageError when less than two stages are left.
    """
    canvas = 1 << (side - 1).bit_length()
    fitted = [stage for stage in stages if stage.nominal <= canvas]
    while fitted and fitted[-1].nominal < canvas:
        last = fitted[-1]
        fitted.append(Stage(2 * last.nominal, max(1, last.encoder // 2), max(1, last.decoder // 2)))
    if len(fitted) < 2 or fitted[-1].nominal != canvas:
        raise UsageError(
            f"this architecture does not fit maps of {side} pixels",
            f"its sides are powers of two, and {side} is written {canvas}: other --encoder, --decoder or --patch",
        )

    def kept(count: int) -> int:
        return max(1, round(count * depth)) if count else 0

    return tuple(
        replace(
            stage,
            encoder=kept(stage.encoder),
            decoder=kept(stage.decoder),
            side=-(-side * stage.nominal // canvas),
        )
        for stage in fitted
    )
