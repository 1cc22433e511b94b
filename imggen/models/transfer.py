"""Weights of a trained model as the start of another, which may differ in size, channels, classes or width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

import torch
from torch import Tensor

# In the names of tensors with a row for each class: their ends, and what those have that each layer of a DCGAN has.
CLASS_EMBEDDINGS = ("embed.weight", "class_embedding.weight", "head.linear.weight", "head.linear.bias")
CLASS_BIASES = ".class_biases."


class Transfer(NamedTuple):
    """The weights (and buffers) to begin with, and the names of those taken whole, taken in part, and left new."""

    tensors: dict[str, Tensor]
    whole: list[str]
    parts: list[str]
    new: list[str]


def transfer(
    source: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    source_classes: Sequence[str] = (),
    target_classes: Sequence[str] = (),
) -> Transfer:
    """Take from the state `source` of a backend what fits into the state `target` of another one of its family.

    A tensor of the same shape is taken whole. Where one dimension differs, as with the channels of the image, the part
    that both have is taken and the rest stays as in `target`. All others stay as they are. What has a row for each
    class is taken by the classes' names. Tensors belong together by name; where the two have other layers, by the
    longest sequences of equal shapes, and then none but those by class is taken in part.
    """
    tensors = {name: tensor.clone() for name, tensor in target.items()}
    result = Transfer(tensors, [], [], [])
    partners = dict(_pairs(source, target))
    for name, own in tensors.items():
        given = source.get(partners.get(name, ""))
        has_classes = name.endswith(CLASS_EMBEDDINGS) or CLASS_BIASES in name
        if has_classes and given is not None and given.ndim == own.ndim:
            rows = _rows_by_class(given, own, source_classes, target_classes)
            common = tuple(slice(min(a, b)) for a, b in zip(given.shape[1:], own.shape[1:], strict=True))
            for row, source_row in rows.items():
                own[row][common] = given[source_row][common]
            is_whole = len(rows) == len(own) and given.shape[1:] == own.shape[1:]
            (result.whole if is_whole else result.parts if rows else result.new).append(name)
        elif given is None or given.dtype != own.dtype or given.ndim != own.ndim:
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


def _rows_by_class(
    given: Tensor, own: Tensor, source_classes: Sequence[str], target_classes: Sequence[str]
) -> dict[int, int]:
    """Rows of an embedding of classes with the rows of the same classes in `given`; "no class", if any, comes last."""
    rows = {row: source_classes.index(name) for row, name in enumerate(target_classes) if name in source_classes}
    if len(given) == len(source_classes) + 1 and len(own) == len(target_classes) + 1:
        rows[len(own) - 1] = len(given) - 1
    return rows


def _pairs(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Names in `target` with the names in `source` of the tensors that belong to them."""
    if source.keys() == target.keys():
        yield from ((name, name) for name in target)
        return
    yield from ((name, name) for name in target if name in source and name.endswith(CLASS_EMBEDDINGS))
    ours, theirs = ([name for name in names if not name.endswith(CLASS_EMBEDDINGS)] for names in (target, source))
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
    """What layers must share to belong together: the last part of the name, and the shape, whatever the classes."""
    shape = tensors[name].shape
    return name.rsplit(".", 1)[-1], shape[1:] if CLASS_BIASES in name else shape
