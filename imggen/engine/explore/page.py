"""The page: its tabs, as the model allows them, and the images that were kept, which all tabs share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import fastapi
import gradio as gr

from imggen.engine.explore.actions import Actions
from imggen.engine.explore.directions_tab import build_directions_tab
from imggen.engine.explore.fill_tab import build_fill_tab
from imggen.engine.explore.find_tab import build_find_tab, can_classify, can_search
from imggen.engine.explore.fragments import escape, note
from imggen.engine.explore.kept import Kept
from imggen.engine.explore.map_tab import build_map_tab, can_map
from imggen.engine.explore.progress import find_run
from imggen.engine.explore.sample_tab import build_sample_tab
from imggen.engine.explore.style import STYLE, theme
from imggen.engine.explore.tabs import TAB_STYLE, build_tabs
from imggen.engine.explore.training_tab import build_training_tab
from imggen.engine.explore.walk_tab import build_walk_tab
from imggen.engine.options import ExploreOptions
from imggen.models import kind_of


def build_app(options: ExploreOptions, actions: Actions | None) -> Any:
    """The page as an ASGI application, with its first images."""
    blocks = build_page(options, actions)
    # `launch` would open a server of its own; here the caller's serves.
    return gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None),
        blocks,
        path="",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        max_file_size=1,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        show_error=True,
        theme=theme(),
        css=STYLE + TAB_STYLE,
    )


def build_page(options: ExploreOptions, actions: Actions | None) -> gr.Blocks:
    """The page of a model with the tabs that it allows; `actions` is None for a run that has no model yet."""
    tabs: dict[str, Callable[[], None]] = {}
    with gr.Blocks(title=f"imggen explore {options.model}", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(_heading(options, actions))
        kept = None
        if actions is not None and (backend := actions.backend) is not None:
            kept = Kept(actions, backend)
            tabs["Sample"] = partial(build_sample_tab, actions, backend, kept)
            tabs["Walk"] = partial(build_walk_tab, actions, kept)
            tabs["Fill"] = partial(build_fill_tab, actions, backend, kept)
            if not backend.limitation("directions"):
                tabs["Directions"] = partial(build_directions_tab, actions, kept)
        if actions is not None and (can_classify(actions.model) or can_search(actions.model, options.data)):
            tabs["Find"] = partial(build_find_tab, actions)
        if actions is not None and can_map(actions):
            tabs["Map"] = partial(build_map_tab, actions)
        if (run := find_run(options)) is not None:
            tabs["Training"] = partial(build_training_tab, run)
        build_tabs(tabs)
        if kept is not None:
            kept.build_panel()
    return blocks


def _heading(options: ExploreOptions, actions: Actions | None) -> str:
    title = f'<h1 class="title">{escape(options.model)}</h1>'
    if actions is None:
        return title + note("This run has not saved a model yet: open the page again when it has.")
    config = actions.model.config
    return title + note(f"{kind_of(config.family).noun} {config.family}/{config.preset}, {actions.loaded.hash}")
