"""report.md and report.json: the table, and everything it was computed from."""

import json
import os

from .slices import CISTERN

HEAD = ["workload", "variant", "measure", "Cistern", "memcached", "Redis", "to memcached", "to Redis",
        "goal", "verdict", "marks"]
DASH = "-"


def figure(value):
    """Three significant digits, without an exponent."""
    if value is None:
        return DASH
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def ratio(interval):
    if interval is None:
        return DASH
    if interval.low == interval.high:
        return f"{interval.median:.2f}"
    return f"{interval.median:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def others(figures, show):
    """Redis' figure. Where a row measures something else in its place, or Redis under more than one
    policy: each with its name."""
    names = [name for name in figures if name not in (CISTERN, "memcached")]
    if names in ([], ["redis"]):
        return show(figures.get("redis"))
    return ", ".join(f"{name} {show(figures[name])}" for name in names)


def cells(line):
    return [line.workload, line.variant, f"{line.measure}, {line.unit}" if line.unit else line.measure,
            figure(line.values.get(CISTERN)), figure(line.values.get("memcached")), others(line.values, figure),
            ratio(line.ratios.get("memcached")), others(line.ratios, ratio), line.goal, line.verdict,
            "; ".join(line.marks) or DASH]


def table(lines):
    rows = [HEAD, ["---"] * len(HEAD)] + [cells(line) for line in lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows)


def summary(lines):
    counts = {}
    for line in lines:
        if line.goal != "none":
            counts[line.verdict] = counts.get(line.verdict, 0) + 1
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in sorted(counts)) or "no goals"


def markdown(machine, settings, lines, plots):
    head = "\n".join(f"- {name}: {value}" for name, value in {**machine, **settings}.items())
    pictures = "\n".join(f"![{name}]({name}.svg)" for name in plots)
    return (f"# Cistern beside memcached and Redis\n\n{head}\n\nGoals: {summary(lines)}.\n\n"
            f"Ratios are Cistern's figure to the peer's: median of the pairs of slices [95 % interval]."
            f"\n\n{table(lines)}\n" + (f"\n{pictures}\n" if pictures else ""))


def write(folder, machine, settings, lines, raw, plots):
    """Replaces the report in `folder` as a whole, so that an interrupted run leaves the rows that
    were done. `plots`: SVG text by name."""
    os.makedirs(folder, exist_ok=True)
    everything = {"machine": machine, "settings": settings, "lines": [l.as_json() for l in lines],
                  "raw": raw}
    for name, text in [("report.json", json.dumps(everything, indent=1) + "\n"),
                       ("report.md", markdown(machine, settings, lines, plots)),
                       *((f"{name}.svg", text) for name, text in plots.items())]:
        partial = os.path.join(folder, name + ".partial")
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(partial, os.path.join(folder, name))
