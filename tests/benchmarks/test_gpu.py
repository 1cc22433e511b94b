"""The GPU benchmark itself, on a CPU with small networks: every part has its rows, and an error becomes a row."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest
import torch

from tests.benchmarks.gpu import main
from tests.benchmarks.gpu_benchmark.flops import FlopCounter
from tests.benchmarks.gpu_benchmark.rows import Rows
from tests.benchmarks.gpu_benchmark.setting import Setting
from tests.benchmarks.gpu_benchmark.table import Table
from tests.benchmarks.gpu_benchmark.time_limit import Clock
from tests.benchmarks.gpu_benchmark.weights import ROOT
from tests.cli.forks import Start

PART_OF_EACH_MEASURE = {
    "losses of a step": "agreement",
    "images of the same seeds": "agreement",
    "networks, images/s": "sampling",
    "one image at a time, images/s": "sampling",
    "seeds to bytes, images/s": "sampling",
}


def run_gpu_benchmark(output: Path, data: Path, *words: str) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
    """Exit code, gpu.json, and its rows by measure; one family is measured, so a measure has one row."""
    code = main(["--device", "cpu", "--tiny", "--data", str(data), "--output", str(output), *words])
    document = json.loads((output / "gpu.json").read_text(encoding="utf-8"))
    lines = (output / "gpu.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 + len(document["rows"])
    assert len({line.count("|") for line in lines}) == 1
    return code, document, {row["measure"]: row for row in document["rows"]}


class Forked:
    """`python -m imggen` as a fork of a process that has loaded torch, with what the benchmark uses of a Popen."""

    def __init__(self, start: Start, words: list[str], *, stderr: BinaryIO, cwd: Path, **_: Any) -> None:
        assert words[:3] == [sys.executable, "-m", "imggen"] and cwd == ROOT
        self.fork, self.log = start(*words[3:]), Path(stderr.name)

    def wait(self, seconds: float = 60) -> int:
        code = self.fork.wait(seconds)
        self.log.write_text(self.fork.err, encoding="utf-8")
        return code

    def kill(self) -> None:
        self.fork.send_signal(signal.SIGKILL)


@pytest.mark.slow
def test_every_part_is_in_the_table(
    image_folder: Path, tmp_path: Path, fork: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    forking = SimpleNamespace(**{**vars(subprocess), "Popen": partial(Forked, fork)})
    monkeypatch.setattr("tests.benchmarks.gpu_benchmark.weights.subprocess", forking)
    output = tmp_path / "out"
    words = ["--families", "gan", "--presets", "tiny", "--preset", "tiny"]
    code, document, rows = run_gpu_benchmark(output, image_folder, *words)
    assert code == 0
    assert document["failures"] == 0
    assert {row["part"] for row in document["rows"]} == {"machine", "training", "agreement", "sampling", "weights"}
    assert "TFLOP/s" in rows["matrix products, copy"]["note"]

    training = rows["both networks, images/s"]
    assert training["imggen"] > 0 and training["PyTorch's defaults"] > 0 and training["fp32, no TF32"] > 0
    assert training["ratio"] == training["imggen"] / training["PyTorch's defaults"]
    assert "GFLOP per image" in training["note"]
    for measure, part in PART_OF_EACH_MEASURE.items():
        assert rows[measure]["part"] == part
        assert part == "agreement" or rows[measure]["ratio"] > 0
    assert "fp32 / bf16: loss_d" in rows["losses of a step"]["note"]
    assert "bf16: mean" in rows["images of the same seeds"]["note"]

    assert rows["imgs, training, images/s"]["imggen"] > 0
    for ending in ("png", "jsonl", "safetensors"):
        assert (output / f"gan-imgs.{ending}").stat().st_size > 0
    skipped = [measure for measure, row in rows.items() if "skipped" in row["note"]]
    assert skipped == ["imgs, comparison with the data"]  # networks of that size are not compared


@pytest.mark.slow
def test_a_transformer_has_its_own_rows(image_folder: Path, tmp_path: Path) -> None:
    words = ["--families", "transformer", "--presets", "tiny", "--parts", "measure"]
    code, _, rows = run_gpu_benchmark(tmp_path / "out", image_folder, *words)
    assert code == 0
    assert rows["tokenizer, images/s"]["imggen"] > 0 and rows["prior, images/s"]["fp32, no TF32"] > 0
    assert rows["CUDA graphs equal to no graphs"]["note"] == "skipped: there is no GPU"
    # On a CPU `imggen sample` computes in fp32 too, so that all tokens are equal.
    assert (
        "as sampled: mean 0, max 0, equal images 100%, equal tokens 100.00%"
        in (rows["images of the same seeds"]["note"])
    )


def test_an_error_becomes_a_row(tmp_path: Path) -> None:
    words = ["--families", "gan", "--presets", "tiny", "--parts", "measure"]
    code, document, rows = run_gpu_benchmark(tmp_path / "out", tmp_path / "missing", *words)
    assert code == 1
    assert document["failures"] == 3  # training as imggen, with PyTorch's defaults, and without TF32
    assert "failed: DataError" in rows["both networks, images/s"]["note"]
    assert rows["losses of a step"]["note"] == "skipped: it was not trained"
    details = document["details"]["training / gan tiny / both networks, images/s"]
    assert all("Traceback" in detail["error"] for detail in details)


def test_no_row_begins_after_the_time_is_spent(image_folder: Path, tmp_path: Path) -> None:
    words = ["--families", "gan", "--parts", "measure", "--minutes", "0.01"]
    code, _, rows = run_gpu_benchmark(tmp_path / "out", image_folder, *words)
    assert code == 0
    assert all(row["note"].startswith("skipped: no time left") for row in rows.values())


def test_a_time_limit_becomes_a_row(tmp_path: Path) -> None:
    table = Table(tmp_path / "out")
    rows = Rows(table, Clock(9), Setting("cpu", tiny=True), seconds_kept_free=0)

    def sleep() -> dict[str, Any]:
        time.sleep(10)
        return {}

    rows.attempt(("machine", "", "sleep"), 0.2, sleep)
    assert table.failures == 1
    assert "failed: TimeoutError: stopped after" in table.rows["machine", "", "sleep"]["note"]


def test_the_global_settings_are_those_of_pytorch_again(image_folder: Path, tmp_path: Path) -> None:
    main(["--device", "cpu", "--tiny", "--data", str(image_folder), "--output", str(tmp_path), "--minutes", "0.01"])
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cudnn.allow_tf32 and not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("transposed", [False, True])
def test_flops_of_a_grouped_convolution_and_its_gradients(transposed: bool) -> None:
    kind = torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d
    convolution = kind(8, 8, 3, padding=1, groups=4, bias=False)
    images = torch.randn(5, 8, 6, 6, requires_grad=True)
    with FlopCounter() as counter:
        convolution(images).sum().backward()
    assert counter.total == 3 * 2 * 5 * 6 * 6 * 8 * 2 * 3 * 3
