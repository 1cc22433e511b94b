"""An architecture as a readable string, fitted to any image size.

Encoder: `32x6,32d2,16x6,…` is six blocks at 32 pixels, downsampling by 2, six blocks at 16. Decoder: `1x1,4m1,4x2,…` is
one layer of latents at 1 pixel, upsampling from 1 to 4 (with a layer there), two more at 4. The notation is VDVAE's
(Child 2020, arXiv 2011.10650).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from imggen.errors import UsageError

MAX_BLOCKS = 1000
MAX_SIDE = 1024

_TOKEN = re.compile(r"(\d{1,4})([xdm])(\d{1,4})")
_EXAMPLES = {"x": "16x2", "d": "16d2", "m": "16m8"}


@dataclass(frozen=True)
class Stage:
    """One resolution: its side in the string, number of encoder blocks and of latent layers, its side in this model."""

    nominal: int
    encoder_blocks: int
    decoder_layers: int
    side: int = 0


class Token(NamedTuple):
    """One part of an architecture string, such as 16x2: side, kind (x: blocks, d: down, m: up) and number."""

    side: int
    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.side}{self.kind}{self.number}"


def parse_architecture(encoder: str, decoder: str) -> tuple[Stage, ...]:
    """Both strings -> stages from the coarsest to the finest. Raises UsageError that names the part that is wrong."""
    blocks = _parse_encoder(encoder)
    layers = _parse_decoder(decoder)
    if sorted(blocks) != sorted(layers):
        unmatched = ", ".join(str(side) for side in sorted(set(blocks) ^ set(layers)))
        raise UsageError(
            f"encoder and decoder have different resolutions: {unmatched}", "both must have the same resolutions"
        )
    return tuple(Stage(side, blocks[side], layers[side], side) for side in sorted(blocks))


def _parse_tokens(text: str, network: str, kinds: str) -> list[Token]:
    tokens = []
    for part in text.replace(" ", "").split(","):
        match = _TOKEN.fullmatch(part)
        if match is None or match[2] not in kinds or not 1 <= int(match[1]) <= MAX_SIDE or int(match[3]) < 1:
            examples = " or ".join(_EXAMPLES[kind] for kind in kinds)
            raise UsageError(
                f"{network}: '{part[:40]}' is not a part of an architecture", f"parts look like {examples}"
            )
        tokens.append(Token(int(match[1]), match[2], int(match[3])))
    if sum(token.number for token in tokens if token.kind == "x") > MAX_BLOCKS:
        raise UsageError(f"{network} has more than {MAX_BLOCKS} blocks", f"use a shorter --{network}")
    return tokens


def _parse_encoder(text: str) -> dict[int, int]:
    """Number of blocks by resolution."""
    blocks: dict[int, int] = {}
    resolution = 0
    for token in _parse_tokens(text, "encoder", "xd"):
        resolution = resolution or token.side
        if token.side != resolution:
            raise UsageError(
                f"encoder: '{token}' is out of place: the resolution is {resolution}",
                f"such as {resolution}{token.kind}{token.number}",
            )
        blocks.setdefault(resolution, 0)
        if token.kind == "x":
            blocks[resolution] += token.number
        elif token.number < 2 or resolution % token.number:
            raise UsageError(f"encoder: '{token}' cannot divide {resolution}", "such as 16d2")
        else:
            resolution //= token.number
            blocks.setdefault(resolution, 0)
    return blocks


def _parse_decoder(text: str) -> dict[int, int]:
    """Number of layers of latents by resolution."""
    layers: dict[int, int] = {}
    resolution = 0
    for token in _parse_tokens(text, "decoder", "xm"):
        if token.kind == "m":
            if token.number != resolution or token.side <= resolution or token.side % resolution:
                raise UsageError(
                    f"decoder: '{token}' upsamples from {token.number}, but the resolution is "
                    f"{resolution or 'not set yet'}",
                    "16m8 upsamples from 8 to 16",
                )
            resolution, layers[token.side] = token.side, 1
            continue
        resolution = resolution or token.side
        if token.side != resolution:
            raise UsageError(f"decoder: '{token}' is out of place: the resolution is {resolution}")
        layers[resolution] = layers.get(resolution, 0) + token.number
    return layers


def fit_stages(stages: Sequence[Stage], side: int, depth: float = 1.0) -> tuple[Stage, ...]:
    """The stages for maps of `side` pixels: finer stages are added with half the blocks, or dropped.

    A side that is no power of two is rounded up at every halving. `depth` is the fraction of the blocks that is kept,
    at least one in each stage. Raises UsageError when fewer than two stages are left.
    """
    # Add or drop stages, until the finest one has the next power of two.
    power_of_two = 1 << (side - 1).bit_length()
    fitted = [stage for stage in stages if stage.nominal <= power_of_two]
    while fitted and fitted[-1].nominal < power_of_two:
        last = fitted[-1]
        fitted.append(Stage(2 * last.nominal, max(1, last.encoder_blocks // 2), max(1, last.decoder_layers // 2)))
    if len(fitted) < 2 or fitted[-1].nominal != power_of_two:
        raise UsageError(
            f"this architecture does not fit maps of {side} pixels",
            f"its resolutions must divide {power_of_two}, the next power of two, and be two or more: "
            "use other --encoder, --decoder or --patch",
        )

    # Scale the number of blocks, and the sides down to this size.
    def scaled(count: int) -> int:
        return max(1, round(count * depth)) if count else 0

    return tuple(
        replace(
            stage,
            encoder_blocks=scaled(stage.encoder_blocks),
            decoder_layers=scaled(stage.decoder_layers),
            side=-(-side * stage.nominal // power_of_two),
        )
        for stage in fitted
    )
