"""Images changed to the style of others: by color alone, by patches, or by a network's statistics."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from imggen.data.cache import check_skipped
from imggen.data.decode import warn_of_frames
from imggen.engine.color import (
    ColorMap,
    Moments,
    blend_moments,
    color_axes,
    color_moments,
    luminance_moments,
    to_colors,
    to_pixels,
    transport,
)
from imggen.engine.device import configure_device, find_device
from imggen.engine.mapping.fast import FastNetworks, describe_styles, draw, open_fast_networks
from imggen.engine.mapping.full_size import compose, enlarged, recolored
from imggen.engine.mapping.inputs import ColorImage, ContentFile, noting_unreadable, open_colors, read_colors
from imggen.engine.mapping.losses import (
    DIRECTIONS_BESIDE_NETWORK,
    PATCH_WEIGHT,
    Network,
    NetworkLoss,
    PatchLoss,
    StyleLoss,
    open_network,
)
from imggen.engine.mapping.optimize import Problem, optimize, plan_scales, seconds_of_work
from imggen.engine.options import StylizeOptions
from imggen.engine.provenance import settings
from imggen.io.atomic import atomic_write
from imggen.io.image import ImageArray, drop_alpha, format_of
from imggen.io.metadata import encode_with_metadata, fitting
from imggen.reporting import Reporter

CONTENT_WEIGHT = 0.3


def stylize(
    options: StylizeOptions, contents: Sequence[ContentFile], styles: Sequence[ColorImage], reporter: Reporter
) -> dict[str, Any]:
    """Stylize and write the images; see `imggen.engine.mapping.run_stylize`."""
    began = time.monotonic()
    stylist = _open_stylist(options, styles, reporter)
    reports, unreadable = list[dict[str, Any]](), list[tuple[str, str]]()
    with reporter.task("stylizing", len(contents)) as task:
        for number, file in enumerate(contents):
            content = None
            with noting_unreadable(file.path, unreadable):
                content = open_colors(file.path) if len(contents) > 1 else read_colors(file.path)
            if content is None:
                continue
            _report_content(content, reporter)

            def advance(fraction: float, number: int = number) -> None:
                task.update(number + fraction)

            result = stylist.apply(content, advance, len(contents) - number)
            _write(options, content, file, result, stylist, reporter)
            reports.append(
                {"content": str(file.path), "path": str(file.output), "width": result.width, "height": result.height}
            )
            task.update(number + 1)
    check_skipped(tuple(unreadable), len(contents), strict=False)
    for name, reason in unreadable:
        reporter.warn(f"left out {name}: {reason}")
    return {
        "paths": [report["path"] for report in reports],
        "images": reports,
        "method": options.method,
        "features": None if stylist.network is None else stylist.network.name,
        "seed": options.seed,
        "seconds": round(time.monotonic() - began, 3),
    }


def _open_stylist(options: StylizeOptions, styles: Sequence[ColorImage], reporter: Reporter) -> Stylist:
    """Set up the device and the network, and measure the styles' colors."""
    device = find_device(options.device)
    configure_device(device)
    network = None
    if options.method == "network" and options.strength > 0:
        assert options.features is not None
        network = open_network(options.features, device)
        reporter.info(f"features {network.name} ({network.hash}) on {device}")
    for style in styles:
        warn_of_frames(style.path, style.frames, "used", reporter)
    moments = [color_moments(style.colors, style.alpha) for style in styles]
    if options.keep_colors:
        moments = [luminance_moments(each) for each in moments]
    fast = None
    if options.method == "fast" and options.strength > 0:
        fast = open_fast_networks()
        reporter.info(f"Magenta's networks ({fast.hash}) on cpu")
    return Stylist(options, styles, moments, network, fast, device, reporter)


@dataclass
class Stylist:
    """Changes images by the method of the options; `network` is None for methods without one."""

    options: StylizeOptions
    styles: Sequence[ColorImage]
    style_moments: Sequence[Moments]
    network: Network | None
    fast: FastNetworks | None
    device: torch.device
    reporter: Reporter
    seconds_are_known: bool = False

    def apply(self, content: ColorImage, advance: Callable[[float], None], images_left: int) -> Image.Image:
        """The stylized image, RGB or RGBA; `advance` is called with the fraction that is done."""
        options = self.options
        own = color_moments(content.colors, content.alpha)
        target = blend_moments(self.style_moments, options.weights)
        if options.keep_colors:
            own = luminance_moments(own)
            if options.method != "color":
                # The styles' light is made like the content's (Gatys et al. 2016, arXiv 1606.05897).
                target = own
        color_map = transport(own, target)
        if options.method == "color" or options.strength == 0:
            return compose(content, recolored(color_map), options.strength, options.keep_colors)
        if self.fast is not None:
            painted = self._draw(self.fast, content, target)
        else:
            painted = self._paint(content, target, color_map, advance, images_left)
        repaint = enlarged(content, painted, color_map, options.detail)
        return compose(content, repaint, options.strength, options.keep_colors)

    def _draw(self, networks: FastNetworks, content: ColorImage, target: Moments) -> ImageArray:
        """The result (h, w, 3) of one pass, in the styles' own colors: those of the networks are pale."""
        description = describe_styles(networks, [style.flat for style in self.styles], self.options.weights)
        drawn = draw(networks, content.flat, description)
        color_map = transport(color_moments(Image.fromarray(drawn)), target)
        axes = color_axes(target)  # of a gray style one, so that no tint is left
        colors = (color_map(to_colors(drawn)) - target.mean) @ np.linalg.pinv(axes).T @ axes.T
        return to_pixels(colors + target.mean)

    def _paint(
        self,
        content: ColorImage,
        target: Moments,
        color_map: ColorMap,
        advance: Callable[[float], None],
        images_left: int,
    ) -> ImageArray:
        """The result (h, w, 3) at the size of the strokes."""
        options = self.options
        style_maps: list[ColorMap | None] = [None] * len(self.styles)
        if options.keep_colors:
            style_maps = [transport(moments, target) for moments in self.style_moments]
        problem = Problem(
            content.flat,
            [style.flat for style in self.styles],
            options.weights,
            target,
            color_map,
            options.keep_colors,
            self._make_loss,
            style_maps,
            self.device,
        )
        scales = plan_scales(content.colors.size, options.size, options.steps)
        if not self.seconds_are_known:
            self._report_seconds(seconds_of_work(problem, scales, options.style_scale), images_left)
        total, done = sum(scale.work for scale in scales), 0.0

        def count(work: float) -> None:
            nonlocal done
            done += work
            advance(done / total)

        return optimize(problem, scales, options.style_scale, count)

    def _report_seconds(self, seconds: float, images: int) -> None:
        each = f" for each of {images} images, if they are alike" if images > 1 else ""
        self.reporter.info(f"about {max(1, round(seconds)):,} seconds{each}")
        self.seconds_are_known = True

    def _make_loss(self, styles: Sequence[Tensor], start: Tensor) -> StyleLoss:
        weights, seed = self.options.weights, self.options.seed
        if self.network is None:
            return PatchLoss(styles, weights, seed)
        patches = PatchLoss(styles, weights, seed, DIRECTIONS_BESIDE_NETWORK)
        seen = NetworkLoss(self.network, styles, weights, start, CONTENT_WEIGHT)
        return lambda image, step: seen(image) + PATCH_WEIGHT * patches(image, step)


def _report_content(content: ColorImage, reporter: Reporter) -> None:
    warn_of_frames(content.path, content.frames, "stylized", reporter)


def _write(
    options: StylizeOptions,
    content: ColorImage,
    file: ContentFile,
    result: Image.Image,
    stylist: Stylist,
    reporter: Reporter,
) -> None:
    """Write one result, with the content's metadata and the settings. Raises DataError."""
    networks = stylist.network or stylist.fast
    features = None if stylist.network is None else stylist.network.name
    info = settings("stylize", options, None, content=file.path, output=file.output.name, features=features)
    if networks is not None:
        info["features_hash"] = networks.hash
    format = format_of(file.output)
    text = json.dumps(info)
    metadata = fitting(content.metadata, format, len(text))
    if metadata.lost:
        reporter.warn(f"{file.path}: not kept: {'; '.join(metadata.lost)}")
    file.output.parent.mkdir(parents=True, exist_ok=True)
    image = drop_alpha(result) if format == "jpeg" else result
    atomic_write(file.output, encode_with_metadata(image, format, metadata, text))
