"""imggen explore: a page on this machine over the verbs for one model. Imports neither torch nor gradio."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from importlib.util import find_spec

from imggen.engine.options import ExploreOptions
from imggen.errors import UsageError
from imggen.reporting import Reporter


def check(options: ExploreOptions) -> None:
    """Raise UsageError if the page cannot be made here."""
    if find_spec("gradio") is None:
        raise UsageError("imggen explore needs gradio", "pip install 'imggen[explore]'")


def is_local(host: str) -> bool:
    """Whether an address is that of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run(options: ExploreOptions, reporter: Reporter, ready: Callable[[str], None]) -> None:
    """Serve the page until the process is interrupted; `ready` is called with its URL once it can be opened.

    Raises UsageError, DataError, CheckpointError and DeviceError before that, KeyboardInterrupt after it.
    """
    check(options)
    if not is_local(options.host):
        reporter.warn(f"whoever reaches {options.host} can use this page and your model: there is no password")
    from imggen.engine.explore.server import serve

    serve(options, reporter, ready)
