"""What a training is about to do, in words."""

from __future__ import annotations

from typing import Any

from imggen.engine.device import precision_name
from imggen.engine.options import TrainOptions
from imggen.engine.training.plan import TrainPlan, make_plan
from imggen.engine.training.targets import describe_targets
from imggen.models.learner import Learner
from imggen.reporting import Reporter

KINDS = {1: "gray", 3: "color", 4: "color with alpha"}


def resolved_settings(options: TrainOptions, reporter: Reporter) -> dict[str, Any]:
    """What `train` would do: family, run, device and settings, without decoding the data.

    What was chosen for the user is reported, with the reasons, and the model that the run would begin from.
    """
    plan = make_plan(options, reporter, decode=False)
    plan.processes.stop()
    _report_choices(plan, reporter)
    if plan.state is None and (begun := plan.credits.get("init_from")):
        reporter.info(f"begin   from {begun}")
    kind, learned = describe_targets(plan.source.targets, plan.config.classes)
    return {
        "family": plan.config.family,
        "run": str(plan.run_dir.path),
        "device": str(plan.device),
        kind: learned,
        **plan.settings(),
    }


def describe_plan(plan: TrainPlan, learner: Learner, reporter: Reporter) -> None:
    """Report data, model, device and budget, one line each."""
    config = plan.config
    _, learned = describe_targets(plan.dataset.targets, config.classes)
    form = f"{config.size}x{config.size} {KINDS[config.channels]}, {learned}"
    reporter.info(f"data    {plan.dataset.name}: {len(plan.dataset):,} images, {form}")
    _report_choices(plan, reporter)
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in learner.networks.items()}
    listed = (f"{'EMA' if name == 'average' else name} {count / 1e6:.2f} M" for name, count in counts.items() if count)
    reporter.info(f"model   {config.family}/{config.preset}: {', '.join(listed)}")
    group = f" on {plan.processes.size} processes" if plan.processes.size > 1 else ""
    reporter.info(f"device  {plan.device}, {precision_name(plan.precision)}, batch {plan.batch}{group}")
    reporter.info(f"budget  {plan.budget}, seed {plan.seed}, into {plan.run_dir.path}")


def _report_choices(plan: TrainPlan, reporter: Reporter) -> None:
    """Report what was chosen for the user, and why, and what else may help with so few images."""
    for choice in plan.choices:
        reporter.info(f"chosen  {choice}")
    if advice := plan.config.advice(len(plan.source)):
        reporter.info(f"hint    {advice}")
