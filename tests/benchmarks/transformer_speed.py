"""How much faster the cache and few steps draw: `tiny` at 32 pixels, 64 tokens, with random weights.

    python tests/benchmarks/transformer_speed.py [--rounds 3] [--device cuda]

At batch 16: working everything out anew for every token, one by one with the cache (the same pictures, which is
checked), and 12 steps. At batch 64, where the package `transformers` is installed: a GPT-2 of the same width, depth
and length, drawing 64 tokens with its own cache, beside the model's own number of steps. Every figure is pictures a
second, each way after a warm-up, in turn, and the best of the rounds; decoding to pixels is in all of ours.

On a GPU, in fp32 and in bf16: pictures a second at batch 1024, and at batch 1 those of a graph that is played back
beside those of operations that are started one after another.
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
from imggen.models.transformer.any_order_prior import AnyOrderPrior
from imggen.models.transformer.backend import TransformerBackend
from imggen.models.transformer.generation_order import halton
from imggen.models.transformer.sampling import Settings, drawn, probabilities, shares


def anew(backend: TransformerBackend, noise: Tensor) -> Tensor:
    """Tokens one by one without a cache: for each, all that is known goes through all layers again."""
    prior = backend.prior
    assert isinstance(prior, AnyOrderPrior)
    labels, share = backend.labels_or_none(None, len(noise)), shares(noise.flatten(2).transpose(1, 2))
    tokens = torch.zeros(len(noise), prior.length, len(prior.factors), dtype=torch.int64)
    order = torch.tensor(halton(prior.side))
    for count in range(1, prior.length + 1):
        places = order[:count]
        groups = torch.arange(count).expand(len(noise), -1)
        state = prior.states(tokens[:, places], labels, groups, places)[:, -1:]
        here = tokens[:, places[-1:]]
        for channel in range(len(prior.factors)):
            chances = probabilities(prior.head.logits(state, channel, here), Settings())
            here[..., channel] = drawn(chances, share[:, places[-1:], channel], plain=True)
        tokens[:, places[-1:]] = here
    return tokens


def gpt2(backend: TransformerBackend, batch: int) -> Callable[[], object]:
    """What draws `batch` rows of tokens with the package's GPT-2 of the same width, depth, heads and length."""
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


def best(ways: dict[str, Callable[[], object]], rounds: int, batch: int) -> dict[str, float]:
    """Pictures a second of each way: the best of some rounds, each way in turn."""
    found = dict.fromkeys(ways, 0.0)
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if number:
                found[name] = max(found[name], batch / (time.perf_counter() - began))
    return found


def on_gpu(backend: TransformerBackend, rounds: int) -> None:
    """Print the table of a GPU."""
    device = next(backend.parameters()).device
    for precision in (torch.float32, torch.bfloat16):
        played, started = backend.for_inference(), backend.for_inference()
        started.recorder = None

        def drawing(model: TransformerBackend, noise: Tensor, precision: torch.dtype = precision) -> Callable[[], None]:
            def draw() -> None:
                with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                    model.generate(noise)
                torch.accelerator.synchronize()

            for _ in range(3):  # plainly, recorded, played back
                draw()
            return draw

        for batch in (1024, 1):
            noise = torch.randn(batch, *backend.noise_shape, device=device)
            ways: dict[str, Callable[[], object]] = {"graph": drawing(played, noise), "eager": drawing(started, noise)}
            found = best(ways, rounds, batch)
            for name, speed in found.items():
                kind = str(precision).removeprefix("torch.")
                print(f"{kind}, batch {batch}: {name}: {speed:,.1f} pictures/s, {speed / found['eager']:.1f} x")


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    rounds, device = options.rounds, torch.device(options.device)
    configure_device(device, careful=TransformerBackend.careful)
    torch.manual_seed(0)
    backend = build_backend(presets("transformer")["tiny"].with_overrides(size=32, channels=1))
    assert isinstance(backend, TransformerBackend)
    backend.to(device).eval().requires_grad_(False)
    if device.type != "cpu":
        on_gpu(backend, rounds)
        return
    fused = backend.for_inference()

    def drawing(noise: Tensor, steps: int | None) -> Callable[[], Tensor]:
        def draw() -> Tensor:
            fused.draw_with(**({} if steps is None else {"steps": steps}))
            return fused.generate(noise)

        return draw

    noise, length = torch.randn(16, *backend.noise_shape), backend.prior.length
    slow, fast = backend.tokenizer.decode(anew(backend, noise)), drawing(noise, length)()
    print(f"batch 16: {int((slow - fast).abs().flatten(1).amax(1).gt(1 / 255).sum())} of 16 pictures differ")
    ways: dict[str, Callable[[], object]] = {
        "anew": lambda: backend.tokenizer.decode(anew(backend, noise)),
        "one by one": drawing(noise, length),
        "12 steps": drawing(noise, 12),
    }
    found = best(ways, rounds, 16)
    for name, speed in found.items():
        print(f"batch 16: {name}: {speed:.1f} pictures/s, {speed / found['anew']:.1f} x")

    many = torch.randn(64, *backend.noise_shape)
    ways = {f"{backend.steps} steps": drawing(many, None), "one by one": drawing(many, length)}
    if find_spec("transformers") is None:
        print("batch 64: no GPT-2 to compare with: pip install transformers")
    else:
        ways["gpt2"] = gpt2(backend, 64)
    found = best(ways, rounds, 64)
    for name, speed in found.items():
        ratio = f", {speed / found['gpt2']:.1f} x" if "gpt2" in found else ""
        print(f"batch 64: {name}: {speed:.1f} pictures/s{ratio}")


if __name__ == "__main__":
    main()
