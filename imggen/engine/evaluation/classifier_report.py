"""The evaluation of a classifier as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imggen.engine.evaluation.report import (
    CONFUSION_STYLE,
    MAX_CLASSES_SHOWN,
    confusion_section,
    curves_of,
    estimates_table,
    figure,
    json_section,
    write_page,
)
from imggen.io.image import ImageArray

METRICS = {
    "accuracy": ("Accuracy", "fraction of images that got their own class"),
    "balanced_accuracy": ("Balanced accuracy", "the mean over the classes: rare ones count as much as frequent ones"),
    "calibration_error": (
        "Calibration error",
        "how far, on average, probability and accuracy are apart; 0 is best (ECE, 15 bins)",
    ),
}
BASELINES = {
    "majority": ("Accuracy of always the most frequent class", "of the training images"),
    "pixels": ("Accuracy of the nearest images by pixels", "votes of the nearest, of at most 32x32 pixels"),
    "untrained": (
        "Accuracy of an untrained network",
        "logistic regression on the features of the same network with random weights",
    ),
}
MAX_CELL_IMAGES, CELL_COLUMNS = 24, 8
STYLE = f"""{CONFUSION_STYLE}
section.cell{{display:none}}section.cell:target{{display:block}}a{{color:inherit}}
"""


def write_classifier_report(
    path: Path,
    document: dict[str, Any],
    labels: Tensor,
    guesses: Tensor,
    sureness: Tensor,
    least_sure: list[int],
    images: Callable[[list[int]], ImageArray],
    metrics: Path,
) -> None:
    """Write the file; `images` gives images (N, H, W, C) uint8 by their index. Raises DataError.

    Labels and guesses (N,) are class numbers, `sureness` (N,) the probability of the guess, `least_sure` the indices of
    the images to show, and `metrics` a run's metrics.jsonl, which may be missing.
    """
    names = document["classes"]
    uncalibrated = " Its probabilities are not calibrated." if document["temperature"] is None else ""
    parts = [
        f"<h1>{escape(document['model'])}</h1>",
        f'<p class="dim">on {document["count"]:,} images of {escape(document["data"])}, split '
        f"{escape(document['split'])}. Baselines learn from {escape(document['baselines_from'])}.{uncalibrated}</p>",
        _table(document),
        "<h2>What was taken for what</h2>",
        "<p>Rows are the images' classes, columns the labels they got. Numbers open their images, surest first.</p>",
        confusion_section(names, lambda row, column: _link(document["confusion"], row, column)),
        *_cells(labels, guesses, sureness, names, images),
        "<h2>Least sure</h2>",
        '<div class="row">',
        *(
            figure(images([index]), 1, _caption(entry), enlarge=False)
            for index, entry in zip(least_sure, document["least_sure"], strict=True)
        ),
        "</div>",
    ]
    if curves := curves_of(metrics):
        parts += ["<h2>Training</h2>", *curves]
    write_page(path, document["model"], [*parts, json_section(document)], style=STYLE)


def _caption(entry: dict[str, Any]) -> str:
    wrong = "" if entry["label"] == entry["class"] else f", is {entry['class']}"
    return f"{entry['label']} {entry['probability']:.0%}{wrong}"


def _table(document: dict[str, Any]) -> str:
    described = {"metrics": METRICS, "baselines": BASELINES}
    rows = [(described[group][name], each) for group in described for name, each in document[group].items()]
    return estimates_table("Metric", rows)


def _link(table: list[list[int]], row: int, column: int) -> str:
    count = table[row][column]
    return f'<a href="#cell-{row}-{column}">{count:,}</a>' if count else ""


def _cells(
    labels: Tensor, guesses: Tensor, sureness: Tensor, names: list[str], images: Callable[[list[int]], ImageArray]
) -> list[str]:
    """A section for each cell of the table, shown once its number is clicked."""
    sections = []
    pairs = torch.unique(torch.stack([labels, guesses], 1), dim=0).tolist()
    for row, column in pairs:
        if max(row, column) >= MAX_CLASSES_SHOWN:
            continue
        members = torch.nonzero((labels == row) & (guesses == column)).flatten()
        chosen = members[sureness[members].argsort(descending=True, stable=True)][:MAX_CELL_IMAGES].tolist()
        caption = f"{names[row]} taken for {names[column]}" if row != column else f"{names[row]}, found"
        caption += f": {len(members):,} images" + ("" if len(members) <= MAX_CELL_IMAGES else f", {len(chosen)} shown")
        sheet = figure(images(chosen), CELL_COLUMNS, caption)
        sections.append(f'<section class="cell" id="cell-{row}-{column}">{sheet}</section>')
    return sections
