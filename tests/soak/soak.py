#!/usr/bin/env python3
"""The worst mix that we can think of, against a daemon in 256 MiB with nothing set but its listeners
and Redis: 200 connections, values from 0 B to 1 GiB, overwrites, slow and stalled readers, abandoned
uploads, many tiny values, a Redis that stops, loses connections and evicts. Judged are: the process
lives; memory used stays under the daemon's own limit; every byte that was read is one writer's, and
none is stale; hits in L1 are answered all the time; clients see only errors that say "try again"; and
once all are gone, the accounts are empty and the counters add up.

    tests/soak/soak.py [--seconds N] [--seed N] [--build FOLDER] [--out FOLDER] ...

Exit status: 0 all is well, 1 something was found, 2 it could not run."""

import argparse
import json
import os
import sys
import tempfile
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, os.pardir, "bench")]

from compare_lib import cgroups  # noqa: E402
from compare_lib.processes import Child, Failed  # noqa: E402
from processes import Daemon, Redis  # noqa: E402
from watch import Trouble, Watch  # noqa: E402

MIB = 1 << 20
# What a client may be told while everything goes as it should. All but the results say "try again".
RESULTS = {"OK", "OK, gone", "NOT_FOUND", "RANGE_INVALID", "CANCELLED"}
EXPECTED_ERRORS = {"NO_ROOM", "TOO_MANY_CONNECTIONS", "VALUE_LOST", "L2_UNAVAILABLE", "L2_TIMEOUT",
                   "L2_BUSY", "OUTCOME_UNKNOWN", "TIMEOUT"}
# The connection's end is how a refusal shows that came before HELLO was sent.
EXPECTED_REFUSALS = {"refused: TOO_MANY_CONNECTIONS", "refused: closed"}
# All others are empty once nobody is there.
CODEC = 'account="codec"'
LASTING_ACCOUNTS = ('"l1"', '"base"', '"l2_buffers"')
END_SECONDS = 60
WORST_PROBE_SECONDS = 2.0
LEAST_HITS = 0.5  # of the probes: they read few keys very often, which no cache should evict


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=1800)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--build", default=os.path.join(HERE, "../../build/release"))
    parser.add_argument("--out", help="folder of the report; default: a temporary one")
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--cgroup-mib", type=int, default=256)
    parser.add_argument("--redis-mib", type=int, default=2048)
    parser.add_argument("--max-value-mib", type=int, default=1024)
    parser.add_argument("--stall-seconds", type=float, default=1.5, help="how long Redis stops")
    parser.add_argument("--no-cgroup", action="store_true", help="as where none can be made")
    return parser.parse_args()


class Soak:
    def __init__(self, arguments, folder):
        self.arguments = arguments
        self.folder = folder
        self.findings = []
        self.end = None  # the last line of the load
        self.evicted = 0
        self.figures = {}
        self.redis = self.daemon = self.load = self.trouble = self.watch = None
        self.codec_at_start = 0

    def find(self, text):
        print(f"FOUND: {text}", flush=True)
        self.findings.append(text)

    def run(self):
        arguments = self.arguments
        try:
            self.redis = Redis(self.folder, arguments.redis_mib * MIB)
            self.daemon = Daemon(arguments.build, self.folder, self.redis.url,
                                 arguments.cgroup_mib * MIB, not arguments.no_cgroup)
            if self.daemon.has_limit_of_its_own:
                print("!!! NO MEMORY CGROUP CAN BE MADE HERE (it needs root): memory.limit is set by "
                      "hand, and the process' own figures are judged instead", flush=True)
            # What it holds for good of an account that chunks in work share.
            self.codec_at_start = self.daemon.metrics()["cistern_ledger_bytes"].get(CODEC, 0)
            self.watch = Watch(self.daemon, os.path.join(self.folder, "series.csv"))
            self.watch.start()
            self.load = Child(
                [os.path.join(arguments.build, "bin", "cistern-soak"), "--tcp", self.daemon.tcp,
                 "--unix", self.daemon.unix, "--seconds", str(arguments.seconds),
                 "--seed", str(arguments.seed), "--connections", str(arguments.connections),
                 "--max-value-bytes", str(arguments.max_value_mib * MIB)],
                errors=os.path.join(self.folder, "load.errors"))
            os.setpriority(os.PRIO_PROCESS, self.load.pid, 5)  # the prober takes itself out of it
            self.trouble = Trouble(self.redis, arguments.seed, arguments.stall_seconds)
            self.trouble.start()
            self.follow_load()
            self.trouble.stop()
            self.evicted = self.redis.evicted()
            if self.daemon.child.running():
                self.judge_end()
                self.watch.stop()
                self.judge_stop()
        finally:
            self.close()
        self.judge_watch()
        if self.end is not None:
            self.judge_load()

    def close(self):
        if self.trouble is not None and self.trouble.is_alive():
            self.trouble.stop()
        if self.watch is not None and self.watch.is_alive():
            self.watch.stop()
        for child in (self.load, self.redis and self.redis.child):
            if child is not None:
                child.stop(asks=False)
        if self.daemon is not None:
            self.figures = self.daemon.cgroup_figures()
            self.daemon.close()

    # ---- While it runs

    def follow_load(self):
        wrong = 0
        deadline = time.monotonic() + self.arguments.seconds + 120
        while self.end is None:
            if self.load.has_line(1.0):
                line = json.loads(self.load.read_line(1.0))
                for text in line["wrong"][wrong:]:
                    self.find(f"wrong: {text}")
                wrong = len(line["wrong"])
                self.watch.probe_worst_us = max(p["worst_us_since_last"] for p in line["probes"])
                if line["is_end"]:
                    self.end = line
            if not self.daemon.child.running():
                return self.find(f"the daemon ended with status {self.daemon.child.process.poll()} "
                                 f"after {self.watch.seconds():.1f} s: {self.daemon.child.errors()}")
            if time.monotonic() > deadline:
                return self.find("the load didn't end: some client waits for ever")

    # ---- Once the clients are gone

    def judge_end(self):
        self.load.stop(asks=False)
        deadline = time.monotonic() + END_SECONDS
        while True:
            metrics = self.daemon.metrics()
            left = self.left_of(metrics)
            if not left:
                break
            if time.monotonic() > deadline:
                self.find(f"{END_SECONDS} s after the last client there is still: {left}")
                break
            time.sleep(0.2)
        inserted = sum(metrics["cistern_l1_inserted_total"].values())
        removed = sum(metrics.get("cistern_l1_removed_total", {}).values())
        items = sum(metrics["cistern_l1_items"].values())
        if inserted != items + removed:
            self.find(f"{inserted:.0f} values came into L1, {items:.0f} are there and {removed:.0f} "
                      "have left")
        with open(os.path.join(self.folder, "metrics.txt"), "w", encoding="utf-8") as file:
            file.write(self.daemon.get("/metrics"))

    def left_of(self, metrics):
        left = {labels: value for labels, value in metrics["cistern_ledger_bytes"].items()
                if value and not any(name in labels for name in LASTING_ACCOUNTS)}
        if left.get(CODEC) == self.codec_at_start:
            left.pop(CODEC, None)
        for name in ("cistern_open_streams", "cistern_connections", "cistern_ledger_waiting"):
            value = sum(metrics[name].values())
            if value:
                left[name] = value
        return left

    def judge_stop(self):
        self.daemon.child.process.terminate()
        try:
            status = self.daemon.child.process.wait(60)
        except Exception:  # pylint: disable=broad-except
            return self.find("the daemon did not end within 60 s of SIGTERM")
        if status != 0:
            self.find(f"the daemon ended with status {status} after SIGTERM")

    # ---- What was seen

    def judge_watch(self):
        watch = self.watch
        if watch.samples_over:
            self.find(f"memory used was over memory.limit ({watch.limit_bytes / MIB:.1f} MiB) in "
                      f"{watch.samples_over} of {watch.samples} samples; at most "
                      f"{watch.highest_bytes / MIB:.1f} MiB, after {watch.highest_at:.1f} s")
        if watch.silent:
            self.find(f"/stats was not answered {watch.silent} times")
        for event in self.daemon.events():
            if event.get("event") in ("text", "check_failed") or event.get("level") == "critical":
                self.find(f"the daemon says: {str(event)[:300]}")

    def judge_load(self):
        expected = RESULTS | EXPECTED_ERRORS | EXPECTED_REFUSALS
        if self.evicted == 0:
            expected = expected - {"VALUE_LOST"}  # nobody but Redis' own eviction may lose chunks
        for operation, results in self.end["counts"].items():
            for result, times in results.items():
                if result not in expected:
                    self.find(f"{operation} ended {times} times with {result}")
        for number, probe in enumerate(self.end["probes"]):
            asked = probe["hits"] + probe["others"]
            if probe["unanswered"]:
                self.find(f"prober {number}: {probe['unanswered']} probes were not answered")
            if probe["worst_us"] > WORST_PROBE_SECONDS * 1e6:
                self.find(f"prober {number}: a hit took {probe['worst_us'] / 1e6:.2f} s, after "
                          f"{probe['worst_at_s']:.1f} s")
            if asked == 0 or probe["hits"] < LEAST_HITS * asked:
                self.find(f"prober {number}: {probe['hits']} of {asked} probes were hits")

    def summary(self):
        lines = [f"seed {self.arguments.seed}, {self.arguments.seconds} s, "
                 f"{self.arguments.connections} connections; {self.folder}"]
        watch = self.watch
        lines.append(f"memory used: at most {watch.highest_bytes / MIB:.1f} MiB after "
                     f"{watch.highest_at:.1f} s, memory.limit {watch.limit_bytes / MIB:.1f} MiB, "
                     f"{watch.samples} samples; slowest /stats {watch.slowest_stats * 1e3:.0f} ms")
        lines += [f"  {name}: {value}" for name, value in self.figures.items()]
        lines.append(f"connections: at most {watch.most_connections} at the same time")
        lines.append(f"Redis: stopped {self.trouble.freezes} times, all connections cut "
                     f"{self.trouble.cuts} times, {self.evicted} keys evicted")
        if self.end is not None:
            lines.append(f"read {self.end['read_bytes'] / MIB:.0f} MiB, written "
                         f"{self.end['written_bytes'] / MIB:.0f} MiB")
            for number, probe in enumerate(self.end["probes"]):
                lines.append(f"prober {number}: {probe['hits']} hits, {probe['others']} others, p99 "
                             f"{probe['p99_us']} us, worst {probe['worst_us']} us after "
                             f"{probe['worst_at_s']:.1f} s")
            for operation, results in self.end["counts"].items():
                told = ", ".join(f"{result} {times}" for result, times in results.items())
                lines.append(f"  {operation + ':':20} {told}")
        lines.append(f"{len(self.findings)} findings")
        return "\n".join(lines)


def main():
    arguments = parse_arguments()
    arguments.build = os.path.abspath(arguments.build)
    folder = os.path.abspath(arguments.out or tempfile.mkdtemp(prefix="cistern-soak-"))
    os.makedirs(folder, exist_ok=True)
    print(f"seed {arguments.seed}: {' '.join(sys.argv)}", flush=True)
    cgroups.sweep()
    soak = Soak(arguments, folder)
    try:
        soak.run()
    except Failed as error:
        print(f"it could not run: {error}", file=sys.stderr)
        return 2
    text = soak.summary()
    print(text)
    with open(os.path.join(folder, "summary.txt"), "w", encoding="utf-8") as file:
        file.write("\n".join(soak.findings + [text]) + "\n")
    return 1 if soak.findings else 0


if __name__ == "__main__":
    sys.exit(main())
