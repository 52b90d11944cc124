"""The three systems: started on free ports with equal memory, watched, and ended."""

import json
import os
import pwd
import shutil
import socket
import time
import urllib.request
from contextlib import ExitStack

from . import machine
from .cgroups import Cgroup, process_bytes
from .processes import Child, Failed

START_SECONDS = 20
KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


class Server:
    """What is common: `endpoints` by transport ("tcp", "unix"), memory, CPU time, and the end."""

    system = ""

    def __init__(self, folder, memory_bytes, cpu=None, threads=1):
        os.makedirs(folder, exist_ok=True)
        self.folder = folder
        self.memory_bytes = memory_bytes
        self.cpu = cpu
        self.threads = threads
        self.endpoints = {}
        self.cgroup = None
        self.child = None

    def path(self, name):
        return os.path.join(self.folder, name)

    def _spawn(self, argv):
        self.cgroup = Cgroup.create(self.system)
        self.child = Child(argv, self.cpu, self.cgroup, errors=self.path("errors"))

    def stop(self):
        if self.child is not None:
            # Asked, memcached takes a second to end; a server that is measured no more keeps nothing.
            self.child.stop(asks=False)
        if self.cgroup is not None:
            self.cgroup.remove()

    @property
    def pid(self):
        return self.child.pid

    def cpu_seconds(self):
        return machine.cpu_seconds(self.pid)

    def used_bytes(self):
        return self.cgroup.used_bytes() if self.cgroup else process_bytes(self.pid)

    def _await_unix(self, path):
        """Until somebody accepts on `path`."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if not self.child.running():
                return False
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(path)
                    return True
                except OSError:
                    time.sleep(0.01)
        raise Failed(f"{self.system}: nobody answers on {path} after {START_SECONDS} s")

    def _await_tcp(self, port):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if not self.child.running():
                return False
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return True
            except OSError:
                time.sleep(0.01)
        raise Failed(f"{self.system}: nobody answers on port {port} after {START_SECONDS} s")

    def _start_on_free_port(self, argv_of):
        """Somebody may take a port between its choice and its use; then another is tried."""
        for _ in range(5):
            with socket.socket() as chooser:
                chooser.bind(("127.0.0.1", 0))
                port = chooser.getsockname()[1]
            self._spawn(argv_of(port))
            if self._await_tcp(port):
                self.endpoints["tcp"] = f"tcp://127.0.0.1:{port}"
                return
            errors = self.child.errors()
            self.stop()
        raise Failed(f"{self.system} ends at once: {errors}")


class Redis(Server):
    system = "redis"

    def __init__(self, folder, memory_bytes, cpu=None, threads=1, policy="allkeys-lru"):
        super().__init__(folder, memory_bytes, cpu, threads)
        self.policy = policy

    def start(self):
        unix = self.path("redis.sock")
        self._start_on_free_port(lambda port: [
            shutil.which("redis-server"), "--port", str(port), "--bind", "127.0.0.1",
            "--unixsocket", unix, "--save", "", "--appendonly", "no", "--dir", self.folder,
            "--daemonize", "no", "--loglevel", "warning", "--maxclients", "4000",
            "--proto-max-bulk-len", "16gb", "--client-query-buffer-limit", "16gb",
            "--maxmemory", str(self.memory_bytes), "--maxmemory-policy", self.policy])
        self._await_unix(unix)
        self.endpoints["unix"] = "unix://" + unix
        return self

    def ask(self, *words):
        """The answer to one command, decoded; an integer, text, or a list of them."""
        port = int(self.endpoints["tcp"].rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), 30) as link:
            parts = [str(word).encode() for word in words]
            link.sendall(b"*%d\r\n" % len(parts) +
                         b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
            with link.makefile("rb") as stream:
                return _resp(stream)


def _resp(stream):
    line = stream.readline().rstrip(b"\r\n")
    kind, rest = line[:1], line[1:].decode()
    if kind == b"-":
        raise Failed(f"redis refuses: {rest}")
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return stream.read(int(rest) + 2)[:-2].decode("utf-8", "replace") if int(rest) >= 0 else None
    if kind == b"*":
        return [_resp(stream) for _ in range(int(rest))]
    return rest


class Memcached(Server):
    """-s turns TCP off, so the unix socket has a second process; here one of the two, as the row
    that is measured needs it."""

    system = "memcached"

    def __init__(self, folder, memory_bytes, cpu=None, threads=1, transport="tcp"):
        super().__init__(folder, memory_bytes, cpu, threads)
        self.transport = transport

    def start(self):
        memory = max(2, self.memory_bytes // MIB)
        # It takes no item limit above half of its memory.
        common = [shutil.which("memcached"), "-u", pwd.getpwuid(os.getuid()).pw_name,
                  "-I", f"{min(1024, memory // 2)}m", "-m", str(memory),
                  "-t", str(self.threads), "-c", "4000"]
        if self.transport == "unix":
            unix = self.path("memcached.sock")
            self._spawn(common + ["-s", unix])
            if not self._await_unix(unix):
                raise Failed(f"memcached ends at once: {self.child.errors()}")
            self.endpoints["unix"] = "unix://" + unix
        else:
            self._start_on_free_port(
                lambda port: common + ["-l", "127.0.0.1", "-p", str(port), "-U", "0"])
        return self


class Cistern(Server):
    """cisternd; `l2`: the Redis server behind it, or None."""

    system = "cistern"

    def __init__(self, folder, memory_bytes, cpu=None, threads=1, build="", l2=None, chunk_bytes=None):
        super().__init__(folder, memory_bytes, cpu, threads)
        self.build = build
        self.l2 = l2
        self.chunk_bytes = chunk_bytes
        self.admin = ""

    def _config(self):
        lines = [
            "server:",
            f'  listen: ["tcp://127.0.0.1:0", "unix://{self.path("cistern.sock")}"]',
            f"  workers: {self.threads}",
            'admin: {listen: "127.0.0.1:0"}',
            # What transfers and connections may take beside L1: room enough never to decide a row.
            f"memory: {{limit: {self.memory_bytes + self.memory_bytes // 4 + 2 * GIB}B}}",
            f"l1: {{max_bytes: {self.memory_bytes}B}}",
            "limits: {max_connections: 2048, max_streams_per_connection: 1024}",
        ]
        if self.chunk_bytes:
            lines.append(f"storage: {{chunk_bytes: {self.chunk_bytes}B}}")
        if self.l2 is not None:
            address = self.l2.endpoints["tcp"].replace("tcp://", "")
            lines += ["l2:", "  kind: redis", f'  redis: {{url: "redis://{address}/0"}}']
        return "\n".join(lines) + "\n"

    def start(self):
        with open(self.path("cistern.yaml"), "w", encoding="utf-8") as file:
            file.write(self._config())
        self._spawn([os.path.join(self.build, "bin", "cisternd"), "--config", self.path("cistern.yaml")])
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            events = self._events()
            if any(event["event"] == "ready" for event in events):
                for event in events:
                    if event["event"] == "listening":
                        self.endpoints[event["endpoint"].split(":", 1)[0]] = event["endpoint"]
                    elif event["event"] == "admin_listening":
                        self.admin = event["endpoint"].split("//")[-1]
                return self
            if not self.child.running():
                raise Failed(f"cisternd ends at once: {self.child.errors()}")
            time.sleep(0.01)
        raise Failed(f"cisternd is not ready after {START_SECONDS} s: {self.child.errors()}")

    def _events(self):
        """What it logged so far; the last line may not be whole yet."""
        events = []
        for line in machine.read(self.path("errors")).split("\n")[:-1]:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                events.append(event)
        return events

    def stats(self):
        with urllib.request.urlopen(f"http://{self.admin}/stats", timeout=10) as answer:
            return json.load(answer)


class Fleet(ExitStack):
    """Servers that are up together and end together, in reverse."""

    def add(self, server):
        self.callback(server.stop)
        return server.start()
