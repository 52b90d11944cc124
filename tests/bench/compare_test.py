#!/usr/bin/env python3
"""What the comparison computes: statistics, goals, lines, the report and its plots."""

import json
import os
import sys
import tempfile
import unittest
import xml.dom.minidom

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from compare_lib import report, slices, stats, svg, workloads  # noqa: E402
from compare_lib.bench import Row  # noqa: E402
from compare_lib.stats import MET, MISSED, NOT_JUDGED, Goal, Interval  # noqa: E402


class Medians(unittest.TestCase):
    def test_middle(self):
        self.assertEqual(stats.median([3, 1, 2]), 2)
        self.assertEqual(stats.median([4, 1, 3, 2]), 2.5)
        self.assertEqual(stats.median([7]), 7)
        with self.assertRaises(ValueError):
            stats.median([])

    def test_bootstrap_is_repeatable_and_holds_the_median(self):
        values = [1.0, 1.1, 0.9, 1.2, 1.05, 0.95, 1.3, 1.0, 1.02, 0.99]
        first, again = stats.bootstrap(values, 7), stats.bootstrap(values, 7)
        self.assertEqual(first, again)
        self.assertTrue(first.low <= first.median <= first.high)
        self.assertTrue(min(values) <= first.low and first.high <= max(values))
        self.assertEqual(first.count, len(values))

    def test_interval_covers_the_truth_about_as_often_as_it_says(self):
        # Of 200 samples of 30 from the numbers 0 to 1, whose median is 0.5.
        import random
        source = random.Random(11)
        covered = 0
        for seed in range(200):
            found = stats.bootstrap([source.random() for _ in range(30)], seed)
            covered += found.low <= 0.5 <= found.high
        self.assertTrue(180 <= covered <= 199, covered)

    def test_no_spread_is_no_interval(self):
        self.assertEqual(stats.bootstrap([2.0] * 30, 1), Interval(2.0, 2.0, 2.0, 30))

    def test_more_slices_narrow_it(self):
        values = [1 + (i * 37 % 100) / 100 for i in range(400)]
        few, many = stats.bootstrap(values[:20], 3), stats.bootstrap(values, 3)
        self.assertLess(many.high - many.low, few.high - few.low)

    def test_pairs(self):
        # The machine's own swings fall out of ratios that are taken pair by pair.
        found = stats.paired_ratio([2.0, 20.0, 4.0], [1.0, 10.0, 2.0], 1)
        self.assertEqual((found.low, found.median, found.high), (2.0, 2.0, 2.0))
        with self.assertRaises(ValueError):
            stats.paired_ratio([1.0, 2.0], [1.0], 1)
        with self.assertRaises(ValueError):
            stats.paired_ratio([1.0, 2.0], [1.0, 0.0], 1)


class Goals(unittest.TestCase):
    def test_minimum_takes_the_lower_end(self):
        goal = Goal("speed", True, {"memcached": 1.3})
        self.assertEqual(goal.verdict({"memcached": Interval(1.5, 1.3, 1.6, 30)}), MET)
        self.assertEqual(goal.verdict({"memcached": Interval(1.5, 1.29, 1.6, 30)}), MISSED)

    def test_maximum_takes_the_upper_end(self):
        goal = Goal("cost", False, {"memcached": 0.7})
        self.assertEqual(goal.verdict({"memcached": Interval(0.6, 0.5, 0.7, 30)}), MET)
        self.assertEqual(goal.verdict({"memcached": Interval(0.6, 0.5, 0.71, 30)}), MISSED)

    def test_every_peer_counts(self):
        goal = Goal("speed", True, {"memcached": 1.8, "redis": 2.0})
        fast, slow = Interval(2.5, 2.1, 3.0, 30), Interval(1.9, 1.85, 1.95, 30)
        self.assertEqual(goal.verdict({"memcached": slow, "redis": fast}), MET)
        self.assertEqual(goal.verdict({"memcached": fast, "redis": slow}), MISSED)
        self.assertEqual(goal.verdict({"memcached": fast}), NOT_JUDGED)

    def test_text(self):
        self.assertEqual(Goal("s", True, {"memcached": 1.8, "redis": 2.0}).text(),
                         "≥ 1.8x memcached, ≥ 2x redis")
        self.assertEqual(Goal("s", True, {"memcached": 1.0, "redis": 1.0}).text(),
                         "≥ 1x memcached and redis")
        self.assertEqual(Goal("s", False, {"": 84}).text(), "≤ 84")


class Histograms(unittest.TestCase):
    def test_merge(self):
        merged = stats.merge_histograms([[[10, 2], [30, 1]], [[10, 1], [20, 5]], []])
        self.assertEqual(merged, [[10, 3], [20, 5], [30, 1]])
        with self.assertRaises(ValueError):
            stats.merge_histograms([[[10, -1]]])

    def test_percentile(self):
        one_to_hundred = [[value, 1] for value in range(1, 101)]
        self.assertEqual(stats.percentile(one_to_hundred, 0.5), 50)
        self.assertEqual(stats.percentile(one_to_hundred, 0.99), 99)
        self.assertEqual(stats.percentile(one_to_hundred, 0.999), 100)
        self.assertEqual(stats.percentile(one_to_hundred, 0.0), 1)
        self.assertEqual(stats.percentile([[5, 1000], [900, 1]], 0.999), 5)
        self.assertEqual(stats.percentile([[5, 999], [900, 2]], 0.999), 900)
        with self.assertRaises(ValueError):
            stats.percentile([[5, 0]], 0.5)

    def test_merging_differs_from_averaging(self):
        # A stall in one slice of ten belongs to the whole's p99, though most slices saw none.
        quiet, stalled = [[10, 100]], [[10, 50], [5000, 50]]
        merged = stats.merge_histograms([quiet] * 9 + [stalled])
        self.assertEqual(stats.percentile(merged, 0.99), 5000)
        found = stats.merged_ratio([quiet] * 9 + [stalled], [quiet] * 10, 0.99, 1)
        self.assertEqual((found.median, found.low, found.high), (500, 1, 500))
        with self.assertRaises(ValueError):
            stats.merged_ratio([quiet], [], 0.99, 1)


def answer(operations=100, busy=0.5, server_cpu=0.5, steal=0.0, seconds=1.0, **more):
    return {"operations": operations, "seconds": seconds, "busy": busy, "server_cpu": server_cpu,
            "steal": steal, "errors": 0, "refused": 0, "value_bytes": operations << 20,
            "latency_us": {"p99": 50.0}, "histogram": [[50, operations]], **more}


class Slices(unittest.TestCase):
    ROW = Row("small-hit", "a variant", None)
    MEASURES = [("speed", "1/s", slices.rate)]

    def lines(self, taken, goal, judged=True):
        return slices.lines_of(self.ROW, taken, 1, self.MEASURES, {"speed": goal}, judged)[0]

    def taken(self, **cistern):
        return {"cistern": [answer(200, **cistern)] * 5, "memcached": [answer(100)] * 5}

    def test_order_turns_around(self):
        order = []

        def measure(contender, _seconds):
            order.append(contender.name)
            return answer()

        both = [slices.Contender(name, None, None) for name in "ab"]
        taken = slices.interleave(both, 4, 1, measure=measure)
        self.assertEqual("".join(order), "abbaabba")
        self.assertEqual([len(taken[name]) for name in "ab"], [4, 4])

    def test_steal_is_repeated_and_bounded(self):
        steals = [0.5, 0.03, 0.01]
        found = slices.take_quiet(lambda: answer(steal=steals.pop(0)))
        self.assertEqual((found["steal"], found["repeated"]), (0.01, 2))
        tries = []
        found = slices.take_quiet(lambda: tries.append(1) or answer(steal=0.5 - len(tries) / 100))
        self.assertEqual(len(tries), 1 + slices.REPEATS)
        self.assertAlmostEqual(found["steal"], 0.5 - len(tries) / 100)
        self.assertEqual(slices.noise({"cistern": [found]}),
                         [f"{slices.REPEATS} slices repeated for steal", "1 slices with steal above 2 %"])

    def test_verdict(self):
        goal = Goal("speed", True, {"memcached": 1.9})
        self.assertEqual(self.lines(self.taken(), goal).verdict, MET)
        self.assertEqual(self.lines(self.taken(), Goal("speed", True, {"memcached": 2.1})).verdict, MISSED)
        self.assertEqual(self.lines(self.taken(), goal, judged=False).verdict, NOT_JUDGED)

    def test_errors_prove_nothing(self):
        taken = self.taken()
        taken["cistern"] = [answer(200)] * 4 + [{**answer(200), "errors": 3, "first_error": "short"}]
        line = self.lines(taken, Goal("speed", True, {"memcached": 1.0}))
        self.assertEqual(line.verdict, NOT_JUDGED)
        self.assertEqual(line.marks, ["cistern: 3 errors short"])

    def test_busy_generator_is_marked_and_judged_by_server_cpu(self):
        # Twice as fast, but 0.5 s for 200 against 0.5 s for 100 is half of the CPU: met by both.
        line = self.lines(self.taken(busy=0.9), Goal("speed", True, {"memcached": 1.9}))
        self.assertEqual(line.verdict, MET)
        self.assertIn("generator-bound: cistern", line.marks)
        # As fast as before, and at the peer's CPU per request: no longer met.
        line = self.lines(self.taken(busy=0.9, server_cpu=1.0), Goal("speed", True, {"memcached": 1.9}))
        self.assertEqual(line.verdict, MISSED)
        self.assertAlmostEqual(line.ratios["memcached"].median, 2.0)
        # Where the client is a part of what is compared, its limit is the system's.
        line = slices.lines_of(self.ROW, self.taken(busy=0.9, server_cpu=1.0), 1, self.MEASURES,
                               {"speed": Goal("speed", True, {"memcached": 1.9})},
                               is_client_measured=True)[0]
        self.assertEqual((line.verdict, line.marks), (MET, ["client-bound: cistern"]))

    def test_who_did_nothing_has_no_ratio(self):
        taken = {"cistern": [answer(10)] * 3, "redis": [answer(0)] * 3}
        line = self.lines(taken, Goal("speed", True, {"redis": 1.0}))
        self.assertEqual((line.ratios, line.verdict), ({}, NOT_JUDGED))
        self.assertIn("redis: nothing was done", line.marks)


class Table(unittest.TestCase):
    def test_names_are_unique_and_every_workload_is_there(self):
        rows = workloads.all_rows()
        self.assertEqual(len({row.name for row in rows}), len(rows))
        wanted = {"small-hit", "small-put", "large-hit", "large-put", "miss", "isolation", "density",
                  "growth", "hit-ratio"}
        self.assertEqual({row.workload for row in rows}, wanted)
        self.assertEqual({row.workload for row in rows if row.core}, wanted)
        for row in rows:
            for measure, goal in row.goals.items():
                self.assertEqual(measure, goal.measure, row.name)
                self.assertTrue(goal.bounds, row.name)

    def test_choice(self):
        self.assertEqual([row.workload for row in workloads.chosen("^hit-ratio/.*scans")], ["hit-ratio"] * 2)
        self.assertLess(len(workloads.chosen()), len(workloads.chosen(every=True)))
        self.assertEqual(workloads.chosen("no such row"), [])


class Report(unittest.TestCase):
    def test_files(self):
        line = slices.Line("large-hit", "64 MiB", "throughput", "GiB/s",
                           {"cistern": 3.456, "memcached": 2.0, "redis": 0.5},
                           {"memcached": Interval(1.7, 1.6, 1.8, 30)}, "≥ 1.3x memcached", MET, ["a|b"])
        bare = slices.Line("hit-ratio", "Zipf", "hit ratio", "", {"cistern": 0.5, "redis-lru": 0.25,
                                                                   "redis-lfu": None})
        with tempfile.TemporaryDirectory() as folder:
            report.write(folder, {"kernel": "6"}, {"seed": "1"}, [line, bare], {"x": [1]},
                         svg.plots([line]))
            with open(os.path.join(folder, "report.md"), encoding="utf-8") as file:
                text = file.read()
            with open(os.path.join(folder, "report.json"), encoding="utf-8") as file:
                figures = json.load(file)
            self.assertEqual(sorted(os.listdir(folder)), ["large-hit.svg", "report.json", "report.md"])
        self.assertIn("| large-hit | 64 MiB | throughput, GiB/s | 3.46 | 2.00 | 0.500 | "
                      "1.70 [1.60, 1.80] | - | ≥ 1.3x memcached | met | a/b |", text)
        self.assertIn("| 0.500 | - | redis-lru 0.250, redis-lfu - |", text)
        self.assertIn("Goals: 1 met.", text)
        self.assertEqual(figures["lines"][0]["ratios"]["memcached"]["low"], 1.6)

    def test_figures(self):
        for value, text in [(None, "-"), (0, "0"), (0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"),
                            (123456.7, "123,457")]:
            self.assertEqual(report.figure(value), text)

    def test_charts_are_whole(self):
        for logarithmic in (False, True):
            for groups in ([("a <b>", {"cistern": 10.0, "redis": None}), ("c", {"cistern": 0.5})],
                           [("same", {"cistern": 10.0})], [("none", {"cistern": None})]):
                text = svg.bar_chart("A & B", "us", groups, logarithmic)
                xml.dom.minidom.parseString(text)


if __name__ == "__main__":
    unittest.main()
