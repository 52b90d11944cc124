"""Child processes that never outlive the benchmark, whatever ends it."""

import ctypes
import os
import select
import signal
import subprocess
import time

STOP_SECONDS = 5
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Failed(RuntimeError):
    """A program did not do what the benchmark needs; the text says which, what, and what it wrote."""


class Child:
    """A started program. `cpu`: the one to run on, or None for all that this process may use."""

    def __init__(self, argv, cpu=None, cgroup=None, stdin=None, errors=None):
        self.argv = argv
        self.name = os.path.basename(argv[0])
        self.errors_path = errors
        self._pending = b""
        self._lines = []
        with open(errors or os.devnull, "wb") as error_file:
            self.process = subprocess.Popen(
                argv, stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=error_file,
                preexec_fn=lambda: _prepare(cpu, cgroup))
        os.set_blocking(self.process.stdout.fileno(), False)

    @property
    def pid(self):
        return self.process.pid

    def running(self):
        return self.process.poll() is None

    def errors(self):
        """The end of what it wrote to standard error."""
        if not self.errors_path:
            return ""
        with open(self.errors_path, "rb") as file:
            return file.read()[-2000:].decode("utf-8", "replace").strip()

    def send(self, line):
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise Failed(f"{self.name} ended before it was told {line!r}: {self.errors()}") from error

    def has_line(self, patience):
        """Whether a line of its standard output comes within `patience` seconds; Failed at its end."""
        deadline = time.monotonic() + patience
        while not self._lines:
            ready, _, _ = select.select([self.process.stdout], [], [],
                                        max(0.0, deadline - time.monotonic()))
            if not ready:
                return False
            got = os.read(self.process.stdout.fileno(), 1 << 16)
            if not got:
                raise Failed(f"{self.name} (pid {self.pid}) ended with status "
                             f"{self.process.wait(5)}: {self.errors() or 'it wrote nothing'}")
            *whole, self._pending = (self._pending + got).split(b"\n")
            self._lines += [line.decode("utf-8", "replace") for line in whole]
        return True

    def read_line(self, patience):
        """The next line of its standard output; Failed after `patience` seconds or at its end."""
        if not self.has_line(patience):
            raise Failed(f"{self.name} (pid {self.pid}) said nothing for {patience:g} s; it was "
                         f"started as {' '.join(self.argv)[:400]}. {self.errors()}")
        return self._lines.pop(0)

    def stop(self, asks=True):
        """Ends it by its pid: asked first (unless there is nothing that it would have to save), then
        made to. Safe to repeat."""
        if self.running():
            try:
                if asks:
                    self.process.send_signal(signal.SIGTERM)
                    self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass  # what was left to write has no reader any more


def _prepare(cpu, cgroup):
    """In the child, between fork and exec. The signal ends it even when this process is killed."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Ctrl-C goes to the whole group of a terminal; the servers are ended in order instead.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if cgroup is not None:
        cgroup.join()
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
