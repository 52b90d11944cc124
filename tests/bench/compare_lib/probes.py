"""Rows that watch small GETs at a fixed rate: alone, and while something else goes on."""

import time
from contextlib import contextmanager

from .bench import SYSTEMS
from .servers import GIB, MIB, Fleet
from .slices import CISTERN, histograms, merged_percentile, noise, take, take_quiet, trouble
from .stats import NOT_JUDGED, merged_ratio

BESIDE = "p99 beside it"
RELATIVE = "p99 to p99 alone"
PROBE_RATE = 2000
LEAD_SECONDS = 0.2  # what goes on has begun for so long when the probe begins, and ends so much later

SMALL_KEY_BYTES = 10  # a prefix of one letter and nine digits


@contextmanager
def streams(bench, server, load):
    """4 clients stream 256 MiB values, 4 read at 1 MiB/s."""
    values = {"value": {"bytes": bench.value_bytes(256 * MIB)}, "keys": 2, "key_prefix": "s",
              "connections": 4}
    fast, slow = load(values), load({**values, "read_bytes_per_second": MIB})
    fast.fill()

    def during(probe, seconds):
        whole = seconds + 2 * LEAD_SECONDS
        fast.begin(whole)
        slow.begin(whole)
        time.sleep(LEAD_SECONDS)
        answer = probe(seconds)
        answer["beside"] = [fast.finish(whole), slow.finish(whole)]
        return answer

    yield during


@contextmanager
def one_put(bench, server, load):
    """One PUT of 512 MiB that evicts small entries, of which memory is full, and is again before each
    slice."""
    # No system stores 200 bytes under their key in less than 250: so many are more than fit, and
    # more than the PUT evicts.
    big = bench.value_bytes(512 * MIB)
    many, evicted = server.memory_bytes // 250, big // 250
    small = load({"value": {"bytes": 200}, "keys": 1, "key_prefix": "e", "mix": {"get": 0.0, "put": 1.0}})
    put = load({"value": {"bytes": big}, "keys": 1, "key_prefix": "b",
                "mix": {"get": 0.0, "put": 1.0}, "operations": 1})
    stored = many
    small.try_fill(0, stored)

    def during(probe, seconds):
        nonlocal stored
        small.try_fill(stored, stored + evicted)
        stored += evicted
        put.begin(seconds)
        answer = probe(seconds)
        answer["beside"] = [put.finish(seconds)]
        return answer

    yield during


@contextmanager
def expiry(bench, server, load):
    """200,000 keys that expire within one second."""
    ttl_seconds = 2.0
    dying = load({"value": {"bytes": 100}, "keys": bench.keys(200_000), "key_prefix": "x", "depth": 32,
                  "connections": 4, "ttl_ms": int(ttl_seconds * 1000),
                  "mix": {"get": 0.0, "put": 1.0}})

    def during(probe, seconds):
        begin = time.monotonic()
        filled = dying.fill()
        time.sleep(max(0.0, begin + ttl_seconds - LEAD_SECONDS - time.monotonic()))
        answer = probe(seconds + LEAD_SECONDS)
        answer["beside"] = [filled]
        return answer

    yield during


@contextmanager
def churn(bench, server, load):
    """8 clients that connect, get 100 bytes and close, again and again."""
    coming = load({"value": {"bytes": 100}, "keys": 1000, "key_prefix": "c", "connections": 8,
                   "churn": True})
    coming.fill()

    def during(probe, seconds):
        whole = seconds + 2 * LEAD_SECONDS
        coming.begin(whole)
        time.sleep(LEAD_SECONDS)
        answer = probe(seconds)
        answer["beside"] = [coming.finish(whole)]
        return answer

    yield during


def run(bench, row):
    """In each round, for each system: one slice alone, and one beside what the row names."""
    settings = row.settings
    memory = settings.get("memory", 2 * GIB)
    bench.needs(3 * memory + settings.get("beside_bytes", 0))
    alone = {system: [] for system in SYSTEMS}
    loaded = {system: [] for system in SYSTEMS}
    with Fleet() as fleet:
        duos = {}
        for system in SYSTEMS:
            server = bench.server(fleet, system, memory)
            probe = bench.load(fleet, server, {
                "value": {"bytes": 100}, "keys": 1000, "key_prefix": "p", "connections": 4,
                "rate": PROBE_RATE}, probe=True)
            probe.fill()
            during = fleet.enter_context(settings["beside"](
                bench, server, lambda config, s=server: bench.load(fleet, s, config)))
            duos[system] = (bench.contender(server, probe), during)
        seconds = bench.seconds(settings.get("seconds", 1))
        for number in range(bench.rounds(1 if bench.options.smoke else settings.get("rounds"))):
            for system in SYSTEMS if number % 2 == 0 else reversed(SYSTEMS):
                contender, during = duos[system]
                alone[system].append(take_quiet(lambda: take(contender, seconds), bench.repeats))
                loaded[system].append(take_quiet(
                    lambda: during(lambda span: take(contender, span), seconds), bench.repeats))
            bench.tick()
    bench.keep(row, "alone", _raw(alone))
    bench.keep(row, "beside", _raw(loaded))
    return _lines(bench, row, alone, loaded)


def _raw(taken):
    return {name: [{**answer, "histogram": [],
                    "beside": [{**b, "histogram": []} for b in answer.get("beside", [])]}
                   for answer in answers] for name, answers in taken.items()}


def _beside_trouble(loaded):
    """What went wrong with that which the probe was to be beside. A system that refuses the bulk is
    not disturbed by it; that is said, and its figure compared all the same."""
    marks = []
    for system, answers in loaded.items():
        bulk = [part for answer in answers for part in answer["beside"]]
        failed = sum(part["errors"] + part["refused"] for part in bulk)
        if failed:
            first = next((part["first_error"] for part in bulk if part.get("first_error")), "")
            marks.append(f"{system}: {failed} bulk requests failed: {first}")
    return marks


def _lines(bench, row, alone, loaded):
    spoilt = trouble(alone) + trouble(loaded)
    marks = spoilt + noise(alone) + noise(loaded) + _beside_trouble(loaded)
    ratio = {system: merged_ratio(histograms(loaded[system]), histograms(alone[system]), 0.99,
                                  bench.seed) for system in SYSTEMS}
    to_peers = {peer: merged_ratio(histograms(loaded[CISTERN]), histograms(loaded[peer]), 0.99,
                                   bench.seed) for peer in SYSTEMS if peer != CISTERN}

    def merged(taken, share):
        return {system: merged_percentile(answers, share) for system, answers in taken.items()}

    lines = [bench.line(row, "p99 alone", "us", merged(alone, 0.99), marks=marks),
             bench.line(row, BESIDE, "us", merged(loaded, 0.99), marks=marks),
             bench.line(row, RELATIVE, "x", {s: ratio[s].median for s in SYSTEMS}, marks=marks),
             bench.line(row, "p99.9 alone", "us", merged(alone, 0.999), marks=marks),
             bench.line(row, "p99.9 beside it", "us", merged(loaded, 0.999), marks=marks)]
    lines[1].ratios = to_peers
    own = ratio[CISTERN]
    lines[2].marks = lines[2].marks + [f"Cistern's interval [{own.low:.2f}, {own.high:.2f}]"]
    for line, intervals in ((lines[1], to_peers), (lines[2], {"": own})):
        goal = row.goals.get(line.measure)
        judged = goal and not spoilt and not bench.options.smoke
        line.verdict = goal.verdict(intervals) if judged else NOT_JUDGED
    return lines
