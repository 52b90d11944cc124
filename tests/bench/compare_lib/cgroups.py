"""The memory that a server uses, as design section 8 counts it: anonymous, shared and socket bytes."""

import itertools
import os
import re
import time

from .machine import read

_numbers = itertools.count()
_ROOTS = (("/sys/fs/cgroup/memory", "memory.usage_in_bytes"), ("/sys/fs/cgroup", "memory.current"))
_PREFIX = "cistern-bench-"


def sweep():
    """Removes the empty groups of comparisons that were killed, which could not do it themselves."""
    for root, _ in _ROOTS:
        for name in os.listdir(root) if os.path.isdir(root) else []:
            owner = re.match(rf"{_PREFIX}(\d+)-", name)
            if owner and not os.path.exists(f"/proc/{owner.group(1)}"):
                try:
                    os.rmdir(os.path.join(root, name))
                except OSError:
                    pass  # somebody still lives there


class Cgroup:
    """A memory cgroup of its own for one process; version 1 or 2, whichever is mounted."""

    @staticmethod
    def create(name):
        """None where none may be made: then memory is counted from /proc."""
        folder = f"{_PREFIX}{os.getpid()}-{next(_numbers)}-{name}"
        for root, mark in _ROOTS:
            path = os.path.join(root, folder)
            try:
                os.mkdir(path)
            except OSError:
                continue
            if os.path.exists(os.path.join(path, mark)):
                return Cgroup(path, is_v2=mark == "memory.current")
            os.rmdir(path)
        return None

    def __init__(self, path, is_v2):
        self.path = path
        self.is_v2 = is_v2
        if not is_v2:
            # Version 1 counts socket buffers only once their limit was set.
            self._write("memory.kmem.tcp.limit_in_bytes", str(1 << 60))

    def _write(self, name, text):
        try:
            with open(os.path.join(self.path, name), "w", encoding="ascii") as file:
                file.write(text)
        except OSError:
            pass  # what can't be set is then counted as the kernel does without it

    def join(self):
        """Moves the calling process. For the child between fork and exec."""
        with open(os.path.join(self.path, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write("0")

    def _field(self, name):
        found = re.search(rf"^{name} (\d+)$", read(os.path.join(self.path, "memory.stat")), re.M)
        return int(found.group(1)) if found else 0

    def _number(self, name):
        text = read(os.path.join(self.path, name)).strip()
        return int(text) if text.isdigit() else 0

    def used_bytes(self):
        if self.is_v2:
            return self._field("anon") + self._field("shmem") + self._field("sock")
        return (self._field("rss") + self._field("shmem") +
                self._number("memory.kmem.tcp.usage_in_bytes"))

    def remove(self):
        """Once its process has ended. The kernel may need a moment to let go of it."""
        for _ in range(50):
            try:
                os.rmdir(self.path)
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.02)


def process_bytes(pid):
    """Without a cgroup: anonymous bytes, and the blocks of each memfd once."""
    found = re.search(r"RssAnon:\s+(\d+) kB", read(f"/proc/{pid}/status"))
    total = int(found.group(1)) * 1024 if found else 0
    seen = set()
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return total
    for name in names:
        try:
            if not os.readlink(os.path.join(folder, name)).startswith("/memfd:"):
                continue
            status = os.stat(os.path.join(folder, name))
        except OSError:
            continue  # closed in the meantime
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            total += status.st_blocks * 512
    return total
