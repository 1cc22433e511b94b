"""The packages of the verbs refuse bad options before torch is imported."""

import subprocess
import sys

import pytest

VERBS = ("sampling", "direction_sheet", "interpolation", "inpainting", "mapping")


@pytest.mark.process
def test_doors_do_not_import_torch() -> None:
    names = ", ".join(f"imggen.engine.{verb}" for verb in VERBS)
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
