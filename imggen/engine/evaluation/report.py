"""The result of an evaluation as one self-contained HTML file: metrics, images, training curves."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from imggen.documents import COUNT, DocumentError, read_fields, read_json
from imggen.io.atomic import atomic_write
from imggen.io.image import ImageArray, encode, grid
from imggen.reporting import readable

# Characters of names that a terminal would obey, or that turn the direction of the text after them.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
DESCRIPTIONS = {
    "fd": ("Fréchet distance", "lower is better; 0 for the same distribution"),
    "fid": ("Fréchet Inception distance", "lower is better; 0 for the same distribution"),
    "fd_pretrained": (
        "Fréchet distance in EfficientNet-Lite0's features",
        "lower is better; 0 for the same distribution; not comparable with FID",
    ),
    "kd_pretrained": (
        "Kernel distance in EfficientNet-Lite0's features",
        "lower is better; unbiased: about 0 for the same distribution; not comparable with KID",
    ),
    "kd": ("Kernel distance", "lower is better; unbiased: about 0 for the same distribution"),
    "kid": ("Kernel Inception distance", "lower is better; unbiased: about 0 for the same distribution"),
    "precision": ("Precision", "fraction of samples that lie among real images: quality"),
    "recall": ("Recall", "fraction of real images that lie among samples: variety"),
    "density": ("Density", "how many real images surround a sample; about 1 for the same distribution"),
    "coverage": ("Coverage", "fraction of real images with a sample nearby: variety"),
    "bits": ("Bits per dimension", "negative log-likelihood of held-out images: their size if compressed by the model"),
    "bits_iw": ("Bits per dimension, importance-weighted", "a tighter bound, from several samples per image"),
    "nats": ("Nats per image", "upper bound on the negative log-likelihood of held-out binarized images"),
    "nats_iw": ("Nats per image, importance-weighted", "a tighter bound, from several samples per image"),
    "bits_png": ("Bits per dimension of PNG", "the same held-out images as PNG files"),
    "bits_webp": ("Bits per dimension of WebP", "the same held-out images as lossless WebP files"),
    "nearest": (
        "Distance to the nearest training image",
        "median; far below that of held-out images means that the model has memorized training images",
    ),
    "copied": (
        "Close copies",
        "fraction of samples nearer to a training image than 99 % of held-out images are; 0.01 is expected",
    ),
    "accuracy": ("Class accuracy", "fraction of samples classified as their class, by a linear discriminant"),
}
RECOGNITION = {
    "own_classes": ("By the model's own classes", "as imggen classify labels images"),
    "neighbors": ("By the nearest images", "k-NN by what the model sees"),
    "pixels": ("By the nearest images in pixels", "of at most 32x32 pixels"),
    "untrained": ("By the nearest images of an untrained model", "the same networks with random weights"),
    "majority": ("Always the most frequent class", ""),
}
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #ddd}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}small,.dim{color:#666}
img{image-rendering:pixelated;max-width:100%;height:auto;border:1px solid #ddd}
figure{margin:0}.row{display:flex;flex-wrap:wrap;gap:1rem}
figcaption{font-size:.85rem;color:#666}svg{max-width:100%;height:auto;border:1px solid #ddd}
"""
CONFUSION_STYLE = """
table.confusion{width:auto}table.confusion td,table.confusion th{padding:.2rem .45rem;text-align:right}
table.confusion thead th{writing-mode:vertical-rl;text-align:left;vertical-align:bottom}
.scroll{overflow-x:auto}td.right{background:#dff3e4}td.wrong{background:#fbe3e4}
"""
MAX_CLASSES_SHOWN = 60
CURVE_COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#bf3989")
MAX_IMAGE_SIDE = 128
MIN_GRID_WIDTH, MIN_IMAGE_WIDTH = 480, 96
CURVE_WIDTH, CURVE_HEIGHT, CURVE_MARGIN = 640, 220, 40
MAX_POINTS = 1000  # of one curve
NOT_CURVES = {"steps", "images", "seconds", "progress", "images_per_second", "best", "count"}


@dataclass(frozen=True)
class ReportImages:
    """The images of a report, each (N, H, W, C), uint8; `nearest` are the data's images nearest to `closest`."""

    samples: ImageArray
    real: ImageArray
    closest: ImageArray
    nearest: ImageArray
    by_class: dict[str, ImageArray]


def write_report(path: Path, document: dict[str, Any], images: ReportImages, metrics: Path | None) -> None:
    """Write the file. `metrics` is a run's metrics.jsonl, if there is one. Raises DataError."""
    features = document["features"]
    distances = ", ".join(number(pair["distance"]) for pair in document["closest"])
    parts = [
        f"<h1>{escape(document['model'])}</h1>",
        f'<p class="dim">compared with {escape(document["data"])}: {document["count"]:,} samples, '
        f"{document['reference_count']:,} images of the data; features {escape(features['name'])} "
        f"({escape(features['hash'])}), temperature {document['temperature']}. "
        f"Held-out images: {escape(document['held_out'])}.</p>",
        _metrics_table(document),
        *_layers_table(document.get("layers", [])),
        *_recognition_table(document.get("recognition")),
        "<h2>Images</h2>",
        _row(figure(images.samples, None, "samples"), figure(images.real, None, "real images")),
        "<h2>Nearest training images</h2>",
        "<p>Top row: the samples nearest to a training image. Bottom row: those training images. "
        "If the two rows are the same, the model has memorized training images.</p>",
        figure(np.concatenate([images.closest, images.nearest]), len(images.closest), f"distances {distances}"),
    ]
    if images.by_class:
        parts += ["<h2>Samples by class</h2>"]
        parts += [_row(*(figure(samples, len(samples), name) for name, samples in images.by_class.items()))]
    if metrics is not None and (curves := curves_of(metrics)):
        parts += ["<h2>Training</h2>", *curves]
    write_page(path, document["model"], [*parts, json_section(document)])


def write_page(path: Path, model: str, parts: list[str], *, style: str = "") -> None:
    """Write a page of these parts on a model, with more `style`. Raises DataError."""
    title = escape(f"imggen evaluate {model}")
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{style}</style></head>'
        f"<body>\n{chr(10).join(parts)}\n</body></html>\n"
    )
    atomic_write(path, _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", readable(page)).encode())


def json_section(document: dict[str, Any]) -> str:
    """The result as JSON, folded."""
    text = escape(json.dumps(document, indent=1, ensure_ascii=False))
    return f"<h2>As JSON</h2><details><summary>all metrics</summary><pre>{text}</pre></details>"


def _metrics_table(document: dict[str, Any]) -> str:
    rows = []
    descriptions = {**DESCRIPTIONS, **document["descriptions"]}
    for name, metric in document["metrics"].items():
        title, description = descriptions[name]
        floor = document["floor"].get(name)
        floor_value = "" if floor is None else number(floor["value"])
        interval = f"{number(metric['low'])} to {number(metric['high'])}"
        rows.append(
            f"<tr><td>{escape(title)}<br><small>{escape(description)}</small></td>"
            f'<td class="n"><b>{number(metric["value"])}</b></td>'
            f'<td class="n dim">{interval}</td><td class="n">{floor_value}</td></tr>'
        )
    columns = (f"{document['count']:,} samples", "95 % interval", f"{document['held_out_count']:,} held-out images")
    head = "<tr><th>Metric</th>" + "".join(f'<th class="n">{name}</th>' for name in columns) + "</tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _layers_table(layers: list[dict[str, Any]]) -> list[str]:
    if not layers:
        return []
    rows = "".join(
        f'<tr><td>{escape(layer["name"])}</td><td class="n">{number(layer["nats"])}</td>'
        f'<td class="dim">{"" if layer["used"] else "unused"}</td></tr>'
        for layer in layers
    )
    head = '<tr><th>Layer of latents</th><th class="n">nats per image</th><th></th></tr>'
    return ["<h2>Latent layers</h2>", f"<table>{head}{rows}</table>"]


def _recognition_table(recognition: dict[str, Any] | None) -> list[str]:
    if recognition is None:
        return []
    rows = [(described, recognition[name]) for name, described in RECOGNITION.items() if name in recognition]
    about = f"{recognition['count']:,} images; the nearest are looked for among {recognition['known_count']:,} others"
    text = f"<p>Fraction of images that get their class. {about}.</p>"
    return ["<h2>Recognition</h2>", text, estimates_table("Label", rows)]


def estimates_table(head: str, rows: list[tuple[tuple[str, str], dict[str, Any]]]) -> str:
    """A table of estimates with intervals, each with a title and a description."""
    lines = [
        f"<tr><td>{escape(title)}<br><small>{escape(description)}</small></td>"
        f'<td class="n"><b>{number(estimate["value"])}</b></td>'
        f'<td class="n dim">{number(estimate["low"])} to {number(estimate["high"])}</td></tr>'
        for (title, description), estimate in rows
    ]
    columns = f'<tr><th>{escape(head)}</th><th class="n">value</th><th class="n">95 % interval</th></tr>'
    return f"<table>{columns}{''.join(lines)}</table>"


def number(value: float) -> str:
    """Three significant digits; an exponent only for very large and very small values."""
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        digits = 3 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:.{min(digits, 6)}f}"
    return f"{value:.2e}"


def figure(images: ImageArray, columns: int | None, caption: str, *, enlarge: bool = True) -> str:
    """A grid of images (N, H, W, C) as an HTML figure with the PNG inside, which small ones are enlarged to fill."""
    step = images.shape[1] // MAX_IMAGE_SIDE
    sheet = grid(images[:, ::step, ::step] if step > 1 else images, columns)
    data = base64.b64encode(encode(sheet, "png", None)).decode()
    # Show small images larger; whole multiples keep the pixels square.
    factor = max(1, (MIN_GRID_WIDTH if enlarge else MIN_IMAGE_WIDTH) // sheet.shape[1])
    size = f'width="{sheet.shape[1] * factor}" height="{sheet.shape[0] * factor}"'
    image = f'<img {size} alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _row(*figures: str) -> str:
    return f'<div class="row">{"".join(figures)}</div>'


def curves_of(metrics: Path) -> list[str]:
    """A chart of every metric of a run, in its metrics.jsonl, over the images trained on; none if there is no file."""
    if not metrics.is_file():
        return []
    records = []
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = read_json(line)
            read_fields(record, {"images": COUNT})
        except DocumentError:
            continue  # an incomplete line of a killed process
        records.append(record)
    names = dict.fromkeys(name for record in records for name in record if name not in NOT_CURVES)
    charts: list[str] = []
    for name in names:
        points = [
            (float(record["images"]), float(record[name]))
            for record in records
            if isinstance(record.get(name), int | float)
        ]
        if len(points) > 1:
            points = points[:: math.ceil(len(points) / MAX_POINTS)]
            charts.append(_curve(name, points, CURVE_COLORS[len(charts) % len(CURVE_COLORS)]))
    return charts


def _curve(name: str, points: list[tuple[float, float]], color: str) -> str:
    """One line chart as SVG."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    # Scale to the lowest 98 %: the first values of a run are often far above the others.
    scaled = sorted(ys)[: max(2, math.ceil(0.98 * len(ys)))]
    low, high = min(scaled), max(scaled)
    max_x, range_y = max(xs) or 1.0, high - low or 1.0
    inner_width, inner_height = CURVE_WIDTH - 2 * CURVE_MARGIN, CURVE_HEIGHT - 2 * CURVE_MARGIN

    def position(x: float, y: float) -> str:
        fraction = min(1.0, max(0.0, (y - low) / range_y))
        top = CURVE_HEIGHT - CURVE_MARGIN - fraction * inner_height
        return f"{CURVE_MARGIN + x / max_x * inner_width:.1f},{top:.1f}"

    line = " ".join(position(x, y) for x, y in points)
    bottom = CURVE_HEIGHT - CURVE_MARGIN + 4
    labels = (
        f'<text x="{CURVE_MARGIN}" y="16" font-size="13">{escape(name)}</text>'
        f'<text x="4" y="{CURVE_MARGIN + 4}" font-size="11">{number(high)}</text>'
        f'<text x="4" y="{bottom}" font-size="11">{number(low)}</text>'
        f'<text x="{CURVE_WIDTH - CURVE_MARGIN}" y="{CURVE_HEIGHT - 12}" font-size="11" text-anchor="end">'
        f"{max_x:,.0f} images</text>"
    )
    return (
        f'<svg viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}" width="{CURVE_WIDTH}" role="img" aria-label="{escape(name)}">'
        f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{line}"/>{labels}</svg>'
    )


def confusion_section(names: list[str], text: Callable[[int, int], str]) -> str:
    """A table of the true class (row) by the found one (column), with CONFUSION_STYLE.

    `text` is what a cell of row and column shows, empty for nothing.
    """
    shown = range(min(len(names), MAX_CLASSES_SHOWN))
    head = "".join(f"<th>{escape(names[column])}</th>" for column in shown)
    rows = []
    for row in shown:
        cells = "".join(_confusion_cell(row, column, text(row, column)) for column in shown)
        rows.append(f"<tr><th>{escape(names[row])}</th>{cells}</tr>")
    note = "" if len(shown) == len(names) else f"<p>The first {len(shown)} of {len(names):,} classes.</p>"
    return (
        f'<div class="scroll"><table class="confusion"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _confusion_cell(row: int, column: int, text: str) -> str:
    if not text:
        return '<td class="dim">0</td>'
    return f'<td class="{"right" if row == column else "wrong"}">{text}</td>'
