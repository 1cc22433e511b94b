"""How much faster imggen trains DCGAN than a tutorial's loop, and which fraction of the machine's speed that is.

    python tests/benchmarks/train_speed.py --data FOLDER [--size 64] [--seconds 60] [--rounds 3]
    python tests/benchmarks/train_speed.py --data FOLDER --size 32 --presets tiny base dcgan

Both train the same networks, in turns and each in its own process, so that the load of the machine and global settings
are the same for both. The tutorial's loop decodes in a DataLoader and uses no memory format. With --presets: images per
second of these presets of the GAN as `imggen train` runs them, and the fraction of time spent waiting for data.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from imggen.data.dataset import DataOptions, Order, load_dataset
from imggen.engine.device import configure_device
from imggen.models import build_learner, presets
from imggen.models.gan.dcgan import Discriminator, Generator
from imggen.reporting import Silent


class ImageFolder(Dataset[Tensor]):
    """Decode on demand, as tutorials do."""

    def __init__(self, folder: Path, size: int) -> None:
        self.paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
        self.transform = transforms.Compose(
            [
                transforms.Resize(size),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.5,) * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as image:
            tensor: Tensor = self.transform(image.convert("RGB"))
        return tensor


def tutorial_speed(folder: Path, size: int, batch: int, seconds: float) -> float:
    """Images per second of the tutorial's loop."""
    config = presets("gan")["dcgan"].with_overrides(size=size, channels=3)
    generator, discriminator = Generator(config), Discriminator(config)
    adam_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    adam_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    loader = DataLoader(ImageFolder(folder, size), batch, shuffle=True, num_workers=2, drop_last=True)
    seen, began = 0, 0.0
    while True:
        for real in loader:
            if began and time.perf_counter() - began > seconds:
                return seen / (time.perf_counter() - began)
            real_label, fake_label = torch.ones(batch), torch.zeros(batch)
            discriminator.zero_grad()
            binary_cross_entropy_with_logits(discriminator(real), real_label).backward()
            fake = generator(torch.randn(batch, config.z_dim))
            binary_cross_entropy_with_logits(discriminator(fake.detach()), fake_label).backward()
            adam_d.step()
            generator.zero_grad()
            binary_cross_entropy_with_logits(discriminator(fake), real_label).backward()
            adam_g.step()
            seen += batch
            if not began and seen >= 2 * batch:  # the first steps warm up
                began, seen = time.perf_counter(), 0


def imggen_speed(folder: Path, size: int, batch: int, seconds: float, preset: str = "dcgan") -> float:
    """Images per second of imggen's learner on imggen's data."""
    dataset = load_dataset(str(folder), DataOptions(size=size, channels=3), max_size=size, reporter=Silent())
    config = presets("gan")[preset].with_overrides(size=size, channels=3)
    configure_device(torch.device("cpu"))
    learner = build_learner(config)
    learner.to(torch.device("cpu"))
    order = Order(len(dataset), 0)
    seen, began = 0, 0.0
    while not began or time.perf_counter() - began < seconds:
        levels, _ = dataset.batch(order.indices(seen, batch))
        images = levels.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)
        learner.step(images, None, 0.5, seen)
        seen += batch
        if not began and seen >= 2 * batch:
            began, seen = time.perf_counter(), 0
    return seen / (time.perf_counter() - began)


def presets_table(names: list[str], folder: Path, size: int, seconds: float) -> None:
    """Speed of presets as `imggen train` runs them, each in its own process and folder."""
    for preset in names:
        with tempfile.TemporaryDirectory() as folder_of_run:
            words = [
                sys.executable,
                "-m",
                "imggen",
                "train",
                "gan",
                "--preset",
                preset,
                "--data",
                str(folder),
                "--json",
            ]
            words += [
                "--size",
                str(size),
                "--minutes",
                str(seconds / 60),
                "--device",
                "cpu",
                "-o",
                f"{folder_of_run}/run",
            ]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
        result = json.loads(done.stdout)
        rate, wait = result["images"] / result["seconds"], result["data_wait"]
        print(f"{preset:8} {rate:8.1f} img/s, {wait:.2%} of the time waiting for data", flush=True)


def ceiling() -> float:
    """Measured GFLOP/s of a large matrix product."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = 0.0
    for _ in range(8):
        began = time.perf_counter()
        a @ b
        best = max(best, 2 * 2048**3 / (time.perf_counter() - began) / 1e9)
    return best


def work(size: int) -> float:
    """GFLOP per image: eleven passes (forward, gradient of inputs, gradient of weights) through the two networks."""
    config = presets("gan")["dcgan"].with_overrides(size=size, channels=3)
    total = {"g": 0, "d": 0}

    def count(name: str) -> None:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
            positions = inputs[0][0, 0].numel() if isinstance(module, nn.ConvTranspose2d) else output[0, 0].numel()
            total[name] += 2 * module.weight.numel() * positions

        for module in networks[name].modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.register_forward_hook(hook)

    networks = {"g": Generator(config).eval(), "d": Discriminator(config).eval()}
    count("g"), count("d")
    networks["d"](networks["g"](torch.randn(1, config.z_dim)))
    # G: forward, gradients of inputs and of weights. D: these three on real and on fake images, and two for G's step.
    return (3 * total["g"] + 8 * total["d"]) / 1e9


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--what", choices=("plain", "imggen"), help="measure one of them in this process")
    parser.add_argument(
        "--presets", nargs="+", choices=tuple(presets("gan")), help="measure these as imggen train runs them"
    )
    given = parser.parse_args()
    if given.presets:
        presets_table(given.presets, given.data, given.size, given.seconds)
        return
    if given.what:
        print(
            (tutorial_speed if given.what == "plain" else imggen_speed)(
                given.data, given.size, given.batch, given.seconds
            )
        )
        return
    top = ceiling()
    print(f"matrix product: {top:.0f} GFLOP/s; dcgan at {given.size} px: {work(given.size):.2f} GFLOP per image")

    def of_process(what: str) -> float:
        words = [sys.executable, __file__, "--what", what]
        for name in ("data", "size", "batch", "seconds"):
            words += [f"--{name}", str(getattr(given, name))]
        return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[-1])

    for number in range(given.rounds):
        slow, fast = of_process("plain"), of_process("imggen")
        fraction = f"{fast * work(given.size) / top:.0%} of the ceiling"
        line = f"plain {slow:.1f} img/s, imggen {fast:.1f} img/s, ratio {fast / slow:.2f}, {fraction}"
        print(f"round {number}: {line}", flush=True)


if __name__ == "__main__":
    main()
