"""Hit ratios at equal memory used: every miss is answered by a put of its key."""

from .servers import MIB, Fleet
from .slices import ratios_of, trouble
from .stats import NOT_JUDGED, median

HITS = "hit ratio"
# Name of the series, system, and what its server is started with.
SERIES = (("cistern", "cistern", {}), ("memcached", "memcached", {}),
          ("redis-lru", "redis", {"policy": "allkeys-lru"}),
          ("redis-lfu", "redis", {"policy": "allkeys-lfu"}))
TARGET_BYTES = 128 * MIB
TOLERANCE = 0.01
ATTEMPTS = 4
PARTS = 10


def run(bench, row):
    """Each series by itself. What a server is told to use and what it uses differ, so it is told
    something else until what it uses is the same for all."""
    settings = row.settings
    taken, raw, marks = {}, {}, []
    for name, system, more in SERIES:
        told = bench.memory_told.get(name, TARGET_BYTES)
        for _ in range(1 if bench.options.smoke else ATTEMPTS):
            answers, used = _measure(bench, settings, system, told, more)
            bench.memory_told[name] = told
            if abs(used - TARGET_BYTES) <= TOLERANCE * TARGET_BYTES:
                break
            told = max(8 * MIB, told - (used - TARGET_BYTES))
        if abs(used - TARGET_BYTES) > TOLERANCE * TARGET_BYTES:
            marks.append(f"{name} used {used / MIB:.1f} MiB")
        taken[name] = answers
        raw[name] = {"told_bytes": bench.memory_told[name], "used_bytes": used,
                     "parts": [{**answer, "histogram": []} for answer in answers]}
        bench.tick()
    bench.keep(row, "parts", raw)
    spoilt = trouble(taken)
    line = bench.line(row, HITS, "", {name: median([_share(a) for a in taken[name]]) for name in taken},
                      marks=spoilt + marks)
    line.ratios = ratios_of(taken, _share, bench.seed)
    goal = row.goals.get(HITS)
    judged = goal and not spoilt and not bench.options.smoke
    line.verdict = goal.verdict(line.ratios) if judged else NOT_JUDGED
    return [line]


def _share(answer):
    return answer["hits"] / answer["gets"] if answer["gets"] else 0.0


def _measure(bench, settings, system, memory, more):
    """The answers to the parts of the second half of the requests, and the memory used at the end.
    Seed and order are the same for all series, so parts of one number are pairs."""
    half = bench.keys(settings["operations"] // 2)
    config = {"value": {"bytes": 1024}, "keys": bench.keys(settings["keys"]), "zipf": settings["zipf"],
              "scan_share": settings["scan_share"], "connections": 4, "depth": 16, "put_on_miss": True,
              "operations": max(1, half // PARTS)}
    with Fleet() as fleet:
        server = bench.server(fleet, system, memory, **more)
        load = bench.load(fleet, server, config)
        answers = [load.run(120) for _ in range(2 * PARTS)]
        return answers[PARTS:], server.used_bytes()
