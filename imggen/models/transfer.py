"""Weights of a trained model as the start of another, which may differ in size, channels, classes or width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import NamedTuple

import torch
from torch import Tensor


class Transfer(NamedTuple):
    """The weights (and buffers) to begin with, and the names of those taken whole, taken in part, and left new."""

    tensors: dict[str, Tensor]
    whole: list[str]
    parts: list[str]
    new: list[str]


def transfer(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Transfer:
    """Take from the state `source` of a backend what fits into the state `target` of another one of its family.

    A tensor of the same shape is taken whole. Where one dimension differs (the channels of the image, the number of
    classes), the part that both have is taken and the rest stays as in `target`. All others stay as they are.
    Tensors belong together by name or, where the two have other layers, by the longest sequences of equal shapes.
    """
    tensors = {name: tensor.clone() for name, tensor in target.items()}
    result = Transfer(tensors, [], [], [])
    partners = dict(_pairs(source, target))
    for name, own in tensors.items():
        given = source.get(partners.get(name, ""))
        if given is None or given.dtype != own.dtype or given.ndim != own.ndim:
            result.new.append(name)
        elif given.shape == own.shape:
            own.copy_(given)
            result.whole.append(name)
        elif sum(a != b for a, b in zip(given.shape, own.shape, strict=True)) == 1 and own.ndim > 1:
            common = tuple(slice(min(a, b)) for a, b in zip(given.shape, own.shape, strict=True))
            own[common] = given[common]
            result.parts.append(name)
        else:
            result.new.append(name)
    return result


def _pairs(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Names in `target` with the names in `source` of the tensors that belong to them."""
    if source.keys() == target.keys():
        yield from ((name, name) for name in target)
        return
    ours, theirs = list(target), list(source)
    # Part by part: generator, discriminator, encoder, prior, ...
    for part in dict.fromkeys(_part(name) for name in ours):
        own = [name for name in ours if _part(name) == part]
        other = [name for name in theirs if _part(name) == part]
        matcher = SequenceMatcher(
            None, [_kind(name, source) for name in other], [_kind(name, target) for name in own], autojunk=False
        )
        for match in matcher.get_matching_blocks():
            yield from zip(own[match.b :][: match.size], other[match.a :][: match.size], strict=True)


def _part(name: str) -> str:
    return name.split(".")[0]


def _kind(name: str, tensors: Mapping[str, Tensor]) -> tuple[str, torch.Size]:
    """What layers must share to belong together: the last part of the name, and the shape."""
    return name.rsplit(".", 1)[-1], tensors[name].shape
