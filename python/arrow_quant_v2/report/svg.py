"""Pictures as inline SVG whose colours come from the page's style sheet, so that they fit its light, dark and print."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

from markupsafe import Markup, escape

_TINY = 1e-12
_TICK_LENGTH = 4


@dataclasses.dataclass(frozen=True)
class Axis:
    """From values in [low, high] to pixels in [begin, end]; ``log``: to the base of 10, of positive values."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (self._plain(v) for v in (self.low, self.high, min(max(value, self.low), self.high)))
        return self.begin + (self.end - self.begin) * (at - low) / max(high - low, _TINY)

    def _plain(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self, count: int = 6) -> list[float]:
        """About ``count`` round values in the range."""
        return log_ticks(self.low, self.high, count) if self.log else round_ticks(self.low, self.high, count)


def round_ticks(low: float, high: float, count: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of 10 in [low, high] (Heckbert, Nice Numbers for Graph Labels, 1990)."""
    rough = max(high - low, _TINY) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, count: int) -> list[float]:
    """1, 2 and 5 times powers of 10 in [low, high], powers alone where those are enough, other round values where the
    range is too narrow."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**d for d in decades for m in (1, 2, 5) if low * 0.999 <= m * 10.0**d <= high * 1.001]
    if len(ticks) < 3:
        return round_ticks(low, high, count)
    powers = [t for t in ticks if math.log10(t).is_integer()]
    return powers if len(ticks) > 2 * count and len(powers) > 1 else ticks


def log_axis(values: Iterable[float], begin: float, end: float, room: float = 1.25) -> Axis:
    """An axis with some room around positive values."""
    known = list(values)
    return Axis(min(known) / room, max(known) * room, begin, end, log=True)


def plain(value: float) -> str:
    """A tick's label."""
    return f"{value:.6g}"


class Canvas:
    """Shapes in drawing order; every text is escaped."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._parts: list[Markup] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self._add('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>', kind, x1, y1, x2, y2)

    def rect(
        self, x: float, y: float, width: float, height: float, kind: str, opacity: float = 1, tip: str = ""
    ) -> None:
        self._add(
            '<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" fill-opacity="{:.3f}">{}</rect>',
            kind, x, y, width, height, opacity, _tip(tip),
        )  # fmt: skip

    def circle(self, x: float, y: float, radius: float, kind: str, tip: str = "", link: str = "") -> None:
        shape = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}">{}</circle>').format(
            kind, x, y, radius, _tip(tip)
        )
        self._parts.append(Markup('<a href="#{}">{}</a>').format(link, shape) if link else shape)

    def path(self, points: Sequence[tuple[float, float]], kind: str, tip: str = "") -> None:
        steps = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._add('<path class="{}" d="M{}">{}</path>', kind, steps, _tip(tip))

    def text(self, x: float, y: float, text: str, kind: str = "") -> None:
        self._add('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>', kind, x, y, text)

    def x_axis(self, axis: Axis, y: float, label: str, form: Callable[[float], str] = plain, count: int = 8) -> None:
        """Along the bottom at ``y``, ticks and label below."""
        self.line(axis.begin, y, axis.end, y, "axis")
        for tick in axis.ticks(count):
            self.line(axis(tick), y, axis(tick), y + _TICK_LENGTH, "axis")
            self.text(axis(tick), y + 17, form(tick), "mid")
        self.text((axis.begin + axis.end) / 2, y + 35, label, "mid label")

    def y_axis(
        self, axis: Axis, x: float, right: float, label: str, form: Callable[[float], str] = plain, count: int = 5
    ) -> None:
        """Along the left at ``x``, with lines across to ``right`` and the label above."""
        for tick in axis.ticks(count):
            self.line(x, axis(tick), right, axis(tick), "rule")
            self.text(x - 7, axis(tick) + 4, form(tick), "end")
        self.text(0, 14, label, "label")

    def markup(self, title: str) -> Markup:
        """The picture with its description."""
        return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
            self.width, self.height, title, Markup("").join(self._parts)
        )

    def _add(self, form: str, *values: object) -> None:
        self._parts.append(Markup(form).format(*values))


def _tip(text: str) -> Markup:
    return Markup("<title>{}</title>").format(escape(text)) if text else Markup("")
