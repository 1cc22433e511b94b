"""Part 1, machine: rates of matrix products and of a copy."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.gpu_benchmark.setting import Setting, set_arithmetic
from tests.benchmarks.gpu_benchmark.table import short


class Machine:
    """Measures the machine, and keeps the rate of bf16 matrix products for the part that follows."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.bf16_tflops = 0.0

    def measure(self) -> dict[str, Any]:
        """Name, TFLOP/s of matrix products, and GB/s of a copy."""
        name = torch.cuda.get_device_name() if self.setting.on_gpu else platform.processor() or platform.machine()
        large = self.setting.on_gpu and not self.setting.tiny
        side = 8192 if large else 64
        tflops = {}
        for label, dtype, tf32 in (
            ("bf16", torch.bfloat16, True),
            ("TF32", torch.float32, True),
            ("fp32", torch.float32, False),
        ):
            set_arithmetic(tf32=tf32)
            a, b = (torch.randn(side, side, device=self.setting.device, dtype=dtype) for _ in range(2))

            def multiply(a: Tensor = a, b: Tensor = b) -> int:
                for _ in range(10):
                    a @ b
                return 10

            tflops[label] = self.setting.rate(multiply, seconds=self.setting.seconds / 2) * 2 * side**3 / 1e12
        self.bf16_tflops = tflops["bf16"]

        source = torch.empty((1 << 30) if large else (1 << 20), dtype=torch.uint8, device=self.setting.device)
        target = torch.empty_like(source)

        def copy_block() -> int:
            for _ in range(10):
                target.copy_(source)
            return 10

        copies = self.setting.rate(copy_block, seconds=self.setting.seconds / 2)
        copied = 2 * copies * source.numel() / 1e9  # read and written
        rates = ", ".join(f"{label} {short(value)} TFLOP/s" for label, value in tflops.items())
        software = f"torch {torch.__version__}, Python {platform.python_version()}"
        return {
            "note": f"{name}; {software}; {rates}; copy {copied:,.0f} GB/s",
            "details": {"tflops": tflops, "gb_per_second": copied, "cores": os.cpu_count()},
        }
