"""How the page looks: gradio's plain theme with the system's own fonts, and styles for images."""

from __future__ import annotations

from typing import Any

import gradio as gr

STYLE = """
.gradio-container .main{padding:8px 0!important}
.gradio-container{width:100%!important;max-width:1180px!important;margin:0 auto!important;padding:12px 16px!important}
h1.title{font-size:1.35rem;margin:0}
.note{color:var(--body-text-color-subdued);margin:.15rem 0;font-size:.9rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(88px,1fr));gap:8px}
.tile{border:2px solid transparent;border-radius:6px;padding:3px;background:none;cursor:pointer;
font:inherit;min-width:0;margin:0!important}
.tile:hover{border-color:var(--border-color-primary)}
.tile:focus-visible{outline:2px solid var(--color-accent);outline-offset:1px}
.tile[aria-pressed=true]{border-color:var(--color-accent)}
.tile img{width:100%;aspect-ratio:1;object-fit:contain;display:block}
.tile span{display:block;font-size:.75rem;color:var(--body-text-color-subdued);
overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.tile img,.large{image-rendering:pixelated;
background:repeating-conic-gradient(#e9e9e9 0 25%,#fff 0 50%) 0 0/14px 14px}
.large{width:100%;max-width:420px;max-height:70vh;object-fit:contain;display:block}
.download{display:inline-block;padding:.35rem .8rem;border:1px solid var(--border-color-primary);border-radius:6px;
margin:.2rem .4rem .2rem 0;text-decoration:none;color:var(--body-text-color)}
.download:hover{border-color:var(--color-accent)}
.command textarea{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace!important;font-size:.82rem!important}
.drop{display:block;border:2px dashed var(--border-color-primary);border-radius:8px;padding:1rem;text-align:center;
cursor:pointer;color:var(--body-text-color-subdued)}
.drop:hover,.drop:focus-within{border-color:var(--color-accent)}
.drop input{position:absolute;opacity:0;width:1px;height:1px}
.canvas{position:relative;width:100%;max-width:420px;touch-action:none;image-rendering:pixelated;
background:repeating-conic-gradient(#e9e9e9 0 25%,#fff 0 50%) 0 0/14px 14px}
.canvas.smooth{max-width:640px;image-rendering:auto}
.canvas img,.canvas canvas{position:absolute;inset:0;width:100%;height:100%}
.canvas canvas{opacity:.6;cursor:crosshair}
.tools{display:flex;gap:1rem;align-items:center;flex-wrap:wrap;margin:.4rem 0}
.tools button{border:1px solid var(--border-color-primary);border-radius:6px;padding:.1rem .7rem;background:none}
.curves{display:grid;gap:8px}
.curves svg{width:100%;height:auto;border:1px solid var(--border-color-primary);border-radius:6px;background:#fff}
.status{font-size:1rem;margin:.3rem 0}
.bars{width:100%;border-collapse:collapse}
.bars,.bars tr,.bars th,.bars td{border:0!important}
.bars th,.bars td{text-align:left;padding:.2rem .5rem .2rem 0!important;font-weight:400}
.bars td:last-child{width:50%}
.bars i{display:block;height:.7rem;background:var(--color-accent);border-radius:3px}
h2.part{font-size:1.05rem;margin:.6rem 0 0}
@media(max-width:640px){.tiles{grid-template-columns:repeat(auto-fill,minmax(68px,1fr));gap:4px}}
footer{display:none!important}
"""
FONTS = ("system-ui", "sans-serif")
FONTS_OF_CODE = ("ui-monospace", "Consolas", "monospace")


def theme() -> Any:
    """Gradio's plain theme; by default it would ask another host for its fonts."""
    return gr.themes.Default(primary_hue="blue", neutral_hue="gray", font=FONTS, font_mono=FONTS_OF_CODE)
