"""GETs that Cistern has to fetch from Redis, against clients that read the same chunks themselves.
Nobody is pinned."""

import os

from .servers import GIB, MIB, Fleet
from .slices import CISTERN, Contender, interleave, lines_of, ratios_of, trouble
from .slices import gib_per_second
from .stats import median

SPEED = "throughput"
FIRST_BYTE = "first byte"
TO_ROUND_TRIP = "first byte to one chunk's round trip"
FROM_L1 = "{} GETs were answered from L1"
SPREAD = "largest first byte to smallest"
BARE = (("hiredis", "hiredis-chunks"), ("receive loop", "redis-chunks"))


def _chunk_keys(redis, folder):
    """Writes the names of all chunks, value by value and in order, to a file; its path."""
    cursor, names = "0", []
    for _ in range(1_000_000):
        cursor, some = redis.ask("SCAN", cursor, "MATCH", "cistern:c:*", "COUNT", 10_000)
        names += some
        if cursor == "0":
            break
    # cistern:c:HASH:VERSION:INDEX
    names.sort(key=lambda name: (name.rsplit(":", 1)[0], int(name.rsplit(":", 1)[1])))
    path = os.path.join(folder, "chunks")
    with open(path, "w", encoding="ascii") as file:
        file.write("\n".join(names) + "\n")
    return path, len(names)


def _second_tier(bench, fleet):
    """A Redis that keeps everything."""
    return bench.server(fleet, "redis", 8 * GIB, pinned=False, scaled=False, policy="noeviction")


class _Pair:
    """cisternd and the Redis behind it, seen as one server: what both spend."""

    def __init__(self, *servers):
        self.servers = servers

    def cpu_seconds(self):
        return sum(server.cpu_seconds() for server in self.servers)


def run(bench, row):
    """More values than L1 holds, read in order, so that none is there when it is asked for."""
    settings = row.settings
    count, size = settings["keys"], bench.value_bytes(settings["bytes"])
    bench.needs(2 * count * size)
    with Fleet() as fleet:
        redis = _second_tier(bench, fleet)
        cistern = bench.server(fleet, CISTERN, max(32 * MIB, 2 * size), pinned=False, l2=redis)
        if bench.options.smoke:
            count = cistern.memory_bytes * 2 // size
        load = bench.load(fleet, cistern, {"value": {"bytes": size}, "keys": count,
                                           "sequential": True}, pinned=False)
        load.fill()
        path, _ = _chunk_keys(redis, bench.folder())
        contenders = [Contender(CISTERN, _Pair(cistern, redis), load)]
        for name, system in BARE:
            bare = bench.load(fleet, redis, {"chunk_keys_file": path, "chunk_reads": 4,
                                             "value": {"bytes": size}}, pinned=False, system=system)
            contenders.append(Contender(name, redis, bare))
        interleave(contenders, 1, min(0.3, bench.options.seconds))
        hits = cistern.stats()["l1"]["hits"]
        taken = bench.interleave(row, contenders)
        hits = cistern.stats()["l1"]["hits"] - hits
    lines = lines_of(row, taken, bench.seed, [(SPEED, "GiB/s", gib_per_second)], row.goals,
                     judged=not bench.options.smoke and not hits, is_client_measured=True)
    if hits:
        lines[0].marks = lines[0].marks + [FROM_L1.format(hits)]
    return lines


def _first_byte(answer):
    return answer["first_byte_us"]["p50"]


def run_first_byte(bench, row):
    """The time to the first byte of values of ever more chunks. Small chunks, so that the longest
    value fits."""
    settings = row.settings
    chunk = settings["chunk_bytes"]
    counts = [min(count, 64) if bench.options.smoke else count for count in settings["chunks"]]
    bench.needs(6 * max(counts) * chunk)
    seconds = bench.options.seconds
    with Fleet() as fleet:
        redis = _second_tier(bench, fleet)
        cistern = bench.server(fleet, CISTERN, 32 * MIB, pinned=False, l2=redis, chunk_bytes=chunk)
        contenders = []
        for number, count in enumerate(counts):
            # Three times what L1 holds, so that none of them is in it.
            keys = max(1, 96 * MIB // (count * chunk))
            load = bench.load(fleet, cistern, {
                "value": {"bytes": count * chunk}, "keys": keys, "sequential": True,
                "key_prefix": "abcdefgh"[number]}, pinned=False)
            load.fill()
            contenders.append(Contender(f"{settings['chunks'][number]} chunks", cistern, load))
        path, _ = _chunk_keys(redis, bench.folder())
        single = bench.load(fleet, redis, {"chunk_keys_file": path, "chunk_reads": 1,
                                           "value": {"bytes": chunk}}, pinned=False,
                            system="hiredis-chunks")
        contenders.append(Contender("one chunk", redis, single))
        interleave(contenders, 1, min(0.3, seconds))
        hits = cistern.stats()["l1"]["hits"]
        taken = bench.interleave(row, contenders)
        hits = cistern.stats()["l1"]["hits"] - hits
    return _first_byte_lines(bench, row, taken, [FROM_L1.format(hits)] if hits else [])


def _first_byte_lines(bench, row, taken, spoilt):
    spoilt = spoilt + trouble(taken)
    trip = taken.pop("one chunk")
    medians = {name: median([_first_byte(a) for a in answers]) for name, answers in taken.items()}
    longest = max(medians, key=medians.get)
    shortest = min(medians, key=medians.get)
    pairs = {CISTERN: taken[longest], "one chunk": trip}
    figure = {id(a): a["latency_us"]["p50"] for a in trip}
    to_trip = ratios_of(pairs, lambda a: figure.get(id(a), _first_byte(a)), bench.seed)["one chunk"]
    spread = ratios_of({CISTERN: taken[longest], "least": taken[shortest]}, _first_byte,
                       bench.seed)["least"]
    judged = not spoilt and not bench.options.smoke
    lines = [bench.line(row, f"{FIRST_BYTE}, {name}", "us", {CISTERN: value}, marks=spoilt)
             for name, value in medians.items()]
    lines.append(bench.line(row, "one chunk's round trip", "us",
                            {"hiredis": median(list(figure.values()))}, marks=spoilt))
    for measure, interval in ((TO_ROUND_TRIP, to_trip), (SPREAD, spread)):
        line = bench.line(row, measure, "x", {CISTERN: interval.median}, marks=spoilt + [
            f"{longest}; interval [{interval.low:.2f}, {interval.high:.2f}]"])
        if judged and measure in row.goals:
            line.verdict = row.goals[measure].verdict({"": interval})
        lines.append(line)
    return lines
