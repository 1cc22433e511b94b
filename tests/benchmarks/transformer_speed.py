"""How much faster the cache and few steps sample: `tiny` at 32 pixels, 64 tokens, with random weights.

    python tests/benchmarks/transformer_speed.py [--rounds 3] [--device cuda]

At batch 16: without a cache, one token at a time with the cache (the same images, which is checked), and 12 steps.
At batch 64, if the package `transformers` is installed: a GPT-2 of the same width, depth and length, which samples 64
tokens with its own cache, beside the model's default number of steps. All numbers are images per second: after a
warm-up, the methods in turn, the best of the rounds; all but GPT-2's include decoding to pixels.

On a GPU, in float32 and bfloat16: images per second at batches of 1024 and 1, with CUDA graphs and without.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from imggen.engine.device import configure_device
from imggen.models import build_backend, presets
from imggen.models.config import SamplingOptions
from imggen.models.transformer.any_order_prior import AnyOrderPrior
from imggen.models.transformer.backend import TransformerBackend
from imggen.models.transformer.generation_order import halton
from imggen.models.transformer.sampling import inverse_cdf, normal_to_uniform, probabilities


def sample_without_cache(backend: TransformerBackend, noise: Tensor) -> Tensor:
    """Tokens one by one without a cache: for each, all tokens before it go through all layers again."""
    prior = backend.prior
    assert isinstance(prior, AnyOrderPrior)
    labels, uniform = backend.labels_or_no_class(None, len(noise)), normal_to_uniform(noise.flatten(2).transpose(1, 2))
    tokens = torch.zeros(len(noise), prior.length, len(prior.factors), dtype=torch.int64)
    order = torch.tensor(halton(prior.side))
    for count in range(1, prior.length + 1):
        positions = order[:count]
        groups = torch.arange(count).expand(len(noise), -1)
        state = prior.states(tokens[:, positions], labels, groups, positions)[:, -1:]
        token = tokens[:, positions[-1:]]
        for channel in range(len(prior.factors)):
            distribution = probabilities(prior.head.logits(state, channel, token), SamplingOptions())
            u = uniform[:, positions[-1:], channel]
            token[..., channel] = inverse_cdf(distribution, u, all_positive=True)
        tokens[:, positions[-1:]] = token
    return tokens


def gpt2(backend: TransformerBackend, batch: int) -> Callable[[], object]:
    """A function that samples `batch` rows of tokens with a GPT-2 of the same width, depth, heads and length."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config, length = backend.config, backend.prior.length
    codes = math.prod(config.levels)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=codes + 1, n_positions=length + 1, n_embd=config.width, n_layer=config.depth,
            n_head=config.heads, bos_token_id=codes, eos_token_id=None,
        )
    ).eval()  # fmt: skip
    start = torch.full((batch, 1), codes)
    attention = torch.ones_like(start)
    return lambda: model.generate(
        start, attention_mask=attention, do_sample=True, top_k=0, min_new_tokens=length, max_new_tokens=length
    )


def measure(methods: dict[str, Callable[[], object]], rounds: int, batch: int) -> dict[str, float]:
    """Images per second of each method: the best of some rounds, after a warm-up, with the methods in turn."""
    speeds = dict.fromkeys(methods, 0.0)
    for number in range(rounds + 1):
        for name, method in methods.items():
            start = time.perf_counter()
            method()
            if number:
                speeds[name] = max(speeds[name], batch / (time.perf_counter() - start))
    return speeds


def on_gpu(backend: TransformerBackend, rounds: int) -> None:
    """Print the table for a GPU."""
    device = backend.device
    for precision in (torch.float32, torch.bfloat16):
        with_graph, eager = backend.for_inference(), backend.for_inference()
        eager.graph_cache = None

        def sampler(model: TransformerBackend, noise: Tensor, precision: torch.dtype = precision) -> Callable[[], None]:
            def sample() -> None:
                with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                    model.generate(noise)
                torch.accelerator.synchronize()

            for _ in range(3):  # run, recorded, replayed
                sample()
            return sample

        for batch in (1024, 1):
            noise = torch.randn(batch, *backend.noise_shape, device=device)
            methods: dict[str, Callable[[], object]] = {
                "graph": sampler(with_graph, noise),
                "eager": sampler(eager, noise),
            }
            speeds = measure(methods, rounds, batch)
            for name, speed in speeds.items():
                kind = str(precision).removeprefix("torch.")
                print(f"{kind}, batch {batch}: {name}: {speed:,.1f} images/s, {speed / speeds['eager']:.1f} x")


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    rounds, device = options.rounds, torch.device(options.device)
    configure_device(device, full_precision=TransformerBackend.needs_full_precision)
    torch.manual_seed(0)
    backend = build_backend(presets("transformer")["tiny"].with_overrides(size=32, channels=1))
    assert isinstance(backend, TransformerBackend)
    backend.to(device).eval().requires_grad_(False)
    if device.type != "cpu":
        on_gpu(backend, rounds)
        return
    fast = backend.for_inference()

    def sampler(noise: Tensor, steps: int | None) -> Callable[[], Tensor]:
        return lambda: fast.generate(noise, None, SamplingOptions(steps=steps))

    noise, length = torch.randn(16, *backend.noise_shape), backend.prior.length
    expected, images = backend.tokenizer.decode(sample_without_cache(backend, noise)), sampler(noise, length)()
    print(f"batch 16: {int((expected - images).abs().flatten(1).amax(1).gt(1 / 255).sum())} of 16 images differ")
    methods: dict[str, Callable[[], object]] = {
        "no cache": lambda: backend.tokenizer.decode(sample_without_cache(backend, noise)),
        "one by one": sampler(noise, length),
        "12 steps": sampler(noise, 12),
    }
    speeds = measure(methods, rounds, 16)
    for name, speed in speeds.items():
        print(f"batch 16: {name}: {speed:.1f} images/s, {speed / speeds['no cache']:.1f} x")

    many = torch.randn(64, *backend.noise_shape)
    methods = {f"{backend.steps} steps": sampler(many, None), "one by one": sampler(many, length)}
    if find_spec("transformers") is None:
        print("batch 64: no GPT-2 to compare with: pip install transformers")
    else:
        methods["gpt2"] = gpt2(backend, 64)
    speeds = measure(methods, rounds, 64)
    for name, speed in speeds.items():
        ratio = f", {speed / speeds['gpt2']:.1f} x" if "gpt2" in speeds else ""
        print(f"batch 64: {name}: {speed:.1f} images/s{ratio}")


if __name__ == "__main__":
    main()
