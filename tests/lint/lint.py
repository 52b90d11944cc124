#!/usr/bin/env python3
"""Checks the whole project against its own rules. Prints path:line: message; exit status 1 when
there is anything to print.

    lint.py [ROOT]
"""

import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from rules import CHECKS  # noqa: E402
from sources import read_project  # noqa: E402


def findings(source):
    return [(source.path, line, message) for check in CHECKS for line, message in check(source)]


def main(arguments):
    here = os.path.dirname(os.path.abspath(__file__))
    root = arguments[1] if len(arguments) > 1 else os.path.join(here, "..", "..")
    sources = read_project(root)
    found = sorted(finding for source in sources for finding in findings(source))
    for path, line, message in found:
        print(f"{path}:{line}: {message}")
    print(f"{len(sources)} files, {len(found)} findings")
    return 1 if found or not sources else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
