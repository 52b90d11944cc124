"""Rows that are one load per system, taken in slices: hits, puts, mixes, and growth."""

from .bench import SYSTEMS, Skipped
from .servers import GIB, MIB, Fleet
from .slices import (CISTERN, cpu_per_gib, cpu_per_operation, gib_per_second, interleave, lines_of,
                     p99, rate, take, trouble)
from .stats import median, paired_ratio

RATE = "requests per second"
CPU = "server CPU per request"
P99 = "p99"
SPEED = "throughput"
CPU_GIB = "server CPU per GiB"

SMALL_MEASURES = [(RATE, "1/s", rate), (CPU, "us", cpu_per_operation), (P99, "us", p99)]
LARGE_MEASURES = [(SPEED, "GiB/s", gib_per_second), (CPU_GIB, "s", cpu_per_gib)]


def load_config(bench, settings):
    config = {"value": {"bytes": bench.value_bytes(settings["bytes"])},
              "keys": bench.keys(settings["keys"]), "connections": settings.get("connections", 1),
              "depth": settings.get("depth", 1), "mix": settings.get("mix", {"get": 1.0, "put": 0.0})}
    for name in ("zipf", "sequential", "ttl_ms", "client", "churn"):
        if name in settings:
            config[name] = settings[name]
    return config


def memory_of(settings):
    return settings.get("memory", 4 * GIB)


def working_set(settings, systems):
    """Bytes that the servers hold at most, beside their own: what is stored, or all they may hold,
    and in Redis every reply under way, whole."""
    stored = min(memory_of(settings), settings["keys"] * (settings["bytes"] + 150))
    replies = settings.get("connections", 1) * settings["bytes"] if "redis" in systems else 0
    return stored * len(systems) + replies


def measures_of(settings):
    return LARGE_MEASURES if settings["bytes"] >= MIB else SMALL_MEASURES


def run(bench, row):
    """All systems up and filled, then their slices in turns."""
    settings = row.settings
    systems = settings.get("systems", SYSTEMS)
    transport = settings.get("transport", "tcp")
    pinned = settings.get("pinned", True)
    bench.needs(working_set(settings, systems))
    with Fleet() as fleet:
        contenders = []
        for system in systems:
            more = {"threads": 2} if not pinned else {}
            server = bench.server(fleet, system, memory_of(settings), transport, pinned, **more)
            load = bench.load(fleet, server, load_config(bench, settings), transport, pinned)
            if settings.get("fill", True):
                filled = load.try_fill()
                if system == systems[0] or filled["refused"] or filled["errors"]:
                    bench.keep(row, f"fill {system}", {**filled, "histogram": []})
            contenders.append(bench.contender(server, load))
        interleave(contenders, 1, min(0.3, bench.options.seconds))  # warms up; not counted
        taken = bench.interleave(row, contenders, bench.rounds(settings.get("rounds")),
                                 seconds=bench.seconds(settings.get("seconds", 1)))
    return lines_of(row, taken, bench.seed, measures_of(settings), row.goals,
                    judged=pinned and not bench.options.smoke,
                    is_client_measured=settings.get("client") == "library")


def run_first_fill(bench, row):
    """Each slice is a server of its own that was never written to, filled once."""
    settings = row.settings
    config = load_config(bench, settings)
    bench.needs(working_set(settings, ("redis",)))

    def fill(contender, _seconds):
        with Fleet() as fleet:
            server = bench.server(fleet, contender.name, memory_of(settings))
            load = bench.load(fleet, server, config)
            filled = take(type(contender)(contender.name, server, _Filler(load)), 0)
        return filled

    contenders = [bench.contender(None, None, system) for system in SYSTEMS]
    taken = bench.interleave(row, contenders, measure=fill)
    return lines_of(row, taken, bench.seed, measures_of(settings), row.goals,
                    judged=not bench.options.smoke)


class _Filler:
    """A load whose run is one fill."""

    def __init__(self, load):
        self.load = load

    def run(self, _seconds):
        return self.load.try_fill()


FALL = "relative fall"


def run_fall(bench, row):
    """From two rows that were measured before: what is left of the speed at more connections, of
    Cistern's to memcached's."""
    few, many = (bench.raw.get(name, {}).get("slices") for name in row.settings["rows"])
    if not few or not many:
        raise Skipped(f"needs the rows {' and '.join(row.settings['rows'])} in the same run")
    figure = gib_per_second if row.settings["bytes"] >= MIB else rate

    def left(system):
        return [figure(b) / figure(a) for a, b in zip(few[system], many[system])]

    ours, theirs = left(CISTERN), left("memcached")
    line = bench.line(row, FALL, "of the speed is left",
                      {CISTERN: median(ours), "memcached": median(theirs)},
                      marks=trouble(few) + trouble(many))
    line.ratios = {"memcached": paired_ratio(ours, theirs, bench.seed)}
    if not line.marks and not bench.options.smoke:
        line.verdict = row.goals[FALL].verdict(line.ratios)
    return [line]
