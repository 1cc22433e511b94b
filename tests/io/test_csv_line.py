"""Cells of any text come back from a line of CSV."""

import csv
import io

from imggen.io.csv_line import csv_line


def test_any_cell_comes_back() -> None:
    cells = ["", "a,b", 'say "x"', " spaced ", *(f"a{chr(code)}b" for code in range(1, 160)), "\u2028", "caf\udce9"]
    for row in (cells, *([cell, "0.5"] for cell in cells)):
        line = csv_line(row)
        # As a file is read with newline="", which does not change the ends of lines.
        assert list(csv.reader(io.StringIO(line + "\n", newline=""))) == [row]
