"""The table of all rows: what to run, and what it must reach."""

import re

from . import density, growth, hit_ratio, miss, probes, sliced
from .bench import Row
from .servers import GIB, KIB, MIB
from .sliced import CPU, CPU_GIB, RATE, SPEED
from .stats import Goal

BOTH = ("memcached", "redis")
PUT = {"get": 0.0, "put": 1.0}


def at_least(measure, memcached=None, redis=None):
    """Of speeds: Cistern's to the peer's."""
    return {measure: Goal(measure, True, _bounds(memcached, redis))}


def at_most(measure, memcached=None, redis=None, own=None):
    """Of costs: Cistern's to the peer's, or (own) a figure that is compared with no peer."""
    return {measure: Goal(measure, False, _bounds(memcached, redis) if own is None else {"": own})}


def _bounds(memcached, redis):
    given = {"memcached": memcached, "redis": redis}
    return {peer: bound for peer, bound in given.items() if bound is not None}


def size_text(size):
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def small_settings(size, depth, **more):
    return {"bytes": size, "keys": 200_000, "zipf": 0.99, "connections": 50, "depth": depth, **more}


CORE_SMALL_HITS = ((100, 1, "tcp"), (100, 16, "tcp"), (KIB, 16, "tcp"), (100, 1, "unix"))


def small_hit():
    for transport in ("tcp", "unix"):
        for size in (100, KIB):
            for depth in (1, 16):
                goals = ({**at_least(RATE, 1.0, 1.0), **at_most(CPU, 0.95, 0.95)} if depth == 1 else
                         at_least(RATE, 1.8, 2.0))
                yield Row("small-hit", f"{size_text(size)}, depth {depth}, {transport}", sliced.run,
                          small_settings(size, depth, transport=transport), goals,
                          core=(size, depth, transport) in CORE_SMALL_HITS)
    yield Row("small-hit", "100 B, depth 16, tcp, unpinned, two threads", sliced.run,
              small_settings(100, 16, pinned=False))


def small_put():
    for size in (100, KIB):
        for depth in (1, 16):
            goals = at_least(RATE, *([1.0, 1.0] if depth == 1 else [1.5, 1.5]))
            common = f"{size_text(size)}, depth {depth}"
            yield Row("small-put", f"{common}, into room", sliced.run,
                      small_settings(size, depth, mix=PUT), goals, core=size == 100)
            # Three times as many keys as there is room for, uniform: most puts evict.
            full = {"memory": 128 * MIB, "keys": 2_000_000 if size == 100 else 300_000, "zipf": 0.0}
            yield Row("small-put", f"{common}, full cache", sliced.run,
                      {**small_settings(size, depth, mix=PUT), **full}, goals, core=size == 100 and depth == 16)
            for gets in (90, 50):
                mix = {"get": gets / 100, "put": 1 - gets / 100}
                yield Row("small-put", f"{common}, {gets}/{100 - gets} with TTL", sliced.run,
                          small_settings(size, depth, mix=mix, ttl_ms=600_000), goals,
                          core=size == KIB and depth == 16)


def large_hit():
    goals = {MIB: {}, 64 * MIB: at_least(SPEED, 1.3, 4.0), 1000 * MIB: at_least(SPEED, 1.3, 4.0)}
    for transport in ("tcp", "unix"):
        for size in (MIB, 64 * MIB, 1000 * MIB):
            for connections in (1, 4):
                judged = {}
                if transport == "tcp" and size > MIB:
                    judged = {**goals[size], **at_most(CPU_GIB, memcached=0.7)}
                yield Row("large-hit", f"{size_text(size)}, {connections} conn, {transport}",
                          sliced.run, {"bytes": size, "keys": 1 if size > MIB else 16,
                                       "connections": connections, "transport": transport}, judged,
                          core=(size, connections) == (64 * MIB, 1) or
                          (transport == "tcp" and connections * size in (64 * MIB, 1000 * MIB)))
    for size in (MIB, 64 * MIB, 1000 * MIB):
        yield Row("large-hit", f"{size_text(size)}, 1 conn, tcp, client libraries", sliced.run,
                  {"bytes": size, "keys": 1, "client": "library"},
                  at_least(SPEED, 1.1, 1.1) if size > MIB else {}, core=size > MIB)


def large_put():
    """First fill: a gibibyte into servers that never held anything. Steady: into full ones."""
    for size in (MIB, 64 * MIB, 1000 * MIB):
        core = size > MIB
        for connections in (1, 4):
            more = {"bytes": size, "connections": connections, "mix": PUT, "sequential": True}
            yield Row("large-put", f"{size_text(size)}, {connections} conn, first fill",
                      sliced.run_first_fill,
                      {**more, "keys": max(1, 1000 * MIB // size)},
                      at_least(SPEED, memcached=1.0), core=size == 64 * MIB and connections == 1)
            memory = 3 * GIB if size == 1000 * MIB else GIB
            yield Row("large-put", f"{size_text(size)}, {connections} conn, steady", sliced.run,
                      {**more, "keys": memory * 3 // 2 // size, "memory": memory},
                      at_least(SPEED, memcached=0.9), core=core and connections == 1)


def isolation():
    goals = {**at_most(probes.RELATIVE, own=3), **at_most(probes.BESIDE, 0.01, 0.01)}
    yield Row("isolation", "4 stream 256 MiB, 4 read at 1 MiB/s", probes.run,
              {"beside": probes.streams, "beside_bytes": 4 * GIB, "rounds": 8, "seconds": 2}, goals)
    yield Row("isolation", "one 512 MiB put evicts small entries", probes.run,
              {"beside": probes.one_put, "memory": 1040 * MIB, "rounds": 4}, goals)


def density_rows():
    for size in (100, KIB, 100 * KIB, 8 * MIB):
        goals = at_least(density.DENSITY, memcached=0.98 if size == 8 * MIB else 1.0)
        if size == 100:
            goals = {**goals, **at_most(density.OVERHEAD, own=84)}
        yield Row("density", size_text(size), density.run,
                  {"phases": [({"bytes": size}, size + 60)]}, goals)
    # The mean of log-uniform sizes between a and b is (b - a) / ln(b / a).
    yield Row("density", "log-uniform, 100 B to 8 MiB", density.run,
              {"phases": [({"log_uniform": [100, 8 * MIB]}, 740_000)]},
              at_least(density.DENSITY, memcached=1.0))
    yield Row("density", "after a shift from 100 B to 8 KiB to 1 MiB", density.run,
              {"phases": [({"bytes": size}, size + 60) for size in (100, 8 * KIB, MIB)]},
              at_least(density.DENSITY, memcached=1.0))


def miss_rows():
    yield Row("miss", "64 MiB from Redis", miss.run, {"bytes": 64 * MIB, "keys": 8},
              {miss.SPEED: Goal(miss.SPEED, True, {"hiredis": 0.95})})
    yield Row("miss", "first byte, 2 to 16,384 chunks of 64 KiB", miss.run_first_byte,
              {"chunks": (2, 128, 16_384), "chunk_bytes": 64 * KIB},
              {**at_most(miss.TO_ROUND_TRIP, own=3), **at_most(miss.SPREAD, own=1.2)})


def growth_rows():
    two = ("cistern", "memcached")
    for count in (1, 4, 16, 64, 256, 1024):
        yield Row("growth", f"small hits, {count} connections", sliced.run,
                  {**small_settings(100, 1), "connections": count, "systems": two},
                  at_least(RATE, memcached=1.0), core=count in (64, 1024))
    for count in (1, 16, 64, 256, 1024):
        yield Row("growth", f"large hits of 1 MiB, {count} connections", sliced.run,
                  {"bytes": MIB, "keys": 16, "connections": count, "systems": two},
                  at_least(SPEED, memcached=1.0), core=count in (64, 1024))
    for kind, size in (("small hits", 100), ("large hits of 1 MiB", MIB)):
        yield Row("growth", f"{kind}, from 64 to 1024 connections", sliced.run_fall,
                  {"bytes": size, "rows": [f"growth/{kind}, {count} connections"
                                           for count in (64, 1024)]},
                  at_least(sliced.FALL, memcached=1.0))
    yield Row("growth", "256 readers of one 64 MiB key", sliced.run,
              {"bytes": 64 * MIB, "keys": 1, "connections": 256, "systems": two,
               "rounds": 10},  # a slice is 16 GiB at least
              at_least(SPEED, memcached=1.0))
    # Short slices: the client's ports of closed connections are free again after a second or more.
    yield Row("growth", "connect, get, close", sliced.run,
              {"bytes": 100, "keys": 1000, "connections": 8, "churn": True, "seconds": 0.3},
              at_least(RATE, memcached=1.0))
    for name, beside in (("probe beside connect, get, close", probes.churn),
                         ("probe while 200,000 keys expire", probes.expiry)):
        yield Row("growth", name, probes.run, {"beside": beside, "rounds": 10},
                  at_most(probes.RELATIVE, own=3))
    yield Row("growth", "put of 1 MiB to 8 GiB", growth.run_put,
              {"sizes": (MIB, 64 * MIB, GIB, 8 * GIB), "rounds": 2},
              # "The same" is within four chunks: a transfer costs a few of them, whatever its size.
              {**at_most(growth.PER_GIB, own=1.1), **at_most(growth.PEAK, own=4)})


def hit_ratio_rows():
    peers = {name: 1.0 for name, _, _ in hit_ratio.SERIES if name != "cistern"}
    for zipf in (0.8, 0.99):
        for scans in (0.0, 1 / 3):
            yield Row("hit-ratio", f"Zipf {zipf}" + (", a third of scans" if scans else ""),
                      hit_ratio.run, {"keys": 1_000_000, "zipf": zipf, "scan_share": scans,
                                      "operations": 2_000_000},
                      {hit_ratio.HITS: Goal(hit_ratio.HITS, True, peers)})


def all_rows():
    return [row for rows in (small_hit, large_hit, small_put, large_put, isolation, miss_rows,
                             density_rows, growth_rows, hit_ratio_rows) for row in rows()]


def chosen(only=None, every=False):
    """The rows whose name matches `only`; without it the core rows, or every one."""
    rows = all_rows()
    if only is not None:
        return [row for row in rows if re.search(only, row.name)]
    return [row for row in rows if every or row.core]
