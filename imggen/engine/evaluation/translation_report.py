"""The evaluation of a translator as one self-contained HTML file."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from imggen.engine.evaluation.report import curves_of, figure, json_section, number, write_page
from imggen.io.image import ImageArray

METRICS = {
    "psnr": ("PSNR", "decibels, of images whose names match; higher is better"),
    "ssim": ("SSIM", "structural similarity of the same images; 1 is equal"),
    "fd": (
        "Fréchet distance",
        "of the results to images of B, in the features of the shipped extractor; lower is better",
    ),
}
OTHER_DISTANCE = ("Fréchet distance", "of the results to images of B; lower is better")
METHODS = {"identity": "image as it is", "color": "with B's colors", "mean": "mean of B", "floor": "other images of B"}


def write_translation_report(
    path: Path,
    document: dict[str, Any],
    shown: list[ImageArray],
    worst: list[ImageArray],
    targets: ImageArray,
    metrics: Path,
) -> None:
    """Write the file. Raises DataError.

    `shown` and `worst` are images with their results and, where it is known, the truth, (2 or 3, H, W, 3) each;
    `targets` (N, H, W, C) some images of B, and `metrics` a run's metrics.jsonl, which may be missing.
    """
    captions = [f"{entry['path']}: {entry['psnr']:.1f} dB" for entry in document["worst"]]
    parts = [
        f"<h1>{escape(document['model'])}</h1>",
        f'<p class="dim">{document["count"]:,} images of {escape(document["from"])} (A), split '
        f"{escape(document['split'])}, compared with {escape(document['data'])} (B); the names of "
        f"{document['matched']:,} match.</p>",
        _table(document),
        "<h2>Images</h2>",
        "<p>Each with its translation and, where it is known, the truth.</p>",
        '<div class="row">',
        *(figure(images, len(images), "", enlarge=False) for images in shown),
        "</div>",
    ]
    if worst:
        parts += [
            "<h2>Worst images</h2>",
            '<div class="row">',
            *(figure(images, 3, caption, enlarge=False) for images, caption in zip(worst, captions, strict=True)),
            "</div>",
        ]
    parts += ["<h2>Images of B</h2>", figure(targets, 8, "")]
    if curves := curves_of(metrics):
        parts += ["<h2>Training</h2>", *curves]
    write_page(path, document["model"], [*parts, json_section(document)])


def _table(document: dict[str, Any]) -> str:
    rows = []
    others = {**document["baselines"], "floor": document["floor"]}
    for name, estimate in document["metrics"].items():
        title, description = METRICS.get(name, OTHER_DISTANCE)
        values = (number(others[method][name]["value"]) if name in others[method] else "–" for method in METHODS)
        rows.append(
            f"<tr><td>{escape(title)}<br><small>{escape(description)}</small></td>"
            f'<td class="n"><b>{number(estimate["value"])}</b></td>'
            f'<td class="n dim">{number(estimate["low"])} to {number(estimate["high"])}</td>'
            + "".join(f'<td class="n">{value}</td>' for value in values)
            + "</tr>"
        )
    heads = "".join(f'<th class="n">{escape(title)}</th>' for title in ("model", "95 % interval", *METHODS.values()))
    return f"<table><tr><th>Metric</th>{heads}</tr>{''.join(rows)}</table>"
