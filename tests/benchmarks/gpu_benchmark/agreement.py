"""Part 3, agreement: losses of the same step, and images of the same seeds, in bf16 and in fp32."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from imggen.engine.device import configure_device
from imggen.io.pixels import to_levels
from imggen.models.base import Backend
from imggen.models.transformer.backend import TransformerBackend
from tests.benchmarks.gpu_benchmark.runs import STAGES, Runs, TrainedModels
from tests.benchmarks.gpu_benchmark.setting import TINY_BATCH, Setting, set_arithmetic

NOT_LOSSES = ("skipped", "codes", "augment")  # metrics of a step


class Agreement:
    """Compares precisions, with the models of the training part."""

    def __init__(self, setting: Setting, runs: Runs, trained: TrainedModels) -> None:
        self.setting = setting
        self.runs = runs
        self.trained = trained

    def compare_losses(self, family: str, preset: str) -> dict[str, Any]:
        """One step in fp32 and in bf16, from the same weights, on the same images, with the same random numbers."""
        trained = self.trained[family, preset].training
        tensors, document = trained.learner.state()
        notes, details = [], {}
        for stage, progress in STAGES[family].items():
            if stage == "tokenizer":
                continue  # it is frozen by now
            losses: dict[str, dict[str, float]] = {}
            for precision in ("fp32", "bf16"):
                training = self.runs.begin(family, preset, precision)
                set_arithmetic(tf32=False)
                training.learner.load_state(tensors, document)
                training.learner.micro_batch = trained.learner.micro_batch
                training.images = trained.images
                training.step(progress)
                if not training.recent_metrics:
                    raise ArithmeticError(f"a loss or gradient was not finite in {precision}")
                losses[precision] = {name: float(value) for name, value in training.recent_metrics[-1].items()}
            names = [name for name in losses["fp32"] if name not in NOT_LOSSES]
            notes += [f"{name} {losses['fp32'][name]:.5g} / {losses['bf16'][name]:.5g}" for name in names]
            details[stage] = losses
        return {"note": "fp32 / bf16: " + ", ".join(notes), "details": details}

    def compare_images(self, family: str, preset: str) -> dict[str, Any]:
        """The same seeds as `imggen sample` generates them, and in bf16, relative to fp32 without TF32."""
        backend = self.trained[family, preset].backend
        noise, labels = self.setting.noise(backend, TINY_BATCH if self.setting.tiny else 64)
        set_arithmetic(tf32=False)
        exact, exact_tokens = generate_with_tokens(backend, noise, labels)
        notes, details = [], {}
        for name in ("as sampled", "bf16"):
            configure_device(self.setting.device, full_precision=backend.needs_full_precision)
            with self.setting.autocast(name == "bf16"):
                network = backend if name == "bf16" else backend.for_inference()
                levels, tokens = generate_with_tokens(network, noise, labels)
            difference = (exact - levels).abs()
            equal_images = float((difference.flatten(1).amax(1) == 0).float().mean())
            result = {"mean": float(difference.mean()), "max": float(difference.max()), "equal_images": equal_images}
            note = f"{name}: mean {result['mean']:.3g}, max {result['max']:.0f}, equal images {equal_images:.0%}"
            if exact_tokens is not None and tokens is not None:
                equal = (exact_tokens == tokens).all(-1)
                result["equal_tokens"] = float(equal.float().mean())
                result["all_tokens_equal"] = float(equal.all(1).float().mean())
                note += f", equal tokens {result['equal_tokens']:.2%}"
                note += f", images with all tokens equal {result['all_tokens_equal']:.0%}"
            details[name] = result
            notes.append(note)
        return {"note": "difference from fp32 in levels of 255; " + "; ".join(notes), "details": details}


@torch.inference_mode()
def generate_with_tokens(backend: Backend, noise: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Levels 0 to 255 (B, C, H, W), float32, and the tokens (B, side², d) if the backend is a transformer."""
    tokens: list[Tensor] = []
    if isinstance(backend, TransformerBackend):
        # A copy made by `for_inference` is used as it is: it belongs to the caller.
        backend = copy.deepcopy(backend) if backend.graph_cache is None else backend
        backend.graph_cache = None
        decode = backend._decode

        def decode_and_keep(values: Tensor) -> Tensor:
            tokens.append(values)
            return decode(values)

        backend._decode = decode_and_keep  # type: ignore[method-assign]
    levels = to_levels(backend.generate(noise, labels)).float()
    return levels, torch.cat(tokens)[: len(noise)] if tokens else None
