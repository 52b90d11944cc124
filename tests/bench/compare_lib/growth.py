"""What a put costs as the value grows, in Cistern alone."""

from .servers import GIB, MIB, Fleet
from .slices import CISTERN, MAX_STEAL, take_quiet
from .stats import Interval, NOT_JUDGED, median
from . import machine

PER_GIB = "time per GiB, largest to smallest"
PEAK = "peak memory beside L1, largest less smallest"


def _put(bench, size, total):
    """Seconds per GiB of one fresh daemon that is given `total` bytes in values of `size`, and the
    most memory that it used beside L1 while it was."""
    count = max(1, total // size)
    with Fleet() as fleet:
        server = bench.server(fleet, CISTERN, total + total // 16)
        load = bench.load(fleet, server, {
            "value": {"bytes": size}, "keys": count, "sequential": True, "operations": count,
            "mix": {"get": 0.0, "put": 1.0}})
        peak, times = 0, machine.cpu_times()
        load.begin(600)
        while not load.ready(0.01):
            peak = max(peak, server.used_bytes())
        answer = load.finish(600)
        # L1 counts a value whole from its first byte on, and only grows here: what there is beside
        # it shows once all of it is filled.
        peak = max(peak, server.used_bytes()) - server.stats()["l1"]["used_bytes"]
    answer["steal"] = machine.steal_share(times, machine.cpu_times())
    answer["peak_bytes"] = peak
    return answer


def run_put(bench, row):
    sizes = row.settings["sizes"]
    total = max(sizes)
    if bench.options.smoke:
        sizes, total = [MIB, 16 * MIB], 32 * MIB
    bench.needs(total + 2 * GIB)
    taken = {size: [] for size in sizes}
    for number in range(bench.rounds(row.settings["rounds"])):
        for size in sizes if number % 2 == 0 else reversed(sizes):
            taken[size].append(take_quiet(lambda: _put(bench, size, total), min(1, bench.repeats)))
            bench.tick()
    bench.keep(row, "puts", {size: [{**a, "histogram": []} for a in answers]
                             for size, answers in taken.items()})
    return _lines(bench, row, taken)


def _lines(bench, row, taken):
    spoilt, noisy, lines = [], [], []
    speeds, peaks = {}, {}
    for size, answers in taken.items():
        bad = sum(a["errors"] + a["refused"] for a in answers)
        if bad:
            spoilt.append(f"{size // MIB} MiB: {bad} puts failed: {answers[0].get('first_error')}")
        if any(a["steal"] > MAX_STEAL for a in answers):
            noisy.append(f"{size // MIB} MiB: steal above 2 %")
        speeds[size] = median([a["seconds"] * GIB / max(1, a["value_bytes"]) for a in answers])
        # The kernel's figure lags a little behind what L1 counts.
        peaks[size] = max(0, median([a["peak_bytes"] for a in answers]))
        lines.append(bench.line(row, f"time per GiB, {size // MIB} MiB", "s", {CISTERN: speeds[size]}))
        lines.append(bench.line(row, f"peak beside L1, {size // MIB} MiB", "MiB",
                                {CISTERN: peaks[size] / MIB}))
    slowest = max(speeds.values()) / min(speeds.values())
    apart = (max(peaks.values()) - min(peaks.values())) / MIB
    for measure, unit, figure in ((PER_GIB, "x", slowest), (PEAK, "MiB", apart)):
        line = bench.line(row, measure, unit, {CISTERN: figure}, marks=spoilt + noisy)
        judged = measure in row.goals and not spoilt and not bench.options.smoke
        line.verdict = (row.goals[measure].verdict({"": Interval(figure, figure, figure, 1)})
                        if judged else NOT_JUDGED)
        lines.append(line)
    return lines
