"""Lines of CSV, for any program that reads it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence


def csv_line(cells: Sequence[str]) -> str:
    """A line (RFC 4180) without its end. Cells with commas, quotes or ends of lines, "\\r" too, are quoted."""
    text = io.StringIO()
    # Before Python 3.13 only the characters of the line's own end were quoted.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n")
