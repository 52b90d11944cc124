"""One cistern-load process: one kind of load against one server."""

import json
import os
import subprocess

from .processes import Child, Failed

READY_SECONDS = 120
# Beside the time that a run was asked to take: what is under way may still have to arrive.
GRACE_SECONDS = 120


class Load:
    """Connected and ready once it exists. `config` as tests/bench/load describes it."""

    def __init__(self, build, folder, config, cpu=None, realtime=False):
        self.config = config
        binary = os.path.join(build, "bin", "cistern-load")
        self.child = Child([binary, json.dumps(config)], cpu, stdin=subprocess.PIPE,
                           errors=os.path.join(folder, f"load-{os.urandom(4).hex()}.errors"))
        try:
            self._answer(READY_SECONDS)
            if realtime:
                self.ask("realtime", 10)
        except BaseException:
            self.child.stop()
            raise

    def _answer(self, patience):
        line = self.child.read_line(patience)
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise Failed(f"cistern-load answered with no JSON: {line[:200]!r}") from error
        if "error" in answer:
            raise Failed(f"cistern-load: {answer['error']} (asked with {json.dumps(self.config)})")
        return answer

    def ask(self, command, patience):
        self.child.send(command)
        return self._answer(patience)

    def fill(self, first=None, last=None, patience=600):
        """Stores keys first .. last - 1, all without them; Failed when one was not stored."""
        answer = self.try_fill(first, last, patience)
        if answer["errors"] or answer["refused"]:
            raise Failed(f"filling {self.config['system']}: {answer['refused']} refused, "
                         f"{answer['errors']} errors, the first: {answer.get('first_error')}")
        return answer

    def try_fill(self, first=None, last=None, patience=600):
        return self.ask("fill" if first is None else f"fill {first} {last}", patience)

    def run(self, seconds):
        self.begin(seconds)
        return self.finish(seconds)

    def begin(self, seconds):
        self.child.send(f"run {seconds:g}")

    def ready(self, patience):
        """Whether the answer to begin() is there within `patience` seconds."""
        return self.child.has_line(patience)

    def finish(self, seconds):
        return self._answer(seconds + GRACE_SECONDS)

    def stop(self):
        if self.child.running():
            try:
                self.child.send("quit")
                self.child.process.wait(5)
            except (Failed, subprocess.TimeoutExpired):
                pass  # busy or gone: ended by its pid below
        self.child.stop()
