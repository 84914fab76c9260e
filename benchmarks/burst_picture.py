"""Draw a burst: messages, workers and the wait of the oldest task, one below the other over the same seconds.

The picture brings its background along and follows the reader's light or dark mode.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import vl_convert

WIDTH, HEIGHT = 660, 110
# Ink and grid have these values, which the style sheet replaces.
INK, GRID = "#010203", "#030201"
BLUE, GREEN, CYAN, ORANGE, RED = "#388bfd", "#2da44e", "#1b9aaa", "#d4761a", "#e5534b"
STYLE = f"""<style>
svg {{ background: #fff; }}
[fill="{INK}"] {{ fill: #1f2328; }}
[stroke="{GRID}"] {{ stroke: #d8dee4; }}
@media (prefers-color-scheme: dark) {{
svg {{ background: #0d1117; }}
[fill="{INK}"] {{ fill: #e6edf3; }}
[stroke="{GRID}"] {{ stroke: #30363d; }}
}}
</style>"""
SECONDS = {"field": "second", "type": "quantitative", "scale": {"domainMin": 0, "nice": False}}


def draw(rows: Sequence[Mapping[str, Any]], target_wait: float) -> str:
    """Return the picture as SVG.

    Args:
        rows: One a second: `second`, `messages`, `ready`, `starting`, `draining`, `wait`, `estimate`.
        target_wait: The target wait, in seconds.
    """
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": list(rows)},
        "config": config(),
        "spacing": 12,
        "vconcat": [
            panel("messages in the queue", [area("messages", BLUE)], time_axis=False),
            panel("workers", [workers()], time_axis=False),
            panel("wait of the oldest task, s", wait(target_wait), time_axis=True),
        ],
        "resolve": {"scale": {"color": "independent"}},
    }
    svg: str = vl_convert.vegalite_to_svg(spec)
    head, end, rest = svg.partition(">")
    # A tenth of a pixel is fine enough.
    rest = re.sub(r"(\d\.\d)\d+", r"\1", rest)
    return f"{head}{end}{STYLE}{rest}\n"


def panel(title: str, layers: Sequence[Mapping[str, Any]], *, time_axis: bool) -> dict[str, Any]:
    """Return a panel; only the last one shows the seconds."""
    axis = {"tickCount": 12, "labels": time_axis, "title": "seconds" if time_axis else None}
    shared = {"x": SECONDS | {"axis": axis}}
    return {"title": title, "width": WIDTH, "height": HEIGHT, "encoding": shared, "layer": list(layers)}


def area(name: str, colour: str) -> dict[str, Any]:
    """Return a filled curve of one figure."""
    mark = {"type": "area", "interpolate": "step", "color": colour, "opacity": 0.85}
    return {"mark": mark, "encoding": {"y": value(name)}}


def value(name: str) -> dict[str, Any]:
    """Return the vertical axis of a figure."""
    return {"field": name, "type": "quantitative", "title": None, "axis": {"tickCount": 5, "format": "d"}}


def workers() -> dict[str, Any]:
    """Return the workers, on top of each other by what they do."""
    states = ["ready", "starting", "draining"]
    colour = {
        "field": "key",
        "type": "nominal",
        "title": None,
        "scale": {"domain": states, "range": [GREEN, CYAN, ORANGE]},
    }
    return {
        "transform": [
            {"fold": states},
            {"calculate": "indexof(['ready', 'starting', 'draining'], datum.key)", "as": "order"},
        ],
        "mark": {"type": "area", "interpolate": "step", "opacity": 0.85},
        "encoding": {"y": value("value"), "color": colour, "order": {"field": "order"}},
    }


def wait(target_wait: float) -> list[dict[str, Any]]:
    """Return the wait as it was and as the supervisor estimated it, and the target wait."""
    names = ["as it was", "as estimated", "target"]
    colour = {"type": "nominal", "title": None, "scale": {"domain": names, "range": [BLUE, ORANGE, RED]}}
    return [
        {
            "mark": {"type": "line", "strokeWidth": 1.8},
            "encoding": {"y": value("wait"), "color": colour | {"datum": names[0]}},
        },
        {
            "mark": {"type": "line", "strokeWidth": 1.8, "strokeDash": [2, 2]},
            "encoding": {"y": value("estimate"), "color": colour | {"datum": names[1]}},
        },
        {
            "data": {"values": [{}]},
            "mark": {"type": "rule", "strokeDash": [5, 4]},
            "encoding": {"x": None, "y": {"datum": target_wait}, "color": colour | {"datum": names[2]}},
        },
    ]


def config() -> dict[str, Any]:
    """Return colours and fonts for all panels."""
    text = {"labelColor": INK, "titleColor": INK, "labelFontSize": 11, "titleFontSize": 11}
    lines = {"gridColor": GRID, "domainColor": GRID, "tickColor": GRID}
    return {
        "aria": False,
        "background": None,
        "font": "system-ui, sans-serif",
        "padding": 12,
        "view": {"stroke": None},
        "axis": text | lines | {"titleFontWeight": "normal"},
        "legend": {"labelColor": INK, "labelFontSize": 11, "orient": "top-right", "symbolOpacity": 1},
        "title": {"color": INK, "anchor": "start", "frame": "group", "fontSize": 12, "offset": 8},
    }
