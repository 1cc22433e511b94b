"""What evaluate found, as one HTML file that needs nothing else: figures, pictures, curves."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from imggen.io.atomic import atomic_write
from imggen.io.image import ImageArray, encode, grid

EXPLAINED = {
    "fd": ("Fréchet distance", "lower is nearer; 0 is the same"),
    "fid": ("Fréchet Inception distance", "lower is nearer; 0 is the same"),
    "kd": ("Kernel distance", "lower is nearer; unbiased, so about 0 for the same"),
    "kid": ("Kernel Inception distance", "lower is nearer; unbiased, so about 0 for the same"),
    "precision": ("Precision", "share of drawn pictures that lie among real ones: quality"),
    "recall": ("Recall", "share of real pictures that lie among drawn ones: variety"),
    "density": ("Density", "how deep among real pictures the drawn ones lie; about 1 for the same"),
    "coverage": ("Coverage", "share of real pictures with a drawn one close by"),
    "bits": ("Bits per dimension", "of held-out pictures; a file of the model's would be that small"),
    "bits_iw": ("Bits per dimension, importance-weighted", "a tighter bound on the same, from several draws a picture"),
    "nats": ("Nats a picture", "of held-out pictures, binarised; a bound from above"),
    "nats_iw": ("Nats a picture, importance-weighted", "a tighter bound on the same, from several draws a picture"),
    "bits_png": ("PNG's bits per dimension", "of the same pictures, as files"),
    "bits_webp": ("WebP's bits per dimension", "of the same pictures, as lossless files"),
    "nearest": (
        "Nearest training picture",
        "median distance; far below that of held-out pictures means learnt by heart",
    ),
    "copied": ("Close copies", "share nearer to a training picture than 99 % of held-out pictures are; 0.01 is fair"),
    "accuracy": ("Class accuracy", "share taken for the class that was asked for, by linear discriminants"),
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
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#bf3989")
SHOWN_SIDE = 128
WIDTH, HEIGHT, MARGIN = 640, 220, 40


@dataclass(frozen=True)
class Pictures:
    """What the report shows, each (N, H, W, C), uint8."""

    drawn: ImageArray
    real: ImageArray
    closest: ImageArray
    nearest: ImageArray
    by_class: dict[str, ImageArray]


def write_report(path: Path, document: dict[str, Any], pictures: Pictures, metrics: Path | None) -> None:
    """Write the file, whole or not at all. `metrics` is a run's metrics.jsonl, if there is one. Raises DataError."""
    parts = [
        f"<h1>{escape(document['model'])}</h1>",
        f'<p class="dim">against {escape(document["data"])}: {document["count"]:,} pictures beside '
        f"{document['reference']:,} of the data; in the features {escape(document['features']['name'])} "
        f"({escape(document['features']['hash'])}), temperature {document['temperature']}. "
        f"Held out: {escape(document['held_out'])}.</p>",
        _table(document),
        *_layers(document.get("layers", [])),
        "<h2>Pictures</h2>",
        _row(_figure(pictures.drawn, None, "drawn"), _figure(pictures.real, None, "real")),
        "<h2>Nearest training pictures</h2>",
        "<p>Above the drawn pictures that are nearest to a training picture, below that picture. Were they the same, "
        "the model would have learnt pictures by heart.</p>",
        _figure(_pairs(pictures), len(pictures.closest), "distance " + _distances(document)),
    ]
    if pictures.by_class:
        parts.append("<h2>By class</h2>")
        parts.append(_row(*(_figure(found, len(found), name) for name, found in pictures.by_class.items())))
    curves = _curves(metrics)
    if curves:
        parts += ["<h2>Training</h2>", *curves]
    parts.append(f"<h2>As JSON</h2><details><summary>all figures</summary><pre>{_json(document)}</pre></details>")
    title = escape(f"imggen evaluate {document['model']}")
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body>\n{chr(10).join(parts)}\n</body></html>\n"
    )
    atomic_write(path, page.encode())


def _json(document: dict[str, Any]) -> str:
    return escape(json.dumps(document, indent=1, ensure_ascii=False))


def _table(document: dict[str, Any]) -> str:
    rows = []
    explained = {**EXPLAINED, **document["explained"]}
    for name, figure in document["figures"].items():
        label, meaning = explained[name]
        floor = document["floor"].get(name)
        beside = "" if floor is None else number(floor["value"])
        interval = f"{number(figure['low'])} to {number(figure['high'])}"
        rows.append(
            f"<tr><td>{escape(label)}<br><small>{escape(meaning)}</small></td>"
            f'<td class="n"><b>{number(figure["value"])}</b></td>'
            f'<td class="n dim">{interval}</td><td class="n">{beside}</td></tr>'
        )
    columns = (f"{document['count']:,} drawn", "95 %", f"{document['held_out_count']:,} held out")
    head = "<tr><th>Figure</th>" + "".join(f'<th class="n">{name}</th>' for name in columns) + "</tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _layers(layers: list[dict[str, Any]]) -> list[str]:
    if not layers:
        return []
    rows = "".join(
        f'<tr><td>{escape(layer["name"])}</td><td class="n">{number(layer["nats"])}</td>'
        f'<td class="dim">{"" if layer["used"] else "unused"}</td></tr>'
        for layer in layers
    )
    head = '<tr><th>Layer of latents</th><th class="n">nats a picture</th><th></th></tr>'
    return ["<h2>Layers</h2>", f"<table>{head}{rows}</table>"]


def number(value: float) -> str:
    """Three significant digits, without exponents where a person would write none."""
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        digits = 3 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:.{min(digits, 6)}f}"
    return f"{value:.2e}"


def _figure(pictures: ImageArray, columns: int | None, caption: str) -> str:
    sheet = grid(pictures[:, ::step, ::step] if (step := pictures.shape[1] // SHOWN_SIDE) > 1 else pictures, columns)
    data = base64.b64encode(encode(sheet, "png", None)).decode()
    # Small pictures are hard to judge: whole multiples keep their pixels square.
    factor = max(1, 480 // sheet.shape[1])
    size = f'width="{sheet.shape[1] * factor}" height="{sheet.shape[0] * factor}"'
    image = f'<img {size} alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _row(*figures: str) -> str:
    return f'<div class="row">{"".join(figures)}</div>'


def _pairs(pictures: Pictures) -> ImageArray:
    return np.concatenate([pictures.closest, pictures.nearest])


def _distances(document: dict[str, Any]) -> str:
    return ", ".join(number(pair["distance"]) for pair in document["closest"])


def _curves(metrics: Path | None) -> list[str]:
    if metrics is None or not metrics.is_file():
        return []
    records = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # a line cut short by a kill
    skipped = {"steps", "images", "seconds", "progress", "images_per_second", "best", "count"}
    names = dict.fromkeys(name for record in records for name in record if name not in skipped)
    found: list[str] = []
    for name in names:
        points = [
            (float(record["images"]), float(record[name]))
            for record in records
            if isinstance(record.get(name), int | float) and isinstance(record.get("images"), int | float)
        ]
        if len(points) > 1:
            found.append(_curve(name, points, COLOURS[len(found) % len(COLOURS)]))
    return found


def _curve(name: str, points: list[tuple[float, float]], colour: str) -> str:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    # The first moments are far off; the scale is for the rest.
    kept = sorted(ys)[: max(2, math.ceil(0.98 * len(ys)))]
    low, high = min(kept), max(kept)
    right, height = max(xs) or 1.0, high - low or 1.0

    def place(x: float, y: float) -> str:
        share = min(1.0, max(0.0, (y - low) / height))
        return f"{MARGIN + x / right * (WIDTH - 2 * MARGIN):.1f},{HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN):.1f}"

    line = " ".join(place(x, y) for x, y in points)
    labels = (
        f'<text x="{MARGIN}" y="16" font-size="13">{escape(name)}</text>'
        f'<text x="4" y="{MARGIN + 4}" font-size="11">{number(high)}</text>'
        f'<text x="4" y="{HEIGHT - MARGIN + 4}" font-size="11">{number(low)}</text>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 12}" font-size="11" text-anchor="end">{right:,.0f} pictures</text>'
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{escape(name)}">'
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{line}"/>{labels}</svg>'
    )
