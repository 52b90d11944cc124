"""Bar charts as SVG text."""

import math
from xml.sax.saxutils import escape

COLOURS = {"cistern": "#1f6f8b", "memcached": "#8fb339", "redis": "#c8553d"}
OTHER_COLOUR = "#777777"
BAR, GAP, GROUP_GAP, RIGHT = 16, 3, 16, 90
ROOM = 460  # for the longest bar
LETTER = 6.3  # the mean width of one
FONT = 'font-family="sans-serif" font-size="12"'


def shown(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bar_chart(title, unit, groups, logarithmic=False):
    """`groups`: (label, {series: value or None}), from top to bottom. The width of a bar is its value,
    or the value's logarithm above the smallest power of ten below all of them."""
    series = list(dict.fromkeys(name for _, values in groups for name in values))
    present = [value for _, values in groups for value in values.values() if value]
    largest = max(present, default=1.0)
    floor = 10 ** math.floor(math.log10(min(present, default=1.0))) if logarithmic else 0.0
    left = 20 + math.ceil(LETTER * max((len(label) for label, _ in groups), default=0))
    wide = left + ROOM + RIGHT

    def width(value):
        if not logarithmic:
            return ROOM * value / largest
        return ROOM * math.log10(value / floor) / max(1e-9, math.log10(largest / floor))

    parts, y = [], 64
    parts.append(f'<text x="10" y="22" {FONT} font-weight="bold">{escape(title)}</text>')
    scale = f"{unit}, logarithmic scale" if logarithmic else unit
    parts.append(f'<text x="10" y="40" {FONT} fill="#555555">{escape(scale)}</text>')
    for number, name in enumerate(series):
        x = left + number * 110
        parts.append(f'<rect x="{x}" y="31" width="10" height="10" '
                     f'fill="{COLOURS.get(name, OTHER_COLOUR)}"/>')
        parts.append(f'<text x="{x + 15}" y="40" {FONT}>{escape(name)}</text>')
    for label, values in groups:
        middle = y + (len(values) * (BAR + GAP)) / 2 + 2
        parts.append(f'<text x="{left - 10}" y="{middle:.1f}" {FONT} text-anchor="end">'
                     f'{escape(label)}</text>')
        for name in series:
            if name not in values:
                continue
            value = values[name]
            long = width(value) if value else 0.0
            parts.append(f'<rect x="{left}" y="{y}" width="{long:.1f}" height="{BAR}" '
                         f'fill="{COLOURS.get(name, OTHER_COLOUR)}"/>')
            text = shown(value) if value else "none"
            parts.append(f'<text x="{left + long + 5:.1f}" y="{y + BAR - 4}" {FONT}>{text}</text>')
            y += BAR + GAP
        y += GROUP_GAP
    body = "\n".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{y}" '
            f'viewBox="0 0 {wide} {y}">\n<rect width="{wide}" height="{y}" fill="#ffffff"/>\n'
            f"{body}\n</svg>\n")


def plots(lines):
    """By name, the charts for which there are lines."""
    made = {}
    throughput = [(line.variant, line.values) for line in lines
                  if line.workload == "large-hit" and line.measure == "throughput"]
    if throughput:
        made["large-hit"] = bar_chart("Throughput of large hits", "GiB/s", throughput)
    latency = []
    for line in lines:
        if line.workload == "isolation" and line.measure.startswith("p99 ") and line.unit == "us":
            latency.append((f"{line.variant}: {line.measure.replace('p99 ', '')}", line.values))
    if latency:
        made["isolation"] = bar_chart("p99 of 100-byte GETs, alone and beside a load", "microseconds",
                                      latency, logarithmic=True)
    small = [(line.variant, line.values) for line in lines
             if line.workload == "small-hit" and line.measure == "requests per second"]
    if small:
        made["small-hit"] = bar_chart("Small hits", "requests per second", small)
    return made
