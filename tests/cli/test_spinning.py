"""How long idle threads spin is the user's choice, else imggen's."""

import pytest

from imggen.__main__ import SPINS, limit_spinning


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_the_environment_decides(given: dict[str, str]) -> None:
    environment = {"HOME": "/", **given}
    limit_spinning(environment)
    assert environment == {"HOME": "/", **(given or {"GOMP_SPINCOUNT": SPINS})}
