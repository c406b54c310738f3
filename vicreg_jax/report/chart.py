"""Line charts as inline SVG, in the colors of the page."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np

_WIDTH, _HEIGHT = 360, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 12, 30
_MAX_POINTS = 200


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
    points = np.array([x, y], np.float64).T
    points = points[np.isfinite(points).all(axis=1) & ((points[:, 1] > 0) | (not logarithmic))]
    if not len(points):
        return '<p class="muted">No values were recorded.</p>'
    points = points[np.unique(np.linspace(0, len(points) - 1, _MAX_POINTS).round().astype(int))]
    x_ticks = _ticks(points[:, 0].min(), points[:, 0].max())
    shown = points[:, 1] if reference is None else np.append(points[:, 1], reference)
    y_ticks = _decades(shown) if logarithmic else _ticks(shown.min(), shown.max())
    x_span = (points[:, 0].min(), points[:, 0].max())
    y_span = (min(y_ticks[0], shown.min()), max(y_ticks[-1], shown.max()))

    def place_x(value: float) -> float:
        return _LEFT + _share(value, *x_span) * (_WIDTH - _LEFT - _RIGHT)

    def place_y(value: float) -> float:
        span = (value, *y_span)
        share = _share(*(math.log(v) for v in span)) if logarithmic else _share(*span)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def level(value: float, style: str) -> str:
        height = f"{place_y(value):.1f}"
        return f'<line class="{style}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height}" y2="{height}"/>'

    axes = "".join(
        f'{level(tick, "grid")}<text x="{_LEFT - 6}" y="{place_y(tick) + 4:.1f}" text-anchor="end">'
        f"{number(tick)}</text>"
        for tick in y_ticks
    )
    axes += "".join(
        f'<text x="{place_x(tick):.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{number(tick)}</text>'
        for tick in x_ticks
        if x_span[0] <= tick <= x_span[1]
    )
    if reference is not None:
        axes += level(reference, "reference")
    placed = [(place_x(a), place_y(b)) for a, b in points]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in placed)
    band = (_WIDTH - _LEFT - _RIGHT) / len(placed)
    # Each point has a band to hover over: the browser shows its title, and the style sheet its dot.
    hover = "".join(
        f'<g class="point"><rect x="{a - band / 2:.1f}" y="{_TOP}" width="{band:.1f}" '
        f'height="{_HEIGHT - _TOP - _BOTTOM}"/><circle cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>'
        f"<title>{escape(x_label)} {number(u)}: {number(v)}</title></g>"
        for (a, b), (u, v) in zip(placed, points, strict=True)
    )
    last = placed[-1]
    summary = (
        f"{name} by {x_label}: from {number(points[0, 1])} at {number(points[0, 0])} "
        f"to {number(points[-1, 1])} at {number(points[-1, 0])}"
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(summary)}">{axes}'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 2}" text-anchor="end">{escape(x_label)}</text>'
        f'<polyline class="line" points="{line}"/>{hover}'
        f'<circle class="end" cx="{last[0]:.1f}" cy="{last[1]:.1f}" r="3.5"/></svg>'
    )


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
