"""The league: every family's `tiny`, the textbook models and a small diffusion model, on four sets, in equal minutes.

    python tests/benchmarks/league.py --data FOLDER --minutes 30 --results league.jsonl
    python tests/benchmarks/league.py --data FOLDER --minutes 30 --sets sprites --models gan/tiny unet
    python tests/benchmarks/league.py --results league.jsonl --table

FOLDER holds sprites.zip, clothing.zip, emoji.zip and mnist.zip. Each cell (set, model, seed) trains for the same
minutes in a process of its own, generates as many images as it is compared with, and appends one line to the results;
cells that are there already are not repeated. `unet` is the Unet of the package denoising-diffusion-pytorch with EMA
and 25 DDIM steps, where that is installed. All are judged by `imggen evaluate` in imggen's own features.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Set:
    """A data set of the league: its archive, the side of its images in pixels, and how many samples are compared."""

    archive: str
    size: int
    samples: int


SETS = {
    "sprites": Set("sprites.zip", 64, 1_440),
    "clothing": Set("clothing.zip", 64, 1_000),
    "emoji": Set("emoji.zip", 64, 3_000),
    "digits": Set("mnist.zip", 32, 5_000),
}
TEXTBOOKS = ("gan/dcgan", "vae/dense", "transformer/classic")
MODELS = ("gan/tiny", "vae/tiny", "transformer/tiny", *TEXTBOOKS, "unet")
UNET_WIDTH, UNET_STAGES, UNET_BATCH, UNET_RATE = 32, (1, 2, 4), 16, 3e-4
UNET_EMA, DDIM_STEPS, SPEED_SAMPLES = 0.995, 25, 256


@dataclass(frozen=True)
class Row:
    """What was measured in one cell; rates are images per second, memory is in MB."""

    set: str
    model: str
    seed: int
    minutes: float
    distance: float
    low: float
    high: float
    floor: float | None
    precision: float
    recall: float
    train_rate: float
    sample_rate: float
    memory: float


def imggen(*words: object) -> tuple[dict[str, Any], float]:
    """Run imggen in a process of its own; returns its JSON and its peak memory in MB."""
    command = [sys.executable, "-m", "imggen", *map(str, words), "--json", "--quiet"]
    output, memory = run_measured(command)
    return json.loads(output), memory


def run_measured(command: Sequence[str]) -> tuple[str, float]:
    """Run a command; returns its stdout and its peak memory in MB. Raises RuntimeError if it fails."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}")
    return output, usage.ru_maxrss / 1024


def run_cell(data: Path, name: str, model: str, minutes: float, seed: int, samples: int | None = None) -> Row:
    """Train, sample and evaluate one model on one set."""
    chosen = SETS[name]
    count = samples or chosen.samples
    archive = data / chosen.archive
    with tempfile.TemporaryDirectory() as folder:
        if model == "unet":
            command = [sys.executable, __file__, "--unet", folder, "--data", str(archive), "--seed", str(seed)]
            command += ["--size", str(chosen.size), "--minutes", str(minutes), "--samples", str(count)]
            _, memory = run_measured(command)
            speed = json.loads((Path(folder) / "speed.json").read_text(encoding="utf-8"))
            train_rate, sample_rate = speed["train_rate"], speed["sample_rate"]
            judged = f"{folder}/samples"
            extra: tuple[object, ...] = ("--size", chosen.size)
        else:
            family, preset = model.split("/")
            run = Path(folder) / "run"
            options = ("--data", archive, "--size", chosen.size, "--seed", seed, "--minutes", minutes, "-o", run)
            _, memory = imggen("train", family, "--preset", preset, *options)
            metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
            last = next(record for record in reversed(metrics) if "seconds" in record)
            train_rate = last["images"] / last["seconds"]
            sampled, _ = imggen("sample", run, "-n", SPEED_SAMPLES, "--seed", 0, "-o", f"{folder}/speed/")
            sample_rate, judged, extra = SPEED_SAMPLES / sampled["seconds"], str(run), ()
        result, _ = imggen("evaluate", judged, "--data", archive, "-n", count, *extra)
    metrics, floor = result["metrics"], result["floor"]
    distance = metrics["fd"]
    return Row(
        name,
        model,
        seed,
        minutes,
        distance["value"],
        distance["low"],
        distance["high"],
        floor["fd"]["value"] if floor else None,
        metrics["precision"]["value"],
        metrics["recall"]["value"],
        train_rate,
        sample_rate,
        memory,
    )


def train_unet(folder: Path, archive: str, size: int, minutes: float, count: int, seed: int) -> None:
    """Train the diffusion Unet for some minutes, then write `count` samples and its speed below `folder`."""
    import torch
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from PIL import Image

    from imggen.data.dataset import DataOptions, Order, load_dataset
    from imggen.reporting import Silent

    torch.manual_seed(seed)
    dataset = load_dataset(archive, DataOptions(size=size, use_classes=False), max_size=size, reporter=Silent())
    network = Unet(dim=UNET_WIDTH, dim_mults=UNET_STAGES, channels=dataset.channels)
    diffusion = GaussianDiffusion(network, image_size=size, sampling_timesteps=DDIM_STEPS)
    average = copy.deepcopy(diffusion).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=UNET_RATE, betas=(0.9, 0.99))
    order, seen, began = Order(len(dataset), seed), 0, time.monotonic()
    while time.monotonic() - began < minutes * 60:
        images, _ = dataset.batch(order.indices(seen, UNET_BATCH))
        loss = diffusion(images.float() / 255)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        seen += UNET_BATCH
        with torch.no_grad():
            weight = max(1 - UNET_EMA, UNET_BATCH / (seen + UNET_BATCH))
            for mean, current in zip(average.parameters(), diffusion.parameters(), strict=True):
                mean.lerp_(current, weight)
    train_rate = seen / (time.monotonic() - began)

    samples, began, written = folder / "samples", time.monotonic(), 0
    samples.mkdir(parents=True)
    while written < count:
        batch = average.sample(batch_size=min(64, count - written))
        for pixels in (batch.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
            Image.fromarray(np.ascontiguousarray(pixels.squeeze())).save(samples / f"{written:06d}.png")
            written += 1
    speed = {"train_rate": train_rate, "sample_rate": count / (time.monotonic() - began)}
    (folder / "speed.json").write_text(json.dumps(speed), encoding="utf-8")


def read_rows(results: Path) -> list[Row]:
    """The rows of a results file."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return [Row(**json.loads(line)) for line in lines]


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def _spread(rows: Sequence[Row]) -> str:
    """The interval of one seed's samples, or the lowest and highest distance of several seeds."""
    if len(rows) == 1:
        return f"{rows[0].low:.1f} – {rows[0].high:.1f}"
    distances = [row.distance for row in rows]
    return f"{min(distances):.1f} – {max(distances):.1f} ({len(rows)} seeds)"


def markdown(rows: Sequence[Row]) -> str:
    """The table, by set and distance; cells with several seeds show their mean."""
    lines = [
        "| set | model | minutes | distance | interval | floor | precision | recall | trained/s | sampled/s | memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    cells: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.set, row.model, row.minutes), []).append(row)
    order = {name: index for index, name in enumerate(SETS)}
    for (name, model, minutes), group in sorted(
        cells.items(), key=lambda cell: (order[cell[0][0]], cell[0][2], _mean(row.distance for row in cell[1]))
    ):
        columns = [
            name,
            model,
            f"{minutes:g}",
            f"{_mean(row.distance for row in group):.1f}",
            _spread(group),
            "–" if group[0].floor is None else f"{_mean(row.floor or 0.0 for row in group):.1f}",
            f"{_mean(row.precision for row in group):.2f}",
            f"{_mean(row.recall for row in group):.2f}",
            f"{_mean(row.train_rate for row in group):,.0f}",
            f"{_mean(row.sample_rate for row in group):,.0f}",
            f"{max(row.memory for row in group):,.0f} MB",
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the cells that are asked for, one after another, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of the archives")
    parser.add_argument("--results", type=Path, default=Path("league.jsonl"), help="one JSON line a cell")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training, equal for all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--samples", type=int, help="images to compare; default: as many as suit the set")
    parser.add_argument("--table", action="store_true", help="only print the table of the results")
    parser.add_argument("--unet", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=64, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.unet is not None:
        train_unet(options.unet, str(options.data), options.size, options.minutes, options.samples, options.seed)
        return
    if options.data is None and not options.table:
        parser.error("--data FOLDER is missing, or --table")
    archives = [] if options.table else [options.data / SETS[name].archive for name in options.sets]
    if missing := [str(archive) for archive in archives if not archive.exists()]:
        parser.error(f"there is no {' and no '.join(missing)}: choose other --sets")
    done = {(row.set, row.model, row.minutes, row.seed) for row in read_rows(options.results)}
    cells = [(name, model, seed) for seed in options.seeds for name in options.sets for model in options.models]
    for name, model, seed in [] if options.table else cells:
        if (name, model, options.minutes, seed) in done:
            continue
        if model == "unet" and find_spec("denoising_diffusion_pytorch") is None:
            print("unet is left out: pip install denoising-diffusion-pytorch", file=sys.stderr)
            continue
        print(f"{name}, {model}, seed {seed}", file=sys.stderr, flush=True)
        row = run_cell(options.data, name, model, options.minutes, seed, options.samples)
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")
    print(markdown(read_rows(options.results)))


if __name__ == "__main__":
    main()
