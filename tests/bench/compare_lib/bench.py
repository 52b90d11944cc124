"""What every row needs: the settings of this run, servers and loads on their CPUs, progress."""

import os
import sys
import tempfile
import time
from dataclasses import dataclass, field

from . import cgroups, machine, slices
from .load import Load
from .servers import GIB, MIB, Cistern, Memcached, Redis
from .slices import CISTERN, Contender, Line

SYSTEMS = (CISTERN, "memcached", "redis")


class Skipped(Exception):
    """This machine can't run the row; the text says why."""


@dataclass
class Options:
    build: str
    slices: int = 30
    seconds: float = 1.0
    seed: int = 1
    smoke: bool = False


@dataclass
class Row:
    """A row of the table. `run(bench, row)` gives its lines; `goals` are by measure."""
    workload: str
    variant: str
    run: object
    settings: dict = field(default_factory=dict)
    goals: dict = field(default_factory=dict)
    core: bool = True

    @property
    def name(self):
        return f"{self.workload}/{self.variant}"


class Bench:
    """One run of the benchmark. A context manager: it owns the folder of sockets and error files."""

    def __init__(self, options):
        self.options = options
        self.seed = options.seed
        self.raw = {}
        self.memory_told = {}  # hit_ratio.py: by series, once it was found out
        cpus = sorted(os.sched_getaffinity(0))
        self.server_cpu = cpus[0]
        self.load_cpu = cpus[1] if len(cpus) > 1 else cpus[0]
        # Probes run at real-time priority: beside the bulk readers where there is no third core.
        self.probe_cpu = cpus[2] if len(cpus) > 2 else self.load_cpu
        self.cpu_count = len(cpus)
        self.repeats = 0 if options.smoke else slices.REPEATS
        self._count = 0
        self._at_line_start = True

    def __enter__(self):
        cgroups.sweep()
        self._folder = tempfile.TemporaryDirectory(prefix="cistern-bench-")
        return self

    def __exit__(self, *ignored):
        self._folder.cleanup()

    def folder(self):
        """A new one. Short: the path of a unix socket has room for 107 bytes."""
        self._count += 1
        path = os.path.join(self._folder.name, str(self._count))
        os.mkdir(path)
        return path

    # ---- Sizes: as the row says, or small in a smoke run.

    def keys(self, count):
        return min(count, 400) if self.options.smoke else count

    def value_bytes(self, size):
        if not self.options.smoke or size < MIB:
            return size
        return MIB + min(size, GIB) // 512 // 4096 * 4096

    def memory(self, size):
        return min(size, 96 * MIB) if self.options.smoke else size

    def seconds(self, wanted):
        """How long something takes that the row wants to last that many slices."""
        return wanted * self.options.seconds

    def rounds(self, most=None):
        return self.options.slices if most is None else min(most, self.options.slices)

    def needs(self, size):
        """Skips a row for which there is no memory."""
        available = machine.available_bytes()
        if not self.options.smoke and size > available * 0.9:
            raise Skipped(f"takes {size / GIB:.1f} GiB of memory, {available / GIB:.1f} are available")

    # ---- Servers and loads, which `stack` ends.

    def server(self, stack, system, memory, transport="tcp", pinned=True, scaled=True, **more):
        """scaled: smaller in a smoke run."""
        cpu = self.server_cpu if pinned else None
        memory = self.memory(memory) if scaled else memory
        if system == CISTERN:
            made = Cistern(self.folder(), memory, cpu, build=self.options.build, **more)
        elif system == "memcached":
            made = Memcached(self.folder(), memory, cpu, transport=transport, **more)
        else:
            made = Redis(self.folder(), memory, cpu, **more)
        return stack.add(made)

    def load(self, stack, server, config, transport="tcp", pinned=True, probe=False, system=None):
        """`config` without system and endpoint."""
        whole = {"system": system or server.system, "endpoint": server.endpoints[transport],
                 "seed": self.seed, **config}
        cpu = (self.probe_cpu if probe else self.load_cpu) if pinned else None
        load = Load(self.options.build, self.folder(), whole, cpu, realtime=probe)
        stack.callback(load.stop)
        return load

    # ---- Slices

    def interleave(self, row, contenders, rounds=None, measure=slices.take, seconds=None):
        taken = slices.interleave(contenders, rounds or self.rounds(), seconds or self.options.seconds,
                                  self.tick, measure, self.repeats)
        self.keep(row, "slices", slices.without_histograms(taken))
        return taken

    def keep(self, row, name, figures):
        """For report.json."""
        self.raw.setdefault(row.name, {})[name] = figures

    def contender(self, server, load, name=None):
        return Contender(name or server.system, server, load)

    def line(self, row, measure, unit, values, goal_met=None, marks=()):
        """A line of figures that were not taken in slices. goal_met: of its goal, None: not judged."""
        goal = row.goals.get(measure)
        made = Line(row.workload, row.variant, measure, unit, values, marks=list(marks))
        if goal:
            made.goal = goal.text()
            if goal_met is not None:
                made.verdict = "met" if goal_met else "missed"
        return made

    # ---- Progress, on standard error

    def say(self, text):
        if not self._at_line_start:
            sys.stderr.write("\n")
        sys.stderr.write(time.strftime("%H:%M:%S ") + text + "\n")
        sys.stderr.flush()
        self._at_line_start = True

    def tick(self):
        sys.stderr.write(".")
        sys.stderr.flush()
        self._at_line_start = False
