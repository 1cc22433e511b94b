"""imggen search MODEL --data SOURCE --image QUERY."""

from __future__ import annotations

from typing import Any

from imggen.cli.build import verb
from imggen.cli.console import Console
from imggen.engine.options import SearchOptions


@verb(SearchOptions)
def search(console: Console, **given: Any) -> None:
    """Find similar images, or duplicates, by what a model sees.

    Example: imggen search vae --data ./imgs --image q.png
    Example: imggen search vae --data ./imgs --image queries/ -k 5 -o sheet.png
    Example: imggen search vae --data ./imgs --duplicates
    Example: imggen search --features pretrained --data ./photos --image q.jpg
    """
    from imggen.engine import recognition

    options = SearchOptions(**given)
    result = recognition.run_search(options, console)
    for path in result["paths"]:  # not on stdout, which may be the list of what to remove
        console.info(f"wrote {path}")
    lines = _lines(result, paths_only=options.paths or options.print0)
    console.result(result, lines, end="\0" if options.print0 else "\n")


def _lines(result: dict[str, Any], *, paths_only: bool) -> list[str]:
    """score, tab, path; with several queries each line begins with its query. Groups: their paths, tabs between."""
    if "groups" in result and paths_only:  # only the duplicates, without the file of each group to keep
        return [path for group in result["groups"] for path in group[1:]]
    if "groups" in result:
        return ["\t".join(group) for group in result["groups"]]
    lines = []
    for query in result["queries"]:
        prefix = f"{query['query']}\t" if len(result["queries"]) > 1 and not paths_only else ""
        for match in query["matches"]:
            lines.append(match["path"] if paths_only else f"{prefix}{match['score']:.3f}\t{match['path']}")
    return lines
