"""imggen inpaint MODEL."""

from __future__ import annotations

from typing import Any

from imggen.cli.build import random_seed, verb
from imggen.cli.console import Console
from imggen.engine.options import InpaintOptions
from imggen.errors import UsageError

MODEL_ONLY = ("temperature", "steps", "guidance", "top_k", "top_p")


@verb(InpaintOptions)
def inpaint(console: Console, *, dry_run: bool, **given: Any) -> None:
    """Fill masked regions of images; all else stays unchanged.

    Example: imggen inpaint gan --image x.png --mask m.png -o y.png
    Example: imggen inpaint gan --image x.png --box 8,8,16,16 -n 6 --sheet -o fills.png
    Example: imggen inpaint runs/cats --image photos/ --mask masks/ -o filled/
    Example: imggen inpaint --method classical --image scan.tif --mask scratches.png -o clean.tif
    """
    is_classical = given.get("method") == "classical"
    if is_classical:
        _check_classical(given)
    is_seed_random = "seed" not in given and not is_classical
    if is_seed_random:
        given["seed"] = random_seed()
    options = InpaintOptions(**given)
    from imggen.engine import inpainting

    if is_seed_random:
        inpainting.check(options)
        console.info(f"seed {options.seed}")
    if dry_run:
        plan = inpainting.dry_run(options, console)
        lines = [f"{name:12} {value}" for name, value in plan.items() if name != "images"]
        lines += [
            f"{image['image']}: {image['masked_fraction']:.1%} masked, {image['tiles']} tiles, "
            f"to {', '.join(image['paths'])}"
            for image in plan["images"]
        ]
        console.result(plan, text=lines)
        return
    result = inpainting.run(options, console)
    console.result(result, result["paths"])


def _check_classical(given: dict[str, Any]) -> None:
    """Refuse options that only a model has. Raises UsageError."""
    if given.get("count", 1) > 1 or "label" in given:
        raise UsageError("--method classical has one result and no classes", "leave -n and --class out")
    if sampling := [name for name in MODEL_ONLY if name in given]:
        flags = ", ".join("--" + name.replace("_", "-") for name in sampling)
        raise UsageError("--method classical samples nothing", f"leave {flags} out")
