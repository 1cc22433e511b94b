"""Speed and precision of every family on a GPU in one table, and models trained there: one command.

    python tests/benchmarks/gpu.py --data sprites.zip [--minutes 9] [--output gpu]
    python tests/benchmarks/gpu.py --data FOLDER --device cpu --tiny

On a GPU the script first runs itself with small networks at 16 pixels, for at most a minute; if a row of that fails, it
ends. Then there are five parts. Each row has a time limit, an error in a row is written into it, and the table is
written again after every row:

1. machine: rates of matrix products in bf16, TF32 and fp32, and of a copy within the memory.
2. training: images per second of `tiny` and `base` of each family as `imggen train` runs them, beside the same learner
   with PyTorch's defaults (fp32, convolutions in TF32, no channels_last), and beside fp32 without TF32; FLOPs as a
   fraction of the rate of bf16 matrix products.
3. agreement: losses of the same step, and images of the same seeds, in bf16 and in fp32.
4. sampling: images per second as `imggen sample` generates them, beside the network with PyTorch's defaults; whether
   CUDA graphs give the same images as the same operations without a graph.
5. weights: the rest of the time trains one model per family at once, each by `imggen train` in its own process, with
   small batches. All weights are copied to OUTPUT before anything else is done with them; then each model generates 64
   samples, and 2,000 that are compared with the data.

OUTPUT/gpu.md is the table. OUTPUT/gpu.json has the same rows, and details: tracebacks, the slowest kernels, each loss.

A time limit ends a row between two Python operations: a single long call into PyTorch, such as a backward pass, is
finished first. Results so far: tests/benchmarks/gpu.md.

The parts are modules of tests/benchmarks/gpu_benchmark: 1 machine.py, 2 training_speed.py, 3 agreement.py,
4 sampling_speed.py and cuda_graphs.py, 5 weights.py. The rows of 1 to 4, in their order, are in measurements.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # imggen need not be installed

from imggen.models import FAMILIES
from tests.benchmarks.gpu_benchmark.measurements import Measurements
from tests.benchmarks.gpu_benchmark.rows import Rows
from tests.benchmarks.gpu_benchmark.setting import Setting, set_arithmetic
from tests.benchmarks.gpu_benchmark.table import Table
from tests.benchmarks.gpu_benchmark.time_limit import Clock
from tests.benchmarks.gpu_benchmark.weights import Weights

PRESETS = ("tiny", "base")
MIN_FRACTION_FOR_TRAINING = 0.45  # of --minutes, kept free while parts 1 to 4 are measured
MINUTES_OF_SELF_CHECK = 1.0


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """The options, with absolute paths: trainings run in another folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", nargs="+", required=True, help="as for `imggen train`; speed is measured with the first"
    )
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--output", type=Path, default=Path("gpu"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS), help="to measure")
    parser.add_argument("--preset", choices=PRESETS, default="base", help="of the models of part 5")
    parser.add_argument("--batch", type=int, default=64, help="of the trainings of part 5")
    parser.add_argument("--parts", nargs="+", choices=("measure", "weights"), default=["measure", "weights"])
    parser.add_argument("--tiny", action="store_true", help="16 pixels and small networks, to test this script")
    options = parser.parse_args(arguments)
    options.data = [str(Path(data).resolve()) if Path(data).exists() else data for data in options.data]
    options.output = options.output.resolve()
    return options


def check_itself(options: argparse.Namespace, setting: Setting, temporary: Path) -> bool:
    """Whether every row of a run of `--tiny` on the same device succeeds."""
    words = ["--data", options.data[0], "--tiny", "--parts", "measure", "--minutes", str(MINUTES_OF_SELF_CHECK)]
    words += ["--families", *options.families, "--presets", *options.presets, "--device", str(setting.device)]
    return main([*words, "--output", str(temporary / "check")]) == 0


def main(arguments: list[str] | None = None) -> int:
    """Write the table; returns 0, or 1 if a row failed, or 2 if the check of the script itself failed."""
    options = parse_options(arguments)
    with tempfile.TemporaryDirectory(prefix="imggen-gpu-", ignore_cleanup_errors=True) as folder:
        temporary = Path(folder)
        table, clock = Table(options.output), Clock(options.minutes)
        setting = Setting(options.device, tiny=options.tiny)
        if setting.on_gpu and not options.tiny and not check_itself(options, setting, temporary):
            return 2
        trains = "weights" in options.parts
        rows = Rows(table, clock, setting, MIN_FRACTION_FOR_TRAINING * options.minutes * 60 if trains else 0)
        table.write()
        if "measure" in options.parts:
            models = [(family, preset) for preset in options.presets for family in options.families]
            Measurements(rows, setting, options.data[0], temporary).measure(models)
        set_arithmetic(tf32=False, convolutions_tf32=True)
        if trains:
            Weights(options, setting, rows, temporary).train_and_evaluate()
        print((options.output / "gpu.md").read_text(encoding="utf-8"), flush=True)
        return int(table.failures > 0)


if __name__ == "__main__":
    sys.exit(main())
