"""Facts of a model's graph: output channels of modules that make the inputs of layers and do nothing else."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Part:
    """Output channels of a module: chunk ``index`` of ``chunks`` equal ones, in order.

    ``plus_one``: the model uses 1 + y in place of the module's output y, as the scale of an adaptive norm is used.
    """

    module: str
    index: int = 0
    chunks: int = 1
    plus_one: bool = False

    def __str__(self) -> str:
        return self.module if self.chunks == 1 else f"{self.module}[{self.index}/{self.chunks}]"


@dataclasses.dataclass(frozen=True)
class Link:
    """Producers that, all multiplied by e, multiply the inputs of all consumers by e channel by channel, and nothing
    else. Modules are named from the one whose forward code this is read from."""

    producers: tuple[Part, ...]
    consumers: tuple[str, ...]


def simple(producer: str, *consumers: str) -> Link:
    """All output channels of one module."""
    return Link((Part(producer),), consumers)


def adaptive(linear: str, chunks: int, shift: int, scale: int, *consumers: str) -> Link:
    """norm(x) * (1 + scale) + shift, with scale and shift chunks of one linear layer's output."""
    return Link((Part(linear, shift, chunks), Part(linear, scale, chunks, plus_one=True)), consumers)
