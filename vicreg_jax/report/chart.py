"""Line charts as inline SVG, in the colors of the page."""

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

_WIDTH, _HEIGHT = 360, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 12, 30
_MAX_POINTS = 200
COLORS = 8  # of lines in one chart; a ninth has the first one again
_NOTHING = '<p class="muted">No values were recorded.</p>'


def line_chart(
    x: Sequence[float],
    y: Sequence[float],
    *,
    name: str,
    x_label: str,
    reference: float | None = None,
    logarithmic: bool = False,
) -> str:
    """Draw one line; hovering over it shows the value of a point.

    Args:
        x: coordinates of the points. Points that are not finite are dropped.
        y: values of the points; with `logarithmic`, those that are not above 0 are dropped too.
        name: name of `y`, for the hover text and for screen readers.
        x_label: label of the x axis.
        reference: value of a dashed horizontal line.
        logarithmic: whether the y axis is logarithmic.

    Returns:
        An `<svg>` element, or a sentence if no point is left.
    """
    points = _points(x, y, logarithmic)
    if not len(points):
        return _NOTHING
    frame = _Frame(points, logarithmic, reference)
    placed = frame.place(points)
    band = (_WIDTH - _LEFT - _RIGHT) / len(placed)
    # Each point has a band to hover over: the browser shows its title, and the style sheet its dot.
    hover = "".join(
        f'<g class="point"><rect x="{a - band / 2:.1f}" y="{_TOP}" width="{band:.1f}" '
        f'height="{_HEIGHT - _TOP - _BOTTOM}"/><circle cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>'
        f"<title>{escape(x_label)} {number(u)}: {number(v)}</title></g>"
        for (a, b), (u, v) in zip(placed, points, strict=True)
    )
    summary = (
        f"{name} by {x_label}: from {number(points[0, 1])} at {number(points[0, 0])} "
        f"to {number(points[-1, 1])} at {number(points[-1, 0])}"
    )
    return frame.svg(f"{_polyline(placed)}{hover}{_end(placed)}", summary, x_label)


def overlay_chart(
    lines: Mapping[int, tuple[Sequence[float], Sequence[float]]], names: Sequence[str], x_label: str
) -> str:
    """Draw several lines over one another; a line of one point is a dot. Hovering over a line shows its name.

    Args:
        lines: coordinates and values of the points, by the number of the line, which decides its color; points that
            are not finite are dropped.
        names: of the lines, by number.
        x_label: label of the x axis.

    Returns:
        An `<svg>` element, or a sentence if no point is left.
    """
    points = {line: _points(x, y) for line, (x, y) in lines.items()}
    points = {line: found for line, found in points.items() if len(found)}
    if not points:
        return _NOTHING
    frame = _Frame(np.concatenate(list(points.values())), is_scatter=all(len(found) == 1 for found in points.values()))
    drawn = "".join(
        f'<g class="run{line % COLORS}">{_polyline(placed)}{_end(placed)}'
        f"<title>{escape(names[line])}: {number(points[line][-1, 1])}</title></g>"
        for line, placed in ((line, frame.place(found)) for line, found in points.items())
    )
    said = ", ".join(f"{names[line]} to {number(found[-1, 1])}" for line, found in points.items())
    return frame.svg(drawn, f"by {x_label}: {said}", x_label)


class _Frame:
    """Axes around some points, and where points are in them."""

    def __init__(
        self,
        points: np.ndarray,
        logarithmic: bool = False,
        reference: float | None = None,
        *,
        is_scatter: bool = False,
    ):
        x, y = points.T
        shown = y if reference is None else np.append(y, reference)
        self._logarithmic = logarithmic
        x_ticks = _ticks(x.min(), x.max())
        y_ticks = _decades(shown) if logarithmic else _ticks(shown.min(), shown.max())
        # Lines fill the chart from side to side; dots keep away from the sides.
        self._x_span = (x_ticks[0], x_ticks[-1]) if is_scatter else (x.min(), x.max())
        self._y_span = (min(y_ticks[0], shown.min()), max(y_ticks[-1], shown.max()))
        self._axes = "".join(
            f'{self._level(tick, "grid")}<text x="{_LEFT - 6}" y="{self._y(tick) + 4:.1f}" text-anchor="end">'
            f"{number(tick)}</text>"
            for tick in y_ticks
        )
        self._axes += "".join(
            f'<text x="{self._x(tick):.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{number(tick)}</text>'
            for tick in x_ticks
            if self._x_span[0] <= tick <= self._x_span[1]
        )
        if reference is not None:
            self._axes += self._level(reference, "reference")

    def place(self, points: np.ndarray) -> list[tuple[float, float]]:
        return [(self._x(a), self._y(b)) for a, b in points]

    def svg(self, content: str, summary: str, x_label: str) -> str:
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(summary)}">{self._axes}'
            f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 2}" text-anchor="end">{escape(x_label)}</text>{content}</svg>'
        )

    def _x(self, value: float) -> float:
        return _LEFT + _share(value, *self._x_span) * (_WIDTH - _LEFT - _RIGHT)

    def _y(self, value: float) -> float:
        span = (value, *self._y_span)
        share = _share(*(math.log(v) for v in span)) if self._logarithmic else _share(*span)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def _level(self, value: float, style: str) -> str:
        height = f"{self._y(value):.1f}"
        return f'<line class="{style}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height}" y2="{height}"/>'


def _points(x: Sequence[float], y: Sequence[float], logarithmic: bool = False) -> np.ndarray:
    """`[points, 2]`: those that can be drawn, at most `_MAX_POINTS` of them."""
    points = np.array([x, y], np.float64).T
    points = points[np.isfinite(points).all(axis=1) & ((points[:, 1] > 0) | (not logarithmic))]
    return points[np.unique(np.linspace(0, max(len(points) - 1, 0), _MAX_POINTS).round().astype(int))[: len(points)]]


def _polyline(placed: Sequence[tuple[float, float]]) -> str:
    return f'<polyline class="line" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in placed)}"/>'


def _end(placed: Sequence[tuple[float, float]]) -> str:
    """The dot of the last point."""
    a, b = placed[-1]
    return f'<circle class="end" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>'


def number(value: float) -> str:
    """Format a number with four significant digits and no trailing zeros.

    Example:
        >>> [number(v) for v in (0.123456, 12.0, 15300, 1e-05)]
        ['0.1235', '12', '15300', '1e-05']
    """
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.4g}"


def _share(value: float, low: float, high: float) -> float:
    return 0.5 if high == low else (value - low) / (high - low)


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers from below `low` to above `high`."""
    if high == low:
        return [low]
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(factor * power - rough))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _decades(values: np.ndarray) -> list[float]:
    """About five powers of ten at most, around the values."""
    low, high = math.floor(math.log10(values.min())), math.ceil(math.log10(values.max()))
    high = max(high, low + 1)
    return [10.0**power for power in range(low, high + 1, math.ceil((high - low) / 5))]
