"""imggen evaluate MODEL --data DATA."""

from __future__ import annotations

from typing import Any

from imggen.cli.build import verb
from imggen.cli.console import Console
from imggen.engine.options import EvaluateOptions

MAX_TABLE_CLASSES, NAME_WIDTH, NUM_LEAST_SURE, NUM_WORST = 20, 14, 8, 8


@verb(EvaluateOptions)
def evaluate(console: Console, **given: Any) -> None:
    """Compare images with real ones, or labels with the truth.

    Example: imggen evaluate gan --data ./imgs
    Example: imggen evaluate runs/cats --data ./imgs -n 2000 -o report.html
    Example: imggen evaluate vae --data ./imgs --iw 100
    Example: imggen evaluate ./generated --data ./imgs --json
    Example: imggen evaluate runs/classify --data ./labeled -o report.html
    Example: imggen evaluate runs/segment --data ./photos --masks ./masks -o report.html
    Example: imggen evaluate runs/translate --from ./a --data ./b -o report.html
    """
    from imggen.engine import evaluation

    result = evaluation.run(EvaluateOptions(**given), console)
    console.result(result, [result["report"]] if "report" in result else [], text=result_lines(result))


def result_lines(result: dict[str, Any]) -> list[str]:
    """The metrics, one a line, then the latent layers."""
    from imggen.engine.evaluation.report import number

    if result.get("kind") == "classifier":
        return _classifier_lines(result)
    if result.get("kind") == "segmentation model":
        return _segmentation_lines(result)
    if result.get("kind") == "translator":
        return _translation_lines(result)
    held_out = f"{result['held_out_count']:,} held-out ones" if result["floor"] else "no held-out ones"
    features = f"features {result['features']['name']} {result['features']['hash']}"
    width = max(10, *map(len, result["metrics"]))
    lines = [
        f"{result['count']:,} images, {held_out}, {features}",
        f"{'':{width}} {'value':>9}  {'95 % interval':>19}  {'held-out':>9}",
    ]
    for name, metric in result["metrics"].items():
        floor = result["floor"].get(name)
        held_out_value = number(floor["value"]) if floor else "–"
        lines.append(f"{name:{width}} {number(metric['value']):>9}  {_interval(metric):>19}  {held_out_value:>9}")
    return [*lines, *_recognition_line(result.get("recognition")), *_layer_lines(result.get("layers", []))]


def _recognition_line(recognition: dict[str, Any] | None) -> list[str]:
    """The fraction of images that get their class by the model, and by what costs nothing."""
    if recognition is None:
        return []

    def shares(names: dict[str, str]) -> str:
        found = {title: recognition[name]["value"] for name, title in names.items() if name in recognition}
        return ", ".join(f"{title} {100 * value:.1f} %" for title, value in found.items())

    model = shares({"own_classes": "own classes", "neighbors": "k-NN"})
    others = shares({"pixels": "k-NN of pixels", "untrained": "untrained", "majority": "majority"})
    return [f"recognition: {model} ({others}; {recognition['count']:,} images)"]


def _classifier_lines(result: dict[str, Any]) -> list[str]:
    """Metrics and baselines, one a line, the confusion table, and the least sure images."""
    from imggen.engine.evaluation.report import number

    lines = [
        f"{result['count']:,} images, split {result['split']}; baselines from {result['baselines_from']}",
        f"{'':18} {'value':>9}  {'95 % interval':>19}",
    ]
    for heading, group in (("", "metrics"), ("accuracy of baselines:", "baselines")):
        lines += [heading] if heading else []
        for name, metric in result[group].items():
            lines.append(f"{name:18} {number(metric['value']):>9}  {_interval(metric)}")
    names = result["classes"]
    if len(names) <= MAX_TABLE_CLASSES:
        lines += [
            "rows: the images' classes; columns: what they were taken for",
            " " * NAME_WIDTH + "".join(f"{name[:5]:>6}" for name in names),
        ]
        for name, row in zip(names, result["confusion"], strict=True):
            lines.append(f"{name[: NAME_WIDTH - 1]:{NAME_WIDTH}}" + "".join(f"{count:>6}" for count in row))
    lines.append("least sure:")
    for image in result["least_sure"][:NUM_LEAST_SURE]:
        lines.append(f"{image['probability']:.3f} {image['label']} ({image['class']})  {image['path']}")
    return lines


def _segmentation_lines(result: dict[str, Any]) -> list[str]:
    """Metrics beside those of the baselines, then each class, and the worst images."""
    from imggen.engine.evaluation.report import number

    baselines = result["baselines"]
    lines = [
        f"{result['count']:,} images, split {result['split']}; baselines from {result['baselines_from']}",
        f"{'':18} {'value':>9}  {'95 % interval':>15}" + "".join(f"  {name:>9}" for name in baselines),
    ]
    for name, metric in result["metrics"].items():
        others = (number(found[name]["value"]) if name in found else "–" for found in baselines.values())
        row = f"{name:18} {number(metric['value']):>9}  {_interval(metric):>15}"
        lines.append(row + "".join(f"  {other:>9}" for other in others))
    lines.append(f"{'class':18} {'iou':>9}  {'95 % interval':>15}  {'dice':>9}  {'boundary':>9}  {'pixels':>7}")
    for entry in result["classes"]:
        own, name = entry["metrics"], f"{entry['class']} {entry['name']}"[:18]
        values = [number(own[key]["value"]) if key in own else "–" for key in ("iou", "dice", "boundary_f")]
        interval = _interval(own["iou"]) if "iou" in own else ""
        row = f"{name:18} {values[0]:>9}  {interval:>15}  {values[1]:>9}  {values[2]:>9}"
        lines.append(f"{row}  {entry['share']:>7.2%}")
    lines.append("worst:")
    lines += [f"{image['iou']:.3f}  {image['path']}" for image in result["worst"][:NUM_WORST]]
    return lines


def _translation_lines(result: dict[str, Any]) -> list[str]:
    """Metrics beside those of the baselines and the floor, and the worst images."""
    from imggen.engine.evaluation.report import number

    features = f"features {result['features']['name']} {result['features']['hash']}"
    others = {**result["baselines"], "floor": result["floor"]}
    lines = [
        f"{result['count']:,} images, split {result['split']}, {result['matched']:,} names match; {features}",
        f"{'':14} {'value':>9}  {'95 % interval':>17}" + "".join(f"  {name:>9}" for name in others),
    ]
    for name, metric in result["metrics"].items():
        values = (number(found[name]["value"]) if name in found else "–" for found in others.values())
        row = f"{name:14} {number(metric['value']):>9}  {_interval(metric):>17}"
        lines.append(row + "".join(f"  {value:>9}" for value in values))
    if result["worst"]:
        lines.append("worst:")
        lines += [f"{image['psnr']:.2f} dB  {image['path']}" for image in result["worst"][:NUM_WORST]]
    return lines


def _interval(estimate: dict[str, Any]) -> str:
    from imggen.engine.evaluation.report import number

    return f"{number(estimate['low'])} – {number(estimate['high'])}"


def _layer_lines(layers: list[dict[str, Any]]) -> list[str]:
    """The KL divergence of each layer of latents, and the layers without information."""
    if not layers:
        return []
    from imggen.engine.evaluation.report import number

    table = [f"{layer['name']:18} {number(layer['nats']):>9} nats" for layer in layers]
    unused = [layer["name"] for layer in layers if not layer["used"]]
    return [*table, f"unused layers: {', '.join(unused) or 'none'}"]
