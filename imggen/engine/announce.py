"""What a training says of itself before it begins."""

from __future__ import annotations

from imggen.engine.device import precision_name
from imggen.engine.setup import Setup
from imggen.models.base import Learner
from imggen.reporting import Reporter


def announce(setup: Setup, learner: Learner, reporter: Reporter) -> None:
    """Data, model, device and budget, a line each."""
    data = setup.dataset
    config, networks = setup.config, learner.networks
    classes = f"{len(config.classes)} classes" if config.classes else "no classes"
    kind = {1: "grey", 3: "colour", 4: "colour with alpha"}[config.channels]
    reporter.info(f"data    {data.name}: {len(data):,} pictures, {config.size}x{config.size} {kind}, {classes}")
    counts = ", ".join(
        f"{name} {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M" for name, net in networks.items()
    )
    reporter.info(f"model   {config.family}/{config.preset}: {counts}")
    processes = f" on {setup.world.size} processes" if setup.world.size > 1 else ""
    reporter.info(f"device  {setup.device}, {precision_name(setup.precision)}, batch {setup.batch}{processes}")
    reporter.info(f"budget  {setup.budget}, seed {setup.seed}, into {setup.options.run}")


def duration(seconds: float) -> str:
    """3 h 20 min."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
