"""The league's table, and one cell on a CPU with tiny images."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.benchmarks import league
from tests.benchmarks.league import Row, Set, markdown, read_rows
from tests.helpers import run_cli

ROW = Row("sprites", "gan/tiny", 0, 30.0, 12.0, 11.0, 13.0, 4.0, 0.8, 0.5, 40.0, 900.0, 700.0)


def test_table_orders_by_set_and_distance_and_averages_seeds(tmp_path: Path) -> None:
    changes = ({}, {"seed": 1, "distance": 14.0}, {"model": "unet", "distance": 5.0}, {"set": "digits"})
    rows = [Row(**{**asdict(ROW), **change}) for change in changes]
    results = tmp_path / "league.jsonl"
    results.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    assert read_rows(results) == rows
    table = [line.split(" | ")[:5] for line in markdown(read_rows(results)).splitlines()[2:]]
    assert [line[1] for line in table] == ["unet", "gan/tiny", "gan/tiny"]
    assert table[1][3:] == ["13.0", "12.0 – 14.0 (2 seeds)"]
    assert table[2][0] == "| digits"


@pytest.mark.slow
@pytest.mark.usefixtures("few_pairs", "few_resamples")
def test_a_cell_trains_samples_and_compares(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: each start of one takes seconds."""

    def run_here(command: Sequence[str]) -> tuple[str, float]:
        assert command[:3] == [sys.executable, "-m", "imggen"]
        code, out, err = run_cli(capsys, *command[3:])
        assert code == 0, err
        return out, 300.0 if "train" in command else 5.0

    monkeypatch.setitem(league.SETS, "digits", Set(image_folder.name, 16, 60))
    monkeypatch.setattr(league, "SPEED_SAMPLES", 32)
    monkeypatch.setattr(league, "run_measured", run_here)
    row = league.run_cell(image_folder.parent, "digits", "gan/tiny", 0.02, 0)
    assert row.distance > 0 and row.floor is None
    assert row.train_rate > 0 and row.sample_rate > 0 and row.memory == 300.0


@pytest.mark.process
def test_output_and_memory_of_a_process() -> None:
    output, memory = league.run_measured([sys.executable, "-c", "print(len(b'x' * (100 << 20)))"])
    assert int(output) == 100 << 20 and memory > 100
    with pytest.raises(RuntimeError, match="exit code 3"):
        league.run_measured([sys.executable, "-c", "exit(3)"])


@pytest.mark.parametrize(
    ("words", "said"), [((), "--data FOLDER is missing"), (("--data", "nowhere", "--sets", "digits"), "mnist.zip")]
)
def test_missing_data_is_said_in_one_line(
    words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["league.py", *words])
    with pytest.raises(SystemExit) as raised:
        league.main()
    assert raised.value.code == 2 and said in capsys.readouterr().err
