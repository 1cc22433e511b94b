"""`imggen cache`: list what the cache holds, and remove from it. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from imggen.engine.options import CacheOptions
from imggen.errors import UsageError
from imggen.reporting import Reporter


def run(options: CacheOptions, reporter: Reporter, *, dry_run: bool = False) -> dict[str, Any]:
    """List, prune or clear; with `dry_run` nothing is removed.

    Returns the cache's folder, its limit and size in bytes, and its entries; after removing, those that were `removed`
    and those that were `kept` because a process uses them, in place of the entries. Raises UsageError for a name that
    the cache does not hold, and DataError if it cannot be read.
    """
    from imggen.data.cache_contents import list_items, remove_leftovers
    from imggen.data.cache_dir import cache_limit, default_cache_dir, locked_cache, warn_of_temporary_cache

    warn_of_temporary_cache(reporter)
    cache_dir = default_cache_dir()
    limit = cache_limit(cache_dir, options.limit)
    items = list_items(cache_dir)
    document: dict[str, Any] = {"cache": str(cache_dir), "limit": limit, "bytes": sum(item.bytes for item in items)}
    if options.action == "list":
        chosen = items if options.name is None else _named(items, options.name)
        return {**document, "entries": [_describe(item) for item in chosen]}
    chosen = _to_prune(items, limit) if options.action == "prune" else _to_clear(items, options.name)
    in_use = [item for item in chosen if item.in_use]
    removed = [item for item in chosen if item not in in_use]
    if items and not dry_run:
        with locked_cache(cache_dir):
            gone = {item.paths for item in remove_leftovers(cache_dir)}
            removed = [item for item in removed if item.paths in gone or (item.kind != "incomplete" and item.remove())]
    kept = [item for item in chosen if item not in removed]
    return {**document, "removed": [_describe(item) for item in removed], "kept": [_describe(item) for item in kept]}


def _to_prune(items: list[Any], limit: int | None) -> list[Any]:
    """What is incomplete, damaged, out of date, or without its source; then the least recently used, down to the limit.

    What a process uses counts, but stays.
    """
    from imggen.data.cache_contents import removable_items

    chosen = [
        item for item in items if item.kind in ("incomplete", "damaged") or item.outdated or item.source_exists is False
    ]
    excess = 0 if limit is None else sum(item.bytes for item in items if item not in chosen) - limit
    for item in removable_items(items):
        if excess > 0 and item not in chosen and not item.in_use:
            chosen.append(item)
            excess -= item.bytes
    return chosen


def _to_clear(items: list[Any], name: str | None) -> list[Any]:
    """Everything but what was downloaded, or what is named so."""
    return [item for item in items if item.kind != "download"] if name is None else _named(items, name)


def _named(items: list[Any], name: str) -> list[Any]:
    chosen = [
        item for item in items if name == item.name or (item.source and str(Path(name).absolute()) == item.source)
    ]
    if not chosen:
        names = ", ".join(sorted({item.name for item in items if item.kind in ("images", "archive", "download")}))
        raise UsageError(f"the cache holds nothing named '{name}'", f"it holds {names}" if names else "it is empty")
    return chosen


def _describe(item: Any) -> dict[str, Any]:
    """An item as JSON: `used` is a time in seconds since 1970, `source_exists` None where that is not recorded."""
    index = item.index
    return {
        "kind": item.kind,
        "name": item.name,
        "form": None if index is None else asdict(index)["form"],
        "model": item.model or None,
        "images": None if index is None else index.count,
        "bytes": item.bytes,
        "used": round(item.used),
        "in_use": item.in_use,
        "outdated": item.outdated,
        "source": item.source or None,
        "source_exists": item.source_exists,
        "paths": [str(path) for path in item.paths],
    }
