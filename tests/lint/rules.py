"""The checks. Each takes a Source and yields (line, message)."""

import re

from sources import line_of

# ---- The direction of includes -------------------------------------------------------------------

# A part, and the parts of which it may include headers. The first prefix that fits a path is its
# part, so the longer ones stand first.
PARTS = {
    "proto": ["proto"],
    "codec": ["codec", "proto"],
    "config": ["config", "proto"],
    "server/base": ["server/base", "codec", "proto"],
    "server/l1": ["server/l1", "server/base", "proto"],
    "server/l2": ["server/l2", "server/base", "codec", "proto"],
    "server/service": ["server/service", "server/l1", "server/l2", "server/base", "proto"],
    "server/admin": ["server/admin", "server/service", "server/l1", "server/l2", "server/base",
                     "codec", "proto"],
    "server/net": ["server/net", "server/service", "server/base", "proto"],
    "server": ["server", "config", "proto"],
    "client/cpp": ["client/cpp", "codec", "proto"],
    "client/cli": ["client/cli", "client/cpp", "proto"],
}

# Headers of libraries, and the parts that may include them. Others are free to all.
LIBRARIES = {
    r"asio(\.hpp|/)": ["server/net", "server/l2", "client/cpp", "client/cli"],
    r"hiredis/": ["server/l2"],
    r"libmemcached/": ["server/l2"],
    r"yaml-cpp/": ["config"],
    r"prometheus/": ["server/admin"],
    r"httplib\.h": ["server/admin"],
    r"CLI/": ["server", "client/cli"],
    r"spdlog/": ["server", "server/base", "server/l1", "server/l2", "server/service",
                 "server/admin", "server/net"],
    r"jemalloc/": ["server", "server/base", "server/admin"],
    r"zstd\.h": ["codec"],
    r"xxhash\.h": ["proto", "server/base", "server/l2"],
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def part_of(path):
    fitting = [part for part in PARTS if path.startswith(part + "/")]
    return max(fitting, key=len) if fitting else None


def check_includes(source):
    part = part_of(source.path)
    if not source.is_code or part is None:
        return
    for number, line in enumerate(source.lines, 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quote, header = match.groups()
        other = part_of(header)
        if quote == '"' and other is None:
            yield number, f'"{header}" is no header of a part; write the path from the root'
        elif other is not None and not any(header.startswith(seen + "/") for seen in PARTS[part]):
            yield number, f"{part} must not include {other}"
        for pattern, allowed in LIBRARIES.items():
            if quote == "<" and re.match(pattern, header) and part not in allowed:
                yield number, f"<{header}> is for {', '.join(allowed)} alone"


# ---- Lengths -------------------------------------------------------------------------------------

# The style asks for about 400 and about 70; past these it is no longer "about".
MAX_FILE_LINES = 450
MAX_TEST_LINES = 500  # tables and cases side by side
MAX_FUNCTION_LINES = 80


def check_file_length(source):
    if not (source.is_code or source.is_bash or source.is_python):
        return
    limit = MAX_TEST_LINES if source.path.startswith("tests/") else MAX_FILE_LINES
    if len(source.lines) > limit:
        yield 1, f"{len(source.lines)} lines, at most {limit}: what is the second thing it does?"


NO_FUNCTION = re.compile(
    r"\s*((public|private|protected|default|case)\b|(inline )?namespace\b"
    r"|(template <.*> *)?(class|struct|enum|union)\b[^()]*$)")


def check_function_length(source):
    """Blocks that close in the first column or, inside of a class, after two spaces."""
    if not source.is_code:
        return
    begins = {"": None, "  ": None}
    for number, line in enumerate(source.code().split("\n"), 1):
        for indent, begin in begins.items():
            if re.match(indent + r"[A-Za-z_~]", line):
                begins[indent] = None if NO_FUNCTION.match(line) else number
            elif re.match(indent + r"};?", line):
                length = number - begin + 1 if begin is not None else 0
                if length > MAX_FUNCTION_LINES and line.strip() == "}":
                    yield begin, f"a function of {length} lines, at most {MAX_FUNCTION_LINES}"
                begins[indent] = None


# ---- Text ----------------------------------------------------------------------------------------

UNFINISHED = re.compile(
    r"\b(TODO|FIXME|XXX|HACK)\b|\bnot (yet )?implemented\b|\bplaceholder\b|\bstub(bed|s)?\b",
    re.IGNORECASE)


def check_text(source):
    if source.text and not source.text.endswith("\n"):
        yield len(source.lines), "the last line has no end"
    for number, line in enumerate(source.lines, 1):
        if line != line.rstrip():
            yield number, "spaces or a carriage return at the end of the line"
        if "\t" in line:
            yield number, "a tab"
        match = UNFINISHED.search(line)
        if match and not source.path.startswith("tests/lint/"):
            yield number, f"'{match.group(0)}' speaks of unfinished work"


def check_names(source):
    if not source.is_code:
        return
    if not re.fullmatch(r"(?:[a-z0-9_]+/)*[a-z0-9_]+\.(cc|h|def)", source.path):
        yield 1, "names of files and folders are snake_case"
    if source.path.startswith(("tests/unit/", "tests/model/")):
        folders = "proto|codec|config|base|l1|l2|service|net|admin|client"
        name = source.path.split("/")[-1]
        if name.endswith(".cc") and not re.fullmatch(rf"({folders})_[a-z0-9_]+_test\.cc", name):
            yield 1, "a test is called <folder>_<file>_test.cc, or CMake does not find it"


def check_header(source):
    if not source.path.endswith(".h"):
        return
    if not source.lines or not source.lines[0].startswith("//"):
        yield 1, "a header begins with a comment that says what it is for"
    if source.lines.count("#pragma once") != 1:
        yield 1, "a header has #pragma once"


# ---- Coroutines and handlers ---------------------------------------------------------------------


def check_places_of_coroutines(source):
    """The server is made of callbacks: g++ 12 miscompiles some coroutines."""
    if not source.is_code or not source.path.startswith(("server/", "proto/", "config/")):
        return
    code = source.code()
    for match in re.finditer(r"\bco_(await|return|yield)\b", code):
        yield line_of(code, match.start()), "coroutines are for the client alone"


def check_detached(source):
    if not source.is_code or source.path.startswith("tests/"):
        return
    code = source.code()
    for match in re.finditer(r"\bdetached\b", code):
        yield (line_of(code, match.start()),
               "detached hides a coroutine's exception; give it a handler that reports")


# What may stand before co_await in its statement: nothing, a declaration or assignment, co_return.
BEFORE_AWAIT = re.compile(r"\s*(co_return\s+|\(void\)\s*|[\w:<>,&*\s\[\].()\->]*[\w\]>&*]\s*=\s*)?")


def check_await(source):
    """g++ 12.2 miscompiles two shapes. co_await inside a condition or comparison when the
    coroutine's outermost block declares nothing; a braced aggregate or a capturing lambda as a
    temporary inside a co_await expression. Name the argument first, bind the result to a local."""
    if not source.is_code:
        return
    code = source.code()
    for match in re.finditer(r"\bco_await\b", code):
        number = line_of(code, match.start())
        begin = max(code.rfind(mark, 0, match.start()) for mark in ";{}") + 1
        before = re.sub(r"^\s*(else|do|(public|private|protected):|default:|case [^:]*:)\s*", "",
                        code[begin:match.start()])
        if is_in_condition(code, match.start()):
            yield number, "co_await inside of a condition; bind its result to a local first"
            continue
        # `if (x) co_await f();`: the statement begins after the condition.
        before = re.sub(r"^\s*(if|while|for)\s*(constexpr\s*)?\((?:[^()]|\([^()]*\))*\)\s*", "",
                        before)
        if not BEFORE_AWAIT.fullmatch(before):
            yield number, "co_await inside of a larger expression; bind its result to a local first"
        expression, is_compared = awaited(code, match.end())
        if is_compared:
            yield number, "the result of co_await is compared; bind it to a local first"
        without_plain_lambdas = re.sub(r"\[\s*\]\s*(\([^()]*\))?\s*\{", "(", expression)
        if "{" in without_plain_lambdas:
            yield number, ("a braced temporary or a capturing lambda inside of co_await; "
                           "name it first")


def is_in_condition(code, at):
    """Whether the nearest bracket that is open at `at` belongs to if, while, for or switch."""
    depth = 0
    while at > 0:
        at -= 1
        if code[at] in "{}":
            return False
        if code[at] == ")":
            depth += 1
        elif code[at] == "(":
            depth -= 1
            if depth < 0:
                return re.search(r"\b(if|while|for|switch)\s*(constexpr\s*)?$", code[:at]) is not None
    return False


def awaited(code, begin):
    """The operand that begins at `begin`, up to the end of its statement or to an operator outside
    of brackets, and whether it was such an operator that ended it."""
    depth = 0
    for at in range(begin, len(code)):
        char = code[at]
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth < 0:
                return code[begin:at], False
        elif depth == 0:
            if char == ";":
                return code[begin:at], False
            if re.match(r"==|!=|&&|\|\||\?|<=|>=", code[at:at + 2]):
                return code[begin:at], True
    return code[begin:], False


# ---- Tests ---------------------------------------------------------------------------------------


def check_tests(source):
    if not source.is_code or not source.path.startswith("tests/"):
        return
    code = source.code()
    for match in re.finditer(r"\bDISABLED_|\bEXPECT_TRUE\(true\)|\bSUCCEED\(\)", code):
        yield line_of(code, match.start()), f"{match.group(0)}: a test that cannot fail"
    if source.path.startswith("tests/support/"):
        return
    for match in re.finditer(r"\b(sleep_for|sleep_until|usleep)\b", code):
        number = line_of(code, match.start())
        reason = "".join(source.lines[max(number - 2, 0):number])
        if "//" not in reason:
            yield number, "a sleep without a reason beside it; wait for the event (tests/support)"


CHECKS = [
    check_includes, check_file_length, check_function_length, check_text, check_names, check_header,
    check_places_of_coroutines, check_detached, check_await, check_tests,
]
