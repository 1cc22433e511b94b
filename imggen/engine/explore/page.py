"""The page: its tabs, as the model allows them, and the images that were kept, which all tabs share."""

from __future__ import annotations

from typing import Any

import fastapi
import gradio as gr

from imggen.engine.explore.actions import Actions
from imggen.engine.explore.fragments import escape
from imggen.engine.explore.kept import Kept
from imggen.engine.explore.sample_tab import build_sample_tab
from imggen.engine.explore.style import STYLE, theme
from imggen.models import kind_of


def build_app(actions: Actions) -> Any:
    """The page as an ASGI application, with its first images drawn."""
    blocks = build_page(actions)
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
        css=STYLE,
    )


def build_page(actions: Actions) -> gr.Blocks:
    """The page of a model."""
    with gr.Blocks(title=f"imggen explore {actions.options.model}", analytics_enabled=False) as blocks:
        gr.HTML(_heading(actions))
        backend = actions.backend
        if backend is not None:
            kept = Kept(actions, backend)
            with gr.Tabs():
                build_sample_tab(actions, backend, kept)
            kept.build_panel()
    return blocks


def _heading(actions: Actions) -> str:
    config = actions.loaded.model.config
    kind = "" if actions.backend is not None else f" {kind_of(config.family).noun}"
    facts = f"{config.family}/{config.preset}{kind}, {config.size} px, {actions.loaded.hash}"
    return f'<h1 class="title">{escape(actions.options.model)}</h1><p class="note">{escape(facts)}</p>'
