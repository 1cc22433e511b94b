"""imggen sample MODEL."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from imggen.cli.build import random_seed, verb
from imggen.cli.console import Console
from imggen.engine.options import SampleOptions
from imggen.errors import UsageError


@verb(SampleOptions)
def sample(console: Console, *, dry_run: bool, **given: Any) -> None:
    """Generate images, or reconstruct or vary given ones.

    Example: imggen sample gan -n 64 -o grid.png
    Example: imggen sample gan --class all -n 80 -o classes.png
    Example: imggen sample runs/cats --seed 7 -n 1000 -o images/
    Example: imggen sample gan --seeds 3,8,20-29 -o pick-%05d.png
    Example: imggen sample vae --from images/ -o side-by-side.png
    Example: imggen sample vae --near x.png --temperature 0.5 -n 16 -o near.png
    """
    _check(given, as_json=console.as_json)
    is_seed_random = not given.keys() & {"seeds", "seed", "source"}
    if is_seed_random:
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise UsageError("several processes must use the same seeds", "give --seed or --seeds")
        given["seed"] = random_seed()
    options = SampleOptions(**given)
    from imggen.engine import sampling

    if is_seed_random:
        sampling.check(options)
        console.info(f"seed {options.seed}")
    if dry_run:
        console.settings(sampling.dry_run(options, console))
        return
    result = sampling.run(options, console)
    if (png := result.pop("png", None)) is not None:
        sys.stdout.buffer.write(png)
        sys.stdout.buffer.flush()
        return
    console.result(result, result["paths"])


def _check(given: dict[str, Any], *, as_json: bool) -> None:
    """Refuse options that exclude each other. Raises UsageError."""
    output, is_file = given.get("output"), False
    if output not in (None, "-"):
        is_file = bool(Path(output).suffix) and not output.endswith("/")
    if "seeds" in given and ("seed" in given or "count" in given):
        raise UsageError("--seeds excludes --seed and -n", "--seeds 0-63 is --seed 0 -n 64")
    if "format" in given and is_file:
        raise UsageError("--format is for folders and stdout", "the file name's ending gives the format")
    if output == "-" and as_json:
        raise UsageError("stdout cannot take both the image and JSON", "write the image to a file: -o grid.png")
    if "source" in given and given.keys() & {"near", "seeds", "seed", "temperature"}:
        raise UsageError(
            "--from reconstructs images and samples none", "leave --near, --seed, --seeds and --temperature out"
        )
