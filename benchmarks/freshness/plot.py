"""A plot of detection delays, as SVG without any library; readable on light and dark paper."""

import math
from bisect import bisect_right
from collections.abc import Sequence

from simulate import Result

WIDTH, HEIGHT = 760, 496
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 40, 124
SHORTEST, LONGEST = 1 / 120, 100.0
TICKS = {1 / 60: "1 min", 1 / 6: "10 min", 1.0: "1 h", 6.0: "6 h", 24.0: "1 day", 72.0: "3 days"}
COLOURS = ("#8a8f98", "#c2883a", "#7d6bd6", "#2f7fd6", "#2a9d8f", "#3fa34d", "#94b43b", "#d64550")

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #333 } .key { font-size: 12px }
  .grid { stroke: #8884; stroke-width: 1 }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round } .bound { stroke-dasharray: 5 4 }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } }
"""


def delays(results: Sequence[Result]) -> str:
    """Which share of changes was found within which time, one line a policy."""
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    parts.append("<title>Share of changes found within a time, by policy</title>")
    parts.append(f"<style>{STYLE}</style>")
    parts.append(f'<text x="{LEFT}" y="22">share of changes that the mirror has, by time since the change</text>')
    for hours, label in TICKS.items():
        parts.append(_grid(_x(hours), _y(0), _x(hours), _y(1)))
        parts.append(f'<text x="{_x(hours):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{label}</text>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_grid(LEFT, _y(share), WIDTH - RIGHT, _y(share)))
        parts.append(f'<text x="{LEFT - 8}" y="{_y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    for line, (result, colour) in enumerate(zip(results, COLOURS, strict=True)):
        kind = "line bound" if result.policy.knows == "rates" else "line"
        parts.append(f'<polyline class="{kind}" stroke="{colour}" points="{_points(result)}"/>')
        x, y = LEFT + 350 * (line // 4), HEIGHT - BOTTOM + 48 + 19 * (line % 4)
        parts.append(f'<line class="{kind}" stroke="{colour}" x1="{x}" x2="{x + 24}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text class="key" x="{x + 30}" y="{y + 4}">{result.policy.name}: mean {result.mean:.1f} h</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _points(result: Result) -> str:
    ordered, count = sorted(24 * delay for delay in result.delays), len(result.delays)
    at = [SHORTEST * (LONGEST / SHORTEST) ** (part / 160) for part in range(161)]
    return " ".join(f"{_x(hours):.1f},{_y(bisect_right(ordered, hours) / count):.1f}" for hours in at)


def _x(hours: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * math.log(hours / SHORTEST) / math.log(LONGEST / SHORTEST)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def _grid(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
