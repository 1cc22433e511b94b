"""Components for the class and the sampling options of a model, made from their declarations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from imggen.models.base import Backend
from imggen.models.config import SamplingOptions
from imggen.option import options_of

SAMPLING_OPTIONS = {item.name: (item, option) for item, option in options_of(SamplingOptions).items()}
STEPS_OF_SLIDER = {"temperature": 0.05}


@dataclass(frozen=True)
class SamplingControls:
    """The class and the sampling options of a model, as far as it has them: components, and what their values mean."""

    any_class: str
    classes: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, backend: Backend, any_class: str) -> SamplingControls:
        """Those of a model; `any_class` is the choice that asks for no class."""
        config = backend.config
        return cls(
            any_class,
            tuple(config.classes[index] for index in config.trained_classes),
            tuple(name for name in SAMPLING_OPTIONS if name in backend.supported),
        )

    def build(self) -> list[Any]:
        """One component for the class, if there are several, and one for each option."""
        components: list[Any] = []
        if self.classes:
            components.append(gr.Dropdown([self.any_class, *self.classes], value=self.any_class, label="Class"))
        for name in self.names:
            item, option = SAMPLING_OPTIONS[name]
            label, step = name.replace("_", " ").capitalize(), STEPS_OF_SLIDER.get(name)
            if step is not None:
                components.append(gr.Slider(option.low, option.high, item.default, step=step, label=label))
            else:
                precision = None if isinstance(item.default, float) else 0
                components.append(gr.Number(item.default, label=label, info=option.help, precision=precision))
        return components

    def read(self, values: Sequence[Any]) -> tuple[str | None, dict[str, Any]]:
        """The class, None if none was asked for, and the options of the components' values."""
        label = None
        if self.classes:
            label, values = values[0], values[1:]
        given = {name: _typed(name, value) for name, value in zip(self.names, values, strict=True) if value is not None}
        return (None if label == self.any_class else label), given


def _typed(name: str, value: float) -> float:
    """A number of the browser, which knows one type of them, in the option's own type: files record it."""
    return float(value) if isinstance(SAMPLING_OPTIONS[name][0].default, float) else int(value)
