"""What the soak starts: Redis, the daemon in a memory cgroup, the load."""

import json
import os
import re
import shutil
import socket
import time
import urllib.request

from compare_lib.cgroups import Cgroup, process_bytes
from compare_lib.processes import Child, Failed

PATIENCE_SECONDS = 30
ADMIN_SECONDS = 10


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Redis:
    """Outside of the cgroup, with a bound of its own: what doesn't fit, it evicts."""

    def __init__(self, folder, max_bytes):
        self.port = free_port()
        self.child = Child([shutil.which("redis-server") or "/usr/bin/redis-server",
                            "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                            "--appendonly", "no", "--dir", folder,
                            "--maxmemory", str(max_bytes), "--maxmemory-policy", "allkeys-lru"],
                           errors=os.path.join(folder, "redis.errors"))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.command("PING")
                return
            except OSError as error:
                if time.monotonic() > deadline or not self.child.running():
                    raise Failed(f"redis-server does not start: {error}") from error
                time.sleep(0.02)

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def evicted(self):
        """How many keys it has thrown away for want of room."""
        return int(re.search(r"evicted_keys:(\d+)", self.command("INFO", "stats")).group(1))

    def command(self, *words):
        """The answer, a line or a text. A connection of its own each time."""
        text = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS) as connection:
            connection.sendall(text.encode())
            answer = connection.makefile("rb")
            line = answer.readline().decode("utf-8", "replace").strip()
            return answer.read(int(line[1:])).decode() if line.startswith("$") else line


class Daemon:
    """cisternd with its defaults, but for its listeners, Redis, and, without a cgroup, its limit."""

    def __init__(self, build, folder, redis_url, cgroup_bytes, wants_cgroup):
        self.cgroup = Cgroup.create("soak") if wants_cgroup else None
        self.has_limit_of_its_own = self.cgroup is None or not self._set_limit(cgroup_bytes)
        self.log = os.path.join(folder, "cisternd.log")
        config = os.path.join(folder, "cistern.yaml")
        limit = ""
        if self.has_limit_of_its_own:
            limit = f"memory: {{limit: {cgroup_bytes * 7 // 8}B}}\n"
        with open(config, "w", encoding="utf-8") as file:
            file.write(f'server: {{listen: ["tcp://127.0.0.1:0", "unix://{folder}/soak.sock"]}}\n'
                       f'admin: {{listen: "127.0.0.1:0"}}\n'
                       f'l2: {{kind: redis, redis: {{url: "{redis_url}"}}}}\n{limit}')
        self.child = Child([os.path.join(build, "bin", "cisternd"), "--config", config],
                           cgroup=self.cgroup, errors=self.log)
        self.unix = f"unix://{folder}/soak.sock"
        self.tcp = self._event("listening", "tcp://")["endpoint"]
        self.admin = self._event("admin_listening", "")["endpoint"].split("//")[-1]
        self._event("ready", "")

    def _set_limit(self, cgroup_bytes):
        name = "memory.max" if self.cgroup.is_v2 else "memory.limit_in_bytes"
        try:
            with open(os.path.join(self.cgroup.path, name), "w", encoding="ascii") as file:
                file.write(str(cgroup_bytes))
            return True
        except OSError:
            self.cgroup.remove()
            self.cgroup = None
            return False

    def events(self):
        """What it logged so far; lines that aren't events are given as they are."""
        with open(self.log, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:
                    yield {"event": "text", "text": line.strip()}

    def _event(self, name, endpoint):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self.child.running():
            for event in self.events():
                if event.get("event") == name and event.get("endpoint", "").startswith(endpoint):
                    return event
            time.sleep(0.02)
        raise Failed(f"cisternd did not say {name}: {self.child.errors()}")

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=ADMIN_SECONDS) as answer:
            return answer.read().decode("utf-8")

    def stats(self):
        return json.loads(self.get("/stats"))

    def metrics(self):
        """Of each metric: {labels as they are written: value}."""
        found = {}
        for line in self.get("/metrics").splitlines():
            if line.startswith("#") or not line.strip():
                continue
            name, _, value = line.rpartition(" ")
            name, _, labels = name.partition("{")
            found.setdefault(name, {})[labels.rstrip("}")] = float(value)
        return found

    def used_bytes(self):
        """Memory used, as the design counts it."""
        if self.cgroup is not None:
            return self.cgroup.used_bytes()
        return process_bytes(self.child.pid)

    def cgroup_figures(self):
        """What the kernel says of the whole group, page cache and the kernel's own included."""
        if self.cgroup is None:
            return {}
        names = (("memory.peak", "memory.max", "memory.events") if self.cgroup.is_v2 else
                 ("memory.max_usage_in_bytes", "memory.limit_in_bytes", "memory.failcnt",
                  "memory.oom_control", "memory.kmem.tcp.max_usage_in_bytes",
                  "memory.kmem.usage_in_bytes"))
        figures = {}
        for name in names:
            try:
                with open(os.path.join(self.cgroup.path, name), encoding="ascii") as file:
                    figures[name] = " ".join(file.read().split())
            except OSError:
                pass  # not every kernel has all of them
        return figures

    def close(self):
        self.child.stop()
        if self.cgroup is not None:
            self.cgroup.remove()
