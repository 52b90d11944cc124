"""What the checks read: the project's files, and C++ text with comments and strings blanked."""

import os
import re
import subprocess

CODE_ENDINGS = (".cc", ".h", ".def")


class Source:
    """A text file: its path from the root (with '/'), its text and lines."""

    def __init__(self, path, text):
        self.path = path
        self.text = text
        self.lines = text.split("\n")
        if self.lines and self.lines[-1] == "":
            self.lines.pop()

    @property
    def is_code(self):
        return self.path.endswith(CODE_ENDINGS)

    @property
    def is_bash(self):
        return bool(self.lines) and re.match(r"#!.*\bbash\b", self.lines[0]) is not None

    @property
    def is_python(self):
        return self.path.endswith(".py")

    def code(self):
        """The text without comments and without what literals hold; of the same length and lines."""
        return blank(self.text)


# Comments, raw strings, strings and characters, in the order in which they must be tried. A quote
# between digits is a separator (1'000), not a character.
_LITERALS = re.compile(
    r"//[^\n]*|/\*.*?\*/"
    r"|R\"(?P<mark>[^(\s]*)\(.*?\)(?P=mark)\""
    r"|\"(?:\\.|[^\"\\\n])*\""
    r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'",
    re.DOTALL,
)


def blank(text):
    def spaces(match):
        return re.sub(r"[^\n]", " ", match.group(0))

    return _LITERALS.sub(spaces, text)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def project_files(root):
    """Paths of all files that belong to the project: what git knows or would add, else all."""
    try:
        listed = subprocess.run(
            ["git", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            check=True, capture_output=True, text=True).stdout
        paths = [path for path in listed.split("\0") if path]
        if paths:
            return sorted(set(paths))
    except (OSError, subprocess.CalledProcessError):
        pass
    paths = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in (".git", "build", "__pycache__")]
        paths += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return sorted(path.replace(os.sep, "/") for path in paths)


def read_project(root):
    sources = []
    for path in project_files(root):
        full = os.path.join(root, path)
        if not os.path.isfile(full):
            continue
        with open(full, "rb") as file:
            data = file.read()
        if b"\0" in data:
            continue
        sources.append(Source(path, data.decode("utf-8")))
    return sources
