"""The table of all rows, as gpu.md and gpu.json."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OURS, DEFAULTS, NO_TF32 = "imggen", "PyTorch's defaults", "fp32, no TF32"
COLUMNS = ("part", "model", "measure", OURS, DEFAULTS, NO_TF32, "ratio", "note")


@dataclass
class Table:
    """Rows by part, model and measure; both files are written after each change, so that nothing is lost."""

    folder: Path
    rows: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    failures: int = 0

    def put(self, part: str, model: str, measure: str, **cells: Any) -> None:
        """Add cells to a row: a `note` is appended to the row's note, `details` go to the JSON file only."""
        details = cells.pop("details", None)
        if details is not None:
            self.details.setdefault(" / ".join((part, model, measure)), []).append(details)
        row = self.rows.setdefault((part, model, measure), {})
        note = cells.pop("note", "")
        row.update(cells, note="; ".join(filter(None, [row.get("note", ""), note])))
        if isinstance(row.get(OURS), float) and row.get(DEFAULTS):
            row["ratio"] = row[OURS] / row[DEFAULTS]
        self.write()
        values = ", ".join(f"{name} {short(value)}" for name, value in cells.items())
        print(f"[{time.strftime('%H:%M:%S')}] {part} / {model} / {measure}: {values} {note}", flush=True)

    def write(self) -> None:
        """Write gpu.md and gpu.json."""
        lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
        for key, row in self.rows.items():
            cells = [*key, *(short(row.get(name, "")) for name in COLUMNS[3:])]
            lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        rows = [{**dict(zip(COLUMNS, key, strict=False)), **row} for key, row in self.rows.items()]
        document = {"rows": rows, "details": self.details, "failures": self.failures}
        (self.folder / "gpu.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def short(value: Any) -> str:
    """A float in three digits, or without a fraction from 100 on."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
