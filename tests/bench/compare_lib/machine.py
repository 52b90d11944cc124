"""The machine and the programs: what stands at the head of a report, and what each slice reads."""

import os
import platform
import re
import shutil
import subprocess
import time

# What has to be installed, by program, with the Debian package that holds it.
PACKAGES = {"redis-server": "redis-server", "memcached": "memcached"}


def read(path):
    """The text of a file, or "" where it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def missing_programs(build):
    """What to do about each program that isn't there, in sentences; empty when all are."""
    wanted = [f"{name} is missing: install the Debian package {package}"
              for name, package in PACKAGES.items() if shutil.which(name) is None]
    for target in ("cisternd", "cistern-load"):
        if not os.access(os.path.join(build, "bin", target), os.X_OK):
            wanted.append(f"{os.path.join(build, 'bin', target)} is missing: build it with "
                          "`cmake --preset release && cmake --build --preset release`, or name "
                          "another folder with --build")
    return wanted


def cpu_times():
    """(steal, all) of the machine since it started, in clock ticks."""
    fields = [int(field) for field in read("/proc/stat").split("\n", 1)[0].split()[1:9]]
    return (fields[7] if len(fields) > 7 else 0), sum(fields)


def steal_share(before, after):
    """The part of the time between two cpu_times() that the hypervisor gave to others."""
    passed = after[1] - before[1]
    return (after[0] - before[0]) / passed if passed > 0 else 0.0


def cpu_seconds(pid):
    """CPU time of a process with all its threads, those that ended too; to the nanosecond. It is the
    clock that clock_getcpuclockid(3) names: the pid's complement and the kind of clock below it."""
    return time.clock_gettime((~pid << 3) | 2)


def available_bytes():
    found = re.search(r"MemAvailable:\s+(\d+) kB", read("/proc/meminfo"))
    return int(found.group(1)) * 1024 if found else 0


def output_of(*command):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=20, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def library_version(name):
    return output_of("dpkg-query", "-W", "-f", "${Version}", name) or "unknown"


def describe(build, root):
    """What a reader has to know to compare two reports: an ordered dict of text."""
    cpu_model = re.search(r"model name\s*:\s*(.+)", read("/proc/cpuinfo"))
    total = re.search(r"MemTotal:\s+(\d+) kB", read("/proc/meminfo"))
    system = re.search(r'PRETTY_NAME="(.+)"', read("/etc/os-release"))
    commit = output_of("git", "-C", root, "rev-parse", "--short=12", "HEAD") or "unknown"
    if output_of("git", "-C", root, "status", "--porcelain", "--untracked-files=no"):
        commit += " with changes"
    redis = re.search(r"v=(\S+)", output_of("redis-server", "--version"))
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": commit,
        "machine": cpu_model.group(1).strip() if cpu_model else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(total.group(1)) / 1024 ** 2:.1f} GiB" if total else "unknown",
        "kernel": platform.release(),
        "system": system.group(1) if system else "unknown",
        "cistern": output_of(os.path.join(build, "bin", "cisternd"), "--version") or "unknown",
        "redis": redis.group(1) if redis else "unknown",
        "memcached": output_of("memcached", "-V").replace("memcached ", "") or "unknown",
        "hiredis": library_version("libhiredis-dev"),
        "libmemcached": library_version("libmemcached-dev"),
    }
