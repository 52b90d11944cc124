"""What goes on beside the load: Redis is troubled, memory is sampled, the daemon is asked."""

import os
import random
import signal
import threading
import time

SAMPLE_SECONDS = 0.05


class Trouble(threading.Thread):
    """Stops Redis for a moment, and cuts its connections, now and then."""

    def __init__(self, redis, seed, longest_seconds):
        super().__init__(daemon=True)
        self._redis = redis
        self._random = random.Random(seed)
        self._longest_seconds = longest_seconds
        self._over = threading.Event()
        self.freezes = 0
        self.cuts = 0

    def run(self):
        while not self._over.wait(self._random.uniform(1, 8)):
            if self._random.random() < 0.75:
                self._freeze(self._random.uniform(0.05, self._longest_seconds))
            else:
                self._redis.command("CLIENT", "KILL", "TYPE", "normal")
                self.cuts += 1

    def _freeze(self, seconds):
        os.kill(self._redis.child.pid, signal.SIGSTOP)
        try:
            self.freezes += 1
            self._over.wait(seconds)
        finally:
            os.kill(self._redis.child.pid, signal.SIGCONT)

    def stop(self):
        self._over.set()
        self.join()


class Watch(threading.Thread):
    """Samples memory used all the time, and asks for /stats once a second, into a file."""

    COLUMNS = ("seconds", "used_bytes", "highest_used_bytes", "resident_bytes", "chunk_live_bytes",
               "chunk_spare_bytes", "waiting", "items", "connections",
               "probe_worst_us")  # then the accounts

    def __init__(self, daemon, path):
        super().__init__(daemon=True)
        self._daemon = daemon
        self._over = threading.Event()
        self._began = time.monotonic()
        self._path = path
        self._accounts = []
        self.limit_bytes = daemon.stats()["memory"]["limit_bytes"]
        self.highest_bytes = 0
        self.highest_at = 0.0
        self.samples = 0
        self.samples_over = 0
        self.most_connections = 0
        self.slowest_stats = 0.0
        self.silent = 0  # how often /stats wasn't answered
        self.probe_worst_us = 0  # set by who reads the load's lines
        self.ended_at = None

    def seconds(self):
        return time.monotonic() - self._began

    def run(self):
        next_row = 0.0
        with open(self._path, "w", encoding="utf-8") as file:
            self._accounts = sorted(self._daemon.stats()["memory"]["accounted_bytes"])
            file.write(",".join(self.COLUMNS + tuple(self._accounts)) + "\n")
            highest = 0
            while not self._over.wait(SAMPLE_SECONDS):
                used = self._daemon.used_bytes()
                self._judge(used)
                highest = max(highest, used)
                if not self._daemon.child.running():
                    self.ended_at = self.seconds()
                    return
                if self.seconds() >= next_row:
                    next_row = self.seconds() + 1
                    self._write(file, used, highest)
                    highest = 0

    def _judge(self, used):
        self.samples += 1
        self.samples_over += used > self.limit_bytes
        if used > self.highest_bytes:
            self.highest_bytes, self.highest_at = used, self.seconds()

    def _write(self, file, used, highest):
        asked = time.monotonic()
        try:
            stats = self._daemon.stats()
        except (OSError, ValueError):
            self.silent += 1
            return
        self.slowest_stats = max(self.slowest_stats, time.monotonic() - asked)
        memory = stats["memory"]
        row = [f"{self.seconds():.2f}", used, highest, memory["resident_bytes"],
               memory["chunk_live_bytes"], memory["chunk_spare_bytes"],
               memory["transfers_waiting"], stats["l1"]["items"], stats["connections"],
               self.probe_worst_us]
        self.most_connections = max(self.most_connections, stats["connections"])
        row += [memory["accounted_bytes"].get(name, 0) for name in self._accounts]
        file.write(",".join(str(field) for field in row) + "\n")
        file.flush()

    def stop(self):
        self._over.set()
        self.join()
