"""imggen evaluate MODEL --data DATA."""

from __future__ import annotations

from typing import Any

from imggen.cli.build import verb
from imggen.cli.console import Console
from imggen.engine.options import EvaluateOptions


@verb(EvaluateOptions)
def evaluate(console: Console, **given: Any) -> None:
    """Measure how close a model's images are to real ones.

    Example: imggen evaluate gan --data ./imgs
    Example: imggen evaluate runs/cats --data ./imgs -n 2000 -o report.html
    Example: imggen evaluate vae --data ./imgs --iw 100
    Example: imggen evaluate ./generated --data ./imgs --json
    """
    from imggen.engine import evaluation

    result = evaluation.run(EvaluateOptions(**given), console)
    console.result(result, result_lines(result))


def result_lines(result: dict[str, Any]) -> list[str]:
    """The metrics, one a line, then the latent layers, then the report's path."""
    from imggen.engine.evaluation.report import number

    held_out = f"{result['held_out_count']:,} held-out ones" if result["floor"] else "no held-out ones"
    features = f"features {result['features']['name']} {result['features']['hash']}"
    width = max(10, *map(len, result["metrics"]))
    lines = [
        f"{result['count']:,} images, {held_out}, {features}",
        f"{'':{width}} {'value':>9}  {'95 % interval':>19}  {'held-out':>9}",
    ]
    for name, metric in result["metrics"].items():
        floor = result["floor"].get(name)
        interval = f"{number(metric['low'])} – {number(metric['high'])}"
        held_out_value = number(floor["value"]) if floor else "–"
        lines.append(f"{name:{width}} {number(metric['value']):>9}  {interval:>19}  {held_out_value:>9}")
    return [*lines, *_layer_lines(result.get("layers", [])), *([result["report"]] if "report" in result else [])]


def _layer_lines(layers: list[dict[str, Any]]) -> list[str]:
    """The KL divergence of each layer of latents, and the layers without information."""
    if not layers:
        return []
    from imggen.engine.evaluation.report import number

    table = [f"{layer['name']:18} {number(layer['nats']):>9} nats" for layer in layers]
    unused = [layer["name"] for layer in layers if not layer["used"]]
    return [*table, f"unused layers: {', '.join(unused) or 'none'}"]
