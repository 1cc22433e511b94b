"""How the page looks: gradio's plain theme with the system's own fonts, and styles for images."""

from __future__ import annotations

from typing import Any

import gradio as gr

STYLE = """
.gradio-container{max-width:1180px!important;margin:0 auto!important;padding:12px 16px!important}
h1.title{font-size:1.35rem;margin:0}
.note{color:var(--body-text-color-subdued);margin:.15rem 0;font-size:.9rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(88px,1fr));gap:8px}
.tile{border:2px solid transparent;border-radius:6px;padding:3px;background:none;cursor:pointer;font:inherit;min-width:0}
.tile:hover{border-color:var(--border-color-primary)}
.tile:focus-visible{outline:2px solid var(--color-accent);outline-offset:1px}
.tile[aria-pressed=true]{border-color:var(--color-accent)}
.tile img{width:100%;aspect-ratio:1;object-fit:contain;display:block}
.tile span{display:block;font-size:.75rem;color:var(--body-text-color-subdued);overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.tile img,.picture{image-rendering:pixelated;background:repeating-conic-gradient(#e9e9e9 0 25%,#fff 0 50%) 0 0/14px 14px}
.picture{width:100%;max-width:420px;max-height:70vh;object-fit:contain;display:block}
.download{display:inline-block;padding:.35rem .8rem;border:1px solid var(--border-color-primary);border-radius:6px;
margin:.2rem .4rem .2rem 0;text-decoration:none;color:var(--body-text-color)}
.download:hover{border-color:var(--color-accent)}
.command textarea{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace!important;font-size:.82rem!important}
footer{display:none!important}
"""
FONTS = ("system-ui", "sans-serif")
FONTS_OF_CODE = ("ui-monospace", "Consolas", "monospace")


def theme() -> Any:
    """Gradio's plain theme; by default it would ask another host for its fonts."""
    return gr.themes.Default(primary_hue="blue", neutral_hue="gray", font=FONTS, font_mono=FONTS_OF_CODE)
