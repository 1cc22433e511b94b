"""The evaluation of a segmentation model as one self-contained HTML file."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from imggen.engine.evaluation.report import (
    CONFUSION_STYLE,
    confusion_section,
    curves_of,
    figure,
    json_section,
    number,
    write_page,
)
from imggen.io.image import ImageArray

METRICS = {
    "mean_iou": ("Mean IoU", "intersection over union, averaged over the classes that occur"),
    "foreground_iou": ("Mean IoU without class 0", "which is the background as a rule"),
    "mean_dice": ("Mean Dice", "twice the overlap over the sum of both, averaged over the classes that occur"),
    "boundary_f": (
        "Boundary F",
        "boundary pixels found within 2 pixels, and found ones that are true; mean of classes",
    ),
    "accuracy": ("Pixel accuracy", "fraction of pixels that got their own class"),
}
BASELINES = {"majority": "most frequent class", "position": "… at each position"}
CLASS_METRICS = {"iou": "IoU", "dice": "Dice", "boundary_f": "boundary F"}
STYLE = f"""{CONFUSION_STYLE}
span.color{{display:inline-block;width:.9em;height:.9em;margin-right:.5em;border:1px solid #999}}
"""


def write_segmentation_report(
    path: Path, document: dict[str, Any], colors: ImageArray, worst: list[ImageArray], metrics: Path
) -> None:
    """Write the file; `colors` (classes, 3) are those of the classes. Raises DataError.

    `worst` are the images to show, each with its truth and what was found (3, S, S, 3), and `metrics` a run's
    metrics.jsonl, which may be missing.
    """
    names = [entry["name"] for entry in document["classes"]]
    captions = [f"{entry['path']}: mean IoU {entry['iou']:.2f}" for entry in document["worst"]]
    parts = [
        f"<h1>{escape(document['model'])}</h1>",
        f'<p class="dim">on {document["count"]:,} images of {escape(document["data"])}, split '
        f"{escape(document['split'])}. Baselines see no image; they know {escape(document['baselines_from'])}.</p>",
        _overall(document),
        "<h2>Classes</h2>",
        _classes(document["classes"], colors),
        "<h2>What was taken for what</h2>",
        "<p>Of the pixels of each class (row), the percentage that got each class (column).</p>",
        confusion_section(names, lambda row, column: _percentage(document["confusion"], row, column)),
        "<h2>Worst images</h2>",
        "<p>Each with its mask and what was found.</p>",
        '<div class="row">',
        *(figure(images, 3, caption, enlarge=False) for images, caption in zip(worst, captions, strict=True)),
        "</div>",
    ]
    if curves := curves_of(metrics):
        parts += ["<h2>Training</h2>", *curves]
    write_page(path, document["model"], [*parts, json_section(document)], style=STYLE)


def _estimate(estimate: dict[str, Any] | None) -> str:
    """A value and its interval, as two cells."""
    if estimate is None:
        return '<td class="n">–</td><td></td>'
    interval = f"{number(estimate['low'])} to {number(estimate['high'])}"
    return f'<td class="n"><b>{number(estimate["value"])}</b></td><td class="n dim">{interval}</td>'


def _overall(document: dict[str, Any]) -> str:
    rows = []
    for name, (title, description) in METRICS.items():
        if name not in document["metrics"]:
            continue
        others = (document["baselines"][baseline].get(name) for baseline in BASELINES)
        cells = "".join(f'<td class="n">{number(other["value"]) if other else "–"}</td>' for other in others)
        rows.append(
            f"<tr><td>{escape(title)}<br><small>{escape(description)}</small></td>"
            f"{_estimate(document['metrics'][name])}{cells}</tr>"
        )
    columns = ("model", "95 % interval", *BASELINES.values())
    head = "<tr><th>Metric</th>" + "".join(f'<th class="n">{escape(name)}</th>' for name in columns) + "</tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _classes(classes: list[dict[str, Any]], colors: ImageArray) -> str:
    rows = []
    for entry, color in zip(classes, colors.tolist(), strict=True):
        red, green, blue = color
        swatch = f'<span class="color" style="background:rgb({red},{green},{blue})"></span>'
        cells = "".join(_estimate(entry["metrics"].get(name)) for name in CLASS_METRICS)
        rows.append(
            f'<tr><td>{swatch}{entry["class"]} {escape(entry["name"])}</td><td class="n">{entry["share"]:.2%}</td>'
            f'<td class="n">{entry["images"]:,}</td>{cells}</tr>'
        )
    names = "".join(f'<th class="n">{name}</th><th class="n">95 % interval</th>' for name in CLASS_METRICS.values())
    head = f'<tr><th>Class</th><th class="n">pixels</th><th class="n">images</th>{names}</tr>'
    note = "<p>– stands for a class that is in no mask and was not found: it counts for no mean.</p>"
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>{note}'


def _percentage(table: list[list[int]], row: int, column: int) -> str:
    count = table[row][column]
    return f"{100 * count / sum(table[row]):.1f}" if count else ""
