"""imggen cache [list|prune|clear]: what is kept of decoded images, and removing it."""

from __future__ import annotations

import time
from typing import Any

from imggen.cli.build import verb
from imggen.cli.console import Console
from imggen.engine.options import CacheOptions
from imggen.reporting import size_text

_COLUMNS = ("name", "kind", "form", "images", "size", "last used", "source")
_CHANNELS = {1: "gray", 3: "color", 4: "alpha"}


@verb(CacheOptions, dry_run="List what prune or clear would remove")
def cache(console: Console, *, dry_run: bool, **given: Any) -> None:
    """List or clear the images that are kept decoded.

    prune removes what is out of date, damaged or over the limit, least recently used first.
    clear removes everything, but downloaded data sets only by their name.
    What a process uses stays.

    Example: imggen cache
    Example: imggen cache prune --limit 20GB
    Example: imggen cache clear photos
    Example: imggen cache clear
    """
    from imggen.engine.cache import run

    result = run(CacheOptions(**given), console, dry_run=dry_run)
    for item in result.get("kept", []):
        console.warn(f"kept, as a process uses it: {item['name']}")
    console.result(result, text=_lines(result, dry_run=dry_run))


def _lines(result: dict[str, Any], *, dry_run: bool) -> list[str]:
    """A table of the larger things, and a line for all the small ones; the total last."""
    items = result["entries"] if "entries" in result else result["removed"]
    small = [item for item in items if item["kind"] in ("features", "surveys", "directions")]
    rows = [_row(item) for item in items if item not in small]
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in ((_COLUMNS, *rows) if rows else ())]
    if small:
        count = f"{len(small):,} file{'s' * (len(small) > 1)}"
        lines.append(f"features, surveys and directions: {count}, {size_text(sum(item['bytes'] for item in small))}")
    total = size_text(sum(item["bytes"] for item in items))
    if "removed" in result:
        return [*lines, f"{'would remove' if dry_run else 'removed'} {total} from {result['cache']}"]
    limit = "no limit" if result["limit"] is None else f"limit {size_text(result['limit'])}"
    return [*lines, f"{result['cache']}: {total}, {limit}"]


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    form = "-" if item["model"] is None else f"by {item['model']}"
    if item["form"] is not None:
        size, channels, crop = item["form"]
        form = f"{size}x{size} {_CHANNELS.get(channels, channels)}" + ("" if crop == "center" else f" {crop}")
    source = item["source"] or "-"
    notes = [
        *(["in use"] if item["in_use"] else []),
        *(["has changed since"] if item["outdated"] else []),
        *(["is gone"] if item["source_exists"] is False else []),
    ]
    images = "-" if item["images"] is None else f"{item['images']:,}"
    kind = "unpacked" if item["kind"] == "archive" else item["kind"]
    source += f" ({', '.join(notes)})" if notes else ""
    return item["name"], kind, form, images, size_text(item["bytes"]), _ago(item["used"]), source


def _ago(seconds: float) -> str:
    """A time as the largest whole unit before now."""
    age = max(0.0, time.time() - seconds)
    for name, unit in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if age >= unit:
            count = int(age // unit)
            return f"{count:,} {name}{'s' * (count > 1)} ago"
    return "just now"
