"""imggen sample: the door to the package, which loads torch only when a request has been checked."""

from __future__ import annotations

from typing import Any

from imggen.engine.options import SampleOptions
from imggen.engine.outputs import check_sample_output
from imggen.reporting import Reporter


def run(options: SampleOptions, reporter: Reporter) -> dict[str, Any]:
    """Generate images. Errors as in `imggen.errors`."""
    check_sample_output(options)
    from imggen.engine.sampling import reconstruct, sample

    if options.source is not None or options.near is not None:
        return reconstruct.reconstruct(options, reporter)
    return sample.sample(options, reporter)


def dry_run(options: SampleOptions, reporter: Reporter) -> dict[str, Any]:
    """The settings that `run` would use."""
    check_sample_output(options)
    from imggen.engine.sampling import reconstruct, sample

    beside = options.source is not None or options.near is not None
    return reconstruct.plan(options, reporter) if beside else sample.plan(options, reporter)
