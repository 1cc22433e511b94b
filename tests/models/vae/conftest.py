"""VAEs that have learned bars, trained once per session."""

import pytest

from imggen.models import build_backend
from imggen.models.vae.backend import VaeBackend
from tests.models.vae.helpers import CLASSES, QUICK, small_config, train_on_bars


@pytest.fixture(scope="session")
def unlabeled() -> VaeBackend:
    """Without classes, with a trained partial encoder."""
    return train_on_bars(small_config(**QUICK, inpaint_fraction=0.3), 190, batch=8).backend


@pytest.fixture(scope="session")
def labeled() -> VaeBackend:
    """With a class for each direction, and a trained partial encoder."""
    config = small_config(**QUICK, **CLASSES, inpaint_fraction=0.4)
    return train_on_bars(config, 200, labeled=True).backend


@pytest.fixture(scope="session")
def labeled_without_partial_encoder(labeled: VaeBackend) -> VaeBackend:
    """The same VAE as `labeled`: the partial encoder's stage does not change it."""
    backend = build_backend(labeled.config.with_overrides(inpaint_fraction=0.0)).eval()
    assert isinstance(backend, VaeBackend)
    backend.core.load_state_dict(labeled.core.state_dict())
    return backend.requires_grad_(False)
