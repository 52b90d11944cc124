#!/usr/bin/env python3
"""Runs every row of the comparison with tiny sizes, and looks whether the report is whole; then ends
a comparison in all ways, and looks whether its servers end, too. Nothing here is about speed.

    tests/bench/smoke_test.py BUILD-FOLDER"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from compare_lib import workloads  # noqa: E402

SECONDS = 240
PATIENCE_SECONDS = 15
PLOTS = ["isolation.svg", "large-hit.svg", "small-hit.svg"]


def is_figure(value):
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0


def line_findings(line):
    """What is missing in one line of the report."""
    name = f"{line['workload']}/{line['variant']}, {line['measure']}"
    for field in ("workload", "variant", "measure", "goal", "verdict"):
        if not line[field] or line[field] == "-":
            yield f"{name}: no {field}"
    if line["verdict"] != "not judged":
        yield f"{name}: judged ({line['verdict']}), and a smoke run judges nothing"
    if "cistern" not in line["values"] and "hiredis" not in line["values"]:
        yield f"{name}: no figure of Cistern's"
    for system, value in line["values"].items():
        if not is_figure(value):
            yield f"{name}: {system} has the figure {value}"
    for peer, ratio in line["ratios"].items():
        if not all(is_figure(ratio[end]) for end in ("median", "low", "high")):
            yield f"{name}: the ratio to {peer} is {ratio}"
    for mark in line["marks"]:
        # A tiny memcached may refuse the bulk that a probe is beside; nothing else may go wrong.
        if mark.startswith(("failed:", "skipped:", "cistern:")) or "nothing was done" in mark:
            yield f"{name}: {mark}"


def findings(report):
    lines = report["lines"]
    measured = {(line["workload"], line["variant"]) for line in lines}
    for row in workloads.all_rows():
        if (row.workload, row.variant) not in measured:
            yield f"{row.name}: no line"
        for measure in row.goals:
            if not any((line["workload"], line["variant"], line["measure"]) ==
                       (row.workload, row.variant, measure) and line["goal"] != "none"
                       for line in lines):
                yield f"{row.name}: no line for the goal of {measure}"
    for line in lines:
        yield from line_findings(line)
    for name in ("date", "commit", "machine", "kernel", "cistern", "redis", "memcached"):
        if report["machine"].get(name, "unknown") in ("", "unknown"):
            yield f"the head lacks {name}"
    if not report["raw"]:
        yield "no raw figures"


def members(session):
    """The processes of a session, dead ones that nobody waited for left out."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rsplit(")", 1)[1].split()
        except OSError:
            continue  # ended in the meantime
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(pid))
    return found


def leftovers(build, out, number):
    """What still runs after a comparison was ended by a signal in the middle of a row."""
    command = [sys.executable, os.path.join(HERE, "compare"), "--seconds", "30", "--only",
               "^small-hit/100 B, depth 1, tcp", "--build", build, "--out", out]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        # Itself, three servers, three loads.
        while len(members(process.pid)) < 7 and time.monotonic() < deadline:
            time.sleep(0.02)
        if len(members(process.pid)) < 7:
            process.terminate()
            return [f"before signal {number}: the servers did not start"]
        process.send_signal(number)
        process.wait(PATIENCE_SECONDS)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [f"after signal {number} process {pid} still runs" for pid in members(process.pid)]


def main(build):
    with tempfile.TemporaryDirectory(prefix="cistern-smoke-") as out:
        command = [sys.executable, os.path.join(HERE, "compare"), "--smoke", "--build", build,
                   "--out", out]
        with subprocess.Popen(command) as process:
            try:
                status = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.terminate()  # by which it ends its servers
                process.wait()
                print(f"not done after {SECONDS} s", file=sys.stderr)
                return 1
        if status:
            print(f"compare ended with status {status}", file=sys.stderr)
            return 1
        with open(os.path.join(out, "report.json"), encoding="utf-8") as file:
            found = list(findings(json.load(file)))
        found += [f"{name} is missing" for name in PLOTS + ["report.md"]
                  if not os.path.getsize(os.path.join(out, name))]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            found += leftovers(build, out, number)
    print("\n".join(found), file=sys.stderr)
    print(f"{len(workloads.all_rows())} rows, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1]))
