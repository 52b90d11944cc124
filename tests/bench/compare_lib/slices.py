"""One-second slices of several systems, taken in turns, and what is computed from them."""

from dataclasses import dataclass, field

from . import machine
from .stats import NOT_JUDGED, median, merge_histograms, paired_ratio, percentile

MAX_STEAL = 0.02
MAX_BUSY = 0.85
REPEATS = 4  # of one slice; then it is kept, and the row says so
GIB = 1 << 30
CISTERN = "cistern"
PEERS = ("memcached", "redis")


@dataclass
class Contender:
    """One system in a row: its server, its load, and the name of the series."""
    name: str
    server: object
    load: object


def take(contender, seconds):
    """Runs one slice: what cistern-load answered, with the server's CPU seconds and the steal."""
    cpu, times = contender.server.cpu_seconds(), machine.cpu_times()
    answer = contender.load.run(seconds)
    answer["server_cpu"] = contender.server.cpu_seconds() - cpu
    answer["steal"] = machine.steal_share(times, machine.cpu_times())
    answer["system"] = contender.name
    return answer


def take_quiet(measure, repeats=REPEATS):
    """A slice with little steal: `measure()` again while it has more, at most `repeats` times; then
    the one with the least."""
    tries = []
    for _ in range(1 + repeats):
        tries.append(measure())
        if tries[-1]["steal"] <= MAX_STEAL:
            break
    best = min(tries, key=lambda answer: answer["steal"])
    best["repeated"] = len(tries) - 1
    return best


def interleave(contenders, count, seconds, progress=lambda: None, measure=take, repeats=REPEATS):
    """`count` rounds of one slice each; {name: [slices]}. The order turns around with each round, so
    that of any pair each goes first as often as the other."""
    taken = {contender.name: [] for contender in contenders}
    for number in range(count):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            taken[contender.name].append(take_quiet(lambda: measure(contender, seconds), repeats))
        progress()
    return taken


def rate(answer):
    return answer["operations"] / answer["seconds"]


def gib_per_second(answer):
    return answer["value_bytes"] / answer["seconds"] / GIB


def cpu_per_operation(answer):
    """Microseconds."""
    return answer["server_cpu"] * 1e6 / answer["operations"] if answer["operations"] else 0.0


def cpu_per_gib(answer):
    return answer["server_cpu"] * GIB / answer["value_bytes"] if answer["value_bytes"] else 0.0


def p99(answer):
    return answer["latency_us"]["p99"]


@dataclass
class Line:
    """A line of the report: one measure of one row."""
    workload: str
    variant: str
    measure: str
    unit: str
    values: dict                                  # by system: the median, or None for none
    ratios: dict = field(default_factory=dict)    # by peer: Interval of Cistern's to the peer's
    goal: str = "none"
    verdict: str = NOT_JUDGED
    marks: list = field(default_factory=list)

    def as_json(self):
        out = dict(self.__dict__)
        out["ratios"] = {peer: ratio.as_json() for peer, ratio in self.ratios.items()}
        return out


def ratios_of(taken, figure, seed, inverse=False):
    """Cistern's figure to each peer's (inverse: the peer's to Cistern's), for the peers with which
    that can be said of every slice."""
    ratios = {}
    for peer in taken:
        if peer == CISTERN or CISTERN not in taken:
            continue
        above = [figure(answer) for answer in taken[CISTERN]]
        below = [figure(answer) for answer in taken[peer]]
        if inverse:
            above, below = below, above
        if all(value > 0 for value in below):
            ratios[peer] = paired_ratio(above, below, seed)
    return ratios


def trouble(taken):
    """Marks for what went wrong while measuring; a row with any of them proves nothing."""
    marks = []
    for name, answers in taken.items():
        for kind in ("errors", "refused"):
            count = sum(answer[kind] for answer in answers)
            if count:
                first = next((a["first_error"] for a in answers if a.get("first_error")), "")
                marks.append(f"{name}: {count} {kind} {first}".strip())
        if not sum(answer["operations"] for answer in answers):
            marks.append(f"{name}: nothing was done")
    return marks


def noise(taken):
    """Marks that a reader should know of and that spoil nothing."""
    marks = []
    repeated = sum(answer.get("repeated", 0) for answers in taken.values() for answer in answers)
    if repeated:
        marks.append(f"{repeated} slices repeated for steal")
    loud = sum(answer["steal"] > MAX_STEAL for answers in taken.values() for answer in answers)
    if loud:
        marks.append(f"{loud} slices with steal above 2 %")
    return marks


def generator_bound(taken):
    """The systems under which the generator was the slower part."""
    return [name for name, answers in taken.items()
            if median([answer["busy"] for answer in answers]) > MAX_BUSY]


def lines_of(row, taken, seed, measures, goals, judged=True, is_client_measured=False):
    """A line for each of `measures`: (name, unit, figure). Where the generator was the limit, a goal
    for speed is judged by what the server spent instead: the peer's CPU over Cistern's. Unless the
    client belongs to what is compared: then its limits count."""
    spoilt, noisy, bound = trouble(taken), noise(taken), generator_bound(taken)
    lines = []
    for name, unit, figure in measures:
        values = {system: median([figure(a) for a in answers]) for system, answers in taken.items()}
        line = Line(row.workload, row.variant, name, unit, values,
                    ratios_of(taken, figure, seed), marks=spoilt + noisy)
        goal = goals.get(name)
        by_cpu = (bound and goal and goal.at_least and figure in (rate, gib_per_second) and
                  not is_client_measured)
        if bound:
            who = "client-bound: " if is_client_measured else "generator-bound: "
            line.marks = line.marks + [who + ", ".join(bound)]
        if goal:
            line.goal = goal.text()
            shown = line.ratios
            if by_cpu:
                spent = cpu_per_gib if figure is gib_per_second else cpu_per_operation
                shown = ratios_of(taken, spent, seed, inverse=True)
                line.marks = line.marks + ["judged by server CPU: " + ", ".join(
                    f"{peer} {r.median:.2f} [{r.low:.2f}, {r.high:.2f}]" for peer, r in shown.items())]
            if judged and not spoilt:
                line.verdict = goal.verdict(shown)
        lines.append(line)
    return lines


def histograms(answers):
    return [answer["histogram"] for answer in answers]


def merged_percentile(answers, share):
    return percentile(merge_histograms(histograms(answers)), share)


def without_histograms(taken):
    """For the raw figures of a report, which would otherwise be mostly zeros and ones."""
    return {name: [{key: value for key, value in answer.items() if key != "histogram"}
                   for answer in answers] for name, answers in taken.items()}

