"""Fold scales of layers' inputs into the modules that make these inputs."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from arrow_quant_v2.torch.folding.diffusers_links import DIFFUSERS_LINKS
from arrow_quant_v2.torch.folding.links import Link, Part
from arrow_quant_v2.torch.folding.producers import output_channels, scale_output
from arrow_quant_v2.torch.folding.transformers_links import TRANSFORMERS_LINKS
from arrow_quant_v2.torch.modules import PackedConv, PackedLinear
from arrow_quant_v2.torch.unfold import MEASURED

# By library: another library's class of the same name is another class.
LINKS = {"diffusers": DIFFUSERS_LINKS, "transformers": TRANSFORMERS_LINKS}

# Below it the rounding of s' = e s + e - 1 costs more than the model's own rounding of 1 + s.
SMALLEST_ADAPTIVE = 0.5

_log = logging.getLogger("arrow_quant_v2")


@dataclasses.dataclass(frozen=True)
class FoldGroup:
    """Layers that can hand one common scale e of their inputs to the producers of these inputs.

    ``link`` has the names within the module of class ``owner``; ``producers`` and ``consumers`` those in the model.
    """

    owner: str
    link: Link
    producers: tuple[Part, ...]
    consumers: tuple[str, ...]

    @property
    def description(self) -> str:
        """Names of the producers, each once; those of two groups are the same where both read chunks of one layer."""
        return ", ".join(dict.fromkeys(part.module for part in self.producers))


def fold_groups(model: nn.Module) -> list[FoldGroup]:
    """All groups of the model whose producers can be changed; a layer is a consumer of at most one."""
    modules = dict(model.named_modules())
    shared = _shared_tensors(model)
    groups = [group for name, module in modules.items() for group in _groups_of(name, module)]
    return [group for group in groups if _can_fold(group, modules, shared)]


def foldable(model: nn.Module) -> dict[str, str]:
    """What could be folded: names of layers, each with those of the modules that its input's scale would go to."""
    return {consumer: group.description for group in fold_groups(model) for consumer in group.consumers}


@torch.no_grad()
def fold(model: nn.Module, scales: Mapping[str, torch.Tensor]) -> set[str]:
    """Change producers of ``model`` so that the inputs of layers arrive multiplied by their scales.

    A producer is changed where all layers that read its output are in ``scales`` with equal factors, and where no
    parameter of it is another module's, too. Factors below SMALLEST_ADAPTIVE are not folded into the scale of an
    adaptive norm in 16 bits.

    Args:
        scales: positive factors of input channels, [in_channels], by name of the linear or convolution layer.

    Returns:
        The names of layers whose inputs are now scaled; the caller drops their own multiplication.
    """
    folded: set[str] = set()
    changes: dict[str, list[tuple[Part, torch.Tensor]]] = collections.defaultdict(list)
    modules = dict(model.named_modules())
    for group in fold_groups(model):
        e = _common(group, scales)
        if e is None or any(not _keeps_digits(part, modules[part.module], e) for part in group.producers):
            continue
        folded.update(group.consumers)
        for part in group.producers:
            changes[part.module].append((part, e))
    for name, parts in changes.items():
        scale_output(modules[name], *_whole_output(output_channels(modules[name]), parts))
    return folded


def _groups_of(name: str, module: nn.Module) -> Iterator[FoldGroup]:
    prefix = f"{name}." if name else ""
    owner = type(module).__name__
    for link in _links_of(module):
        producers = tuple(dataclasses.replace(part, module=prefix + part.module) for part in link.producers)
        yield FoldGroup(owner, link, producers, tuple(prefix + consumer for consumer in link.consumers))


def _links_of(module: nn.Module) -> list[Link]:
    kind = type(module)
    links = LINKS.get(kind.__module__.partition(".")[0], {}).get(kind.__name__)
    try:
        return [] if links is None else list(links(module))
    except AttributeError as error:
        _log.warning("%s is not the class that is known: %s. Nothing is folded in it.", kind.__name__, error)
        return []


def _can_fold(group: FoldGroup, modules: Mapping[str, nn.Module], shared: set[int]) -> bool:
    names = [*group.consumers, *(part.module for part in group.producers)]
    if not group.consumers or not group.producers or any(name not in modules for name in names):
        return False
    if any(shared.intersection(_addresses(modules[name])) for name in names):
        return False
    widths = {input_channels(modules[name]) for name in group.consumers}
    return len(widths) == 1 and all(_fits(part, modules[part.module], *widths) for part in group.producers)


def _fits(part: Part, producer: nn.Module, width: int) -> bool:
    """Whether the part has a channel for each of the consumers', and a bias where one is needed."""
    fits = width > 0 and output_channels(producer) == width * part.chunks
    return fits and not (part.plus_one and getattr(producer, "bias", None) is None)


def input_channels(module: nn.Module) -> int:
    """Channels of a linear or convolution layer's input; 0 for other modules."""
    if isinstance(module, PackedConv):
        module = module.__dict__["_source"]
    if not isinstance(module, (*MEASURED, PackedLinear)):
        return 0
    layer: Any = module
    return int(layer.in_channels if hasattr(layer, "in_channels") else layer.in_features)


def _address(tensor: torch.Tensor) -> int:
    """What tells two tensors apart; those without memory are told apart as objects."""
    return id(tensor) if tensor.is_meta else tensor.data_ptr()


def _addresses(module: nn.Module) -> set[int]:
    tensors = itertools.chain(module.parameters(), module.buffers())
    return {_address(tensor) for tensor in tensors if tensor.numel()}


def _shared_tensors(model: nn.Module) -> set[int]:
    """Addresses of parameters and buffers that are found under more than one name."""
    tensors = itertools.chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    )
    counts = collections.Counter(_address(tensor) for _, tensor in tensors if tensor.numel())
    return {address for address, count in counts.items() if count > 1}


def _common(group: FoldGroup, scales: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """The scale that all consumers have, or None."""
    first = scales.get(group.consumers[0])
    if first is None:
        return None
    others = (scales.get(name) for name in group.consumers[1:])
    return first if all(e is not None and torch.equal(e, first) for e in others) else None


def _keeps_digits(part: Part, producer: nn.Module, e: torch.Tensor) -> bool:
    """(1 + s) e is 1 + s' with s' near e - 1, whose last digit is up to 1 / e times as much of (1 + s) e."""
    bias: Any = getattr(producer, "bias", None)
    return not part.plus_one or bias.dtype.itemsize > 2 or float(e.min()) >= SMALLEST_ADAPTIVE


def _whole_output(channels: int, parts: list[tuple[Part, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Factors and offsets of all channels of a producer: (1 + y) * e = 1 + (e * y + e - 1)."""
    factors = torch.ones(channels, dtype=torch.float64)
    offsets = torch.zeros(channels, dtype=torch.float64)
    for part, e in parts:
        at = slice(part.index * len(e), (part.index + 1) * len(e))
        factors[at] = e.to(factors)
        if part.plus_one:
            offsets[at] = factors[at] - 1
    return factors, offsets if any(part.plus_one for part, _ in parts) else None
