"""imggen evaluate: the door to the package, which loads torch only when a request has been checked."""

from __future__ import annotations

from typing import Any

from imggen.engine.options import EvaluateOptions
from imggen.engine.outputs import check_report
from imggen.reporting import Reporter


def run(options: EvaluateOptions, reporter: Reporter) -> dict[str, Any]:
    """Compare a model with data. Errors as in `imggen.errors`."""
    check_report(options)
    from imggen.engine.evaluation import evaluate

    return evaluate.evaluate(options, reporter)
