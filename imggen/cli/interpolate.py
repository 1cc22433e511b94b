"""imggen interpolate MODEL."""

from __future__ import annotations

from typing import Any

from imggen.cli.build import random_seed, verb
from imggen.cli.console import Console
from imggen.engine.options import InterpolateOptions
from imggen.errors import UsageError


@verb(InterpolateOptions)
def interpolate(console: Console, *, dry_run: bool, **given: Any) -> None:
    """Animate a path between seeds, or between images.

    Example: imggen interpolate gan --seeds 3,14,15 --frames 120 --loop -o walk.gif
    Example: imggen interpolate gan --from a.png --to b.png -o walk.webp
    Example: imggen interpolate gan --seeds 0-31 --grid 4x2 --class 3 -o walks.mp4
    Example: imggen interpolate gan --class-from 3 --class-to 8 --strip -o strip.png
    """
    _check(given)
    is_seed_random = not given.keys() & {"seeds", "seed", "start", "end"}
    if is_seed_random:
        given["seed"] = random_seed()
    options = InterpolateOptions(**given)
    from imggen.engine import interpolation

    if is_seed_random:
        interpolation.check(options)
        console.info(f"seed {options.seed}")
    if dry_run:
        console.settings(interpolation.dry_run(options, console))
        return
    result = interpolation.run(options, console)
    if steps := result["steps"]:
        closing = f", the closing one {steps['closing']:.1f}" if "closing" in steps else ""
        console.info(
            f"{result['frames']} frames; change from frame to frame in gray levels of 255: "
            f"median {steps['median']:.1f}, largest {steps['largest']:.1f}{closing}"
        )
    console.result(result, result["paths"])


def _check(given: dict[str, Any]) -> None:
    """Refuse options that exclude each other. Raises UsageError."""
    if "seeds" in given and "seed" in given:
        raise UsageError("--seeds excludes --seed", "--seeds 3-6 is --seed 3")
    if given.keys() & {"start", "end"} and given.keys() & {"seeds", "seed"}:
        raise UsageError("keyframes are either seeds or images", "leave --seed and --seeds out, or --from and --to")
    if ("label_from" in given) != ("label_to" in given):
        raise UsageError("--class-from and --class-to go together", "--class gives all frames one class")
    if "label" in given and "label_from" in given:
        raise UsageError("--class excludes --class-from and --class-to", "--class gives all frames one class")
