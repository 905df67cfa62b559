"""A bar chart as SVG: a few groups of bars on one logarithmic scale, for the documentation."""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, LABELS, BAR, GAP, TOP = 720, 210, 18, 14, 56
COLOURS = ("#2f6fab", "#d9822b", "#5a9a4a")
PER_DECADE_LEAST = 1.0


def chart(title: str, series: Sequence[str], rows: Mapping[str, Sequence[float]]) -> str:
    """A row of bars for each label, one bar for each of ``series``; values are positive."""
    values = [value for row in rows.values() for value in row]
    low = math.floor(math.log10(min(values)))
    high = max(math.ceil(math.log10(max(values))), low + PER_DECADE_LEAST)
    scale = (WIDTH - LABELS - 70) / (high - low)
    parts = [_text(8, 20, title, 15, "bold")]
    for number, name in enumerate(series):
        x = LABELS + number * 150
        parts.append(_bar(x, 32, 12, 12, COLOURS[number]) + _text(x + 18, 43, name, 12))
    y = TOP
    for label, row in rows.items():
        parts.append(_text(8, y + BAR * len(row) / 2 + 4, label, 13))
        for number, value in enumerate(row):
            length = max(1.0, (math.log10(value) - low) * scale)
            parts.append(_bar(LABELS, y, length, BAR - 2, COLOURS[number]))
            parts.append(_text(LABELS + length + 6, y + BAR - 5, _short(value), 12))
            y += BAR
        y += GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", *parts, "</svg>"]) + "\n"


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, size: int, weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-family="sans-serif" font-size="{size}" '
        f'font-weight="{weight}" fill="#444">{escape(text)}</text>'
    )


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"
