"""A learning curve as SVG: the training loss as a line, the judged ones as dots."""

from __future__ import annotations

from collections.abc import Sequence

_WIDTH, _HEIGHT, _MARGIN, _TICKS = 640, 360, 48, 5
Point = tuple[float, float]


def picture(learnt: Sequence[Point], judged: Sequence[Point]) -> str:
    points = [*learnt, *judged] or [(0.0, 0.0)]
    most_x = max(x for x, _ in points) or 1
    low, high = min(y for _, y in points), max(y for _, y in points)
    high = high if high > low else low + 1

    def place(point: Point) -> tuple[float, float]:
        x = _MARGIN + (_WIDTH - 2 * _MARGIN) * point[0] / most_x
        y = _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * (point[1] - low) / (high - low)
        return round(x, 1), round(y, 1)

    line = " ".join(f"{x},{y}" for x, y in map(place, learnt))
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="3" fill="#c33"/>' for x, y in map(place, judged))
    ticks = []
    for number in range(_TICKS):
        share = number / (_TICKS - 1)
        x, y = place((most_x * share, low + (high - low) * share))
        ticks.append(f'<text x="{x}" y="{_HEIGHT - _MARGIN + 18}">{most_x * share:.0f}</text>')
        ticks.append(f'<text x="4" y="{y + 4}">{low + (high - low) * share:.2f}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-size="11"'
        ' font-family="sans-serif"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{_WIDTH / 2}" y="16" text-anchor="middle">loss by step (dots: text kept aside)</text>'
        f'<polyline points="{line}" fill="none" stroke="#258"/>{dots}{"".join(ticks)}</svg>\n'
    )
