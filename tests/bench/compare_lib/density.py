"""Bytes of values per byte of memory used, with memory full."""

import time

from .bench import SYSTEMS
from .probes import SMALL_KEY_BYTES
from .servers import GIB, Fleet
from .slices import CISTERN
from .stats import Interval, NOT_JUDGED

DENSITY = "values per byte used"
OVERHEAD = "overhead beside key and value"
OVERFLOW = 1.1  # so many times the budget is written, with what a small entry costs at least
SETTLE_SECONDS = 2.0  # the kernel's counters are per core, the allocators give back a little later


def _phase(bench, fleet, server, number, value, mean_bytes, memory):
    """Writes more than fits, all of one kind, each key once."""
    keys = bench.keys(max(16, int(memory * OVERFLOW / mean_bytes)))
    config = {"value": value, "keys": keys, "key_prefix": "abcdefgh"[number], "sequential": True,
              "connections": 4, "depth": 16 if mean_bytes < 1 << 16 else 1, "operations": keys}
    load = bench.load(fleet, server, config)
    return load, load.try_fill()


def run(bench, row):
    """Each system by itself: fills it, phase after phase, reads everything back once, and compares
    the bytes that came with the memory that the server uses."""
    memory = row.settings.get("memory", GIB)
    bench.needs(2 * memory)
    values, overhead, marks, raw = {}, {}, [], {}
    for system in SYSTEMS:
        with Fleet() as fleet:
            server = bench.server(fleet, system, memory)
            empty = server.used_bytes()
            loads, fills = [], []
            for number, (value, mean_bytes) in enumerate(row.settings["phases"]):
                load, filled = _phase(bench, fleet, server, number, value, mean_bytes,
                                      server.memory_bytes)
                loads.append(load)
                fills.append({**filled, "histogram": []})
            time.sleep(0 if bench.options.smoke else SETTLE_SECONDS)
            used = server.used_bytes()
            found = [load.run(60) for load in loads]
        value_bytes = sum(part["value_bytes"] for part in found)
        hits = sum(part["hits"] for part in found)
        values[system] = value_bytes / used if used else 0.0
        overhead[system] = (used - value_bytes) / hits - SMALL_KEY_BYTES if hits else None
        raw[system] = {"used_bytes": used, "empty_bytes": empty, "value_bytes": value_bytes,
                       "items": hits, "fills": fills}
        refused = sum(part["refused"] + part["errors"] for part in fills)
        if refused:
            first = next((part["first_error"] for part in fills if part.get("first_error")), "")
            marks.append(f"{system}: {refused} of the puts failed: {first}")
        if not sum(part["misses"] for part in found) and not bench.options.smoke:
            marks.append(f"{system}: memory was not full")
        if any(part["errors"] for part in found):
            marks.append(f"{system}: errors while reading back")
        bench.tick()
    bench.keep(row, "density", raw)
    return _lines(bench, row, values, overhead, marks)


def _lines(bench, row, values, overhead, marks):
    judged = not bench.options.smoke and not any("not full" in mark for mark in marks)
    line = bench.line(row, DENSITY, "", values, marks=marks)
    line.ratios = {peer: Interval(*[values[CISTERN] / values[peer]] * 3, 1)
                   for peer in SYSTEMS if peer != CISTERN and values[peer]}
    if DENSITY in row.goals and judged:
        line.verdict = row.goals[DENSITY].verdict(line.ratios)
    lines = [line]
    if OVERHEAD in row.goals:
        own = overhead[CISTERN]
        beside = bench.line(row, OVERHEAD, "bytes", overhead, marks=marks)
        beside.verdict = (row.goals[OVERHEAD].verdict({"": Interval(own, own, own, 1)})
                          if judged and own is not None else NOT_JUDGED)
        lines.append(beside)
    return lines
