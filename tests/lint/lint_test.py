#!/usr/bin/env python3
"""The linter's own tests: each rule on text that breaks it, and on text that does not."""

import os
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lint import findings  # noqa: E402
from sources import Source, blank  # noqa: E402


def messages(path, text):
    return [f"{line}: {message}" for _, line, message in sorted(findings(Source(path, text)))]


class Includes(unittest.TestCase):
    def include(self, path, header):
        start = "// What it is.\n#pragma once\n" if path.endswith(".h") else ""
        return messages(path, f"{start}#include {header}\n")

    def test_direction(self):
        for path, header in [
                ("proto/a.h", '"server/base/types.h"'), ("proto/a.cc", '"config/config.h"'),
                ("config/a.cc", '"server/base/types.h"'), ("server/base/a.h", '"server/l1/cache.h"'),
                ("server/l1/a.cc", '"server/l2/store.h"'), ("codec/a.cc", '"server/base/types.h"'),
                ("proto/a.cc", '"codec/zstd.h"'), ("server/l2/a.cc", '"server/l1/cache.h"'),
                ("server/l2/a.cc", '"server/net/x.h"'), ("server/service/a.cc", '"server/net/x.h"'),
                ("server/net/a.cc", '"server/l1/cache.h"'), ("server/net/a.cc", '"config/config.h"'),
                ("client/cpp/a.cc", '"server/base/types.h"'), ("client/cli/a.cc", '"config/x.h"'),
                ("client/cpp/a.cc", '"client/cli/x.h"'), ("server/base/a.cc", '"config/config.h"')]:
            with self.subTest(path=path, header=header):
                found = self.include(path, header)
                self.assertEqual(len(found), 1, found)
                self.assertIn("must not include", found[0])
        for path, header in [
                ("proto/a.cc", '"proto/limits.h"'), ("config/a.cc", '"proto/limits.h"'),
                ("server/l2/a.cc", '"server/base/types.h"'), ("server/l2/a.cc", '"codec/zstd.h"'),
                ("client/cpp/a.cc", '"codec/zstd.h"'), ("server/main.cc", '"config/config.h"'),
                ("server/main.cc", '"server/net/x.h"'), ("client/cli/a.cc", '"client/cpp/client.h"'),
                ("tests/unit/l1_cache_test.cc", '"server/l1/cache.h"')]:
            with self.subTest(path=path, header=header):
                self.assertEqual(self.include(path, header), [])

    def test_paths_begin_at_the_root(self):
        self.assertIn("path from the root", self.include("proto/a.cc", '"limits.h"')[0])
        self.assertIn("path from the root", self.include("proto/a.cc", '"../proto/limits.h"')[0])

    def test_libraries(self):
        for path, header in [
                ("server/service/a.cc", "<asio.hpp>"), ("proto/a.h", "<asio/buffer.hpp>"),
                ("server/net/a.cc", "<hiredis/hiredis.h>"), ("server/l2/a.cc", "<zstd.h>"), ("server/base/a.cc", "<yaml-cpp/yaml.h>"),
                ("server/net/a.cc", "<prometheus/registry.h>"), ("server/main.cc", "<httplib.h>"),
                ("client/cpp/a.cc", "<spdlog/spdlog.h>"), ("config/a.cc", "<CLI/CLI.hpp>")]:
            with self.subTest(path=path, header=header):
                found = self.include(path, header)
                self.assertEqual(len(found), 1, found)
                self.assertIn("alone", found[0])
        for path, header in [
                ("server/net/a.cc", "<asio.hpp>"), ("server/l2/a.cc", "<hiredis/async.h>"),
                ("config/a.cc", "<yaml-cpp/yaml.h>"), ("server/admin/a.cc", "<httplib.h>"),
                ("client/cpp/a.cc", "<asio/ip/tcp.hpp>"), ("proto/a.cc", "<vector>")]:
            with self.subTest(path=path, header=header):
                self.assertEqual(self.include(path, header), [])


class Lengths(unittest.TestCase):
    def test_file(self):
        self.assertEqual(messages("proto/a.cc", "int x;\n" * 450), [])
        self.assertEqual(messages("tests/fuzz/a.cc", "int x;\n" * 500), [])
        self.assertIn("501 lines", messages("tests/fuzz/a.cc", "int x;\n" * 501)[0])
        self.assertIn("451 lines, at most 450", messages("proto/a.cc", "int x;\n" * 451)[0])

    def test_function(self):
        def function(indent, lines):
            body = f"{indent}  call();\n" * (lines - 2)
            return f"{indent}void f() {{\n{body}{indent}}}\n"

        self.assertEqual(messages("proto/a.cc", function("", 80)), [])
        self.assertEqual(messages("proto/a.cc", function("", 81)),
                         ["1: a function of 81 lines, at most 80"])
        in_class = "class A {\n public:\n" + function("  ", 81) + "};\n"
        self.assertEqual(messages("proto/a.cc", in_class), ["3: a function of 81 lines, at most 80"])
        table = "const int kTable[] = {\n" + "    1,\n" * 100 + "};\n"
        self.assertEqual(messages("proto/a.cc", "namespace {\n" + table + "}  // namespace\n"), [])
        namespace = "namespace n {\n" + function("", 60) + function("", 60) + "}  // namespace n\n"
        self.assertEqual(messages("proto/a.cc", namespace), [])


class Text(unittest.TestCase):
    def test_white_space(self):
        self.assertIn("1: a tab", messages("README.md", "a\tb\n"))
        self.assertIn("1: spaces or a carriage return", messages("README.md", "a \n")[0])
        self.assertIn("1: spaces or a carriage return", messages("README.md", "a\r\n")[0])
        self.assertIn("2: the last line has no end", messages("README.md", "a\nb"))

    def test_unfinished(self):
        for text in ["// TODO: x", "# fixme", "not yet implemented", "a placeholder", "only a stub"]:
            self.assertIn("unfinished", messages("deploy/a", text + "\n")[0])
        self.assertEqual(messages("deploy/a", "stubborn, todos\n"), [])

    def test_names(self):
        self.assertIn("snake_case", messages("proto/FrameReader.cc", "int x;\n")[0])
        self.assertIn("<folder>_<file>_test.cc", messages("tests/unit/frames_test.cc", "int x;\n")[0])
        self.assertEqual(messages("tests/unit/proto_frames_test.cc", "int x;\n"), [])

    def test_headers(self):
        self.assertIn("#pragma once", messages("proto/a.h", "// What it is.\nint x;\n")[0])
        self.assertIn("begins with a comment", messages("proto/a.h", "#pragma once\n")[0])

    def test_tests(self):
        path = "tests/integration/a_test.cc"
        self.assertIn("a sleep", messages(path, "std::this_thread::sleep_for(1s);\n")[0])
        self.assertEqual(messages(path, "sleep_for(1s);  // the pace of a slow reader\n"), [])
        self.assertEqual(messages(path, "// Nothing follows.\nsleep_for(1s);\n"), [])
        self.assertIn("cannot fail", messages(path, "TEST(A, DISABLED_B) {}\n")[0])
        self.assertEqual(messages("tests/support/wait.cc", "std::this_thread::sleep_for(1ms);\n"), [])

    def test_blanking(self):
        text = 'a /* b\nc */ "d \\" //" e // f\ng \'"\' h R"x(i " )y")x" 1\'000 j'
        self.assertEqual(blank(text).split(), ["a", "e", "g", "h", "1'000", "j"])
        self.assertEqual(len(blank(text)), len(text))
        self.assertEqual(blank(text).count("\n"), text.count("\n"))


class Coroutines(unittest.TestCase):
    def awaits(self, statement):
        return messages("client/cpp/a.cc", f"awaitable<void> f() {{\n  {statement}\n}}\n")

    def test_conditions(self):
        for statement in [
                "if (co_await f(x)) return;", "while (co_await f(x)) {}",
                "if (const bool ok = co_await f(x); !ok) return;", "for (; co_await f(x);) {}",
                "const bool ok = !co_await f(x);", "const bool ok = a && co_await f(x);",
                "const bool ok = co_await f(x) == 3;", "const int n = co_await f(x) ? 1 : 2;",
                "g(co_await f(x));", "co_return 1 + co_await f(x);",
                "switch (co_await f(x)) {}", "const bool ok = (co_await f(x)).has_value();"]:
            with self.subTest(statement=statement):
                self.assertTrue(self.awaits(statement))

    def test_temporaries(self):
        for statement in [
                "co_await f(Options{1, text});", "co_await f({1, 2});",
                "auto x = co_await f([this] { return 1; });", "co_await f([=]() { g(); }, token);",
                "auto x = co_await f(a,\n                   Head{.key = key});"]:
            with self.subTest(statement=statement):
                self.assertTrue(any("name it first" in m for m in self.awaits(statement)))

    def test_what_is_right(self):
        for statement in [
                "co_await f(x);", "auto x = co_await f(x);", "const bool ok = co_await f(x);",
                "co_return co_await f(x);", "x = co_await f(g(1), asio::use_awaitable);",
                "auto [error, n] = co_await socket.async_read_some(buffer, token);",
                "if (a == b) co_await f(x);", "if (x) {\n    co_await f(x);\n  }",
                "const Result<int> r = co_await f(x);", "this->x_ = co_await f(x);",
                "co_await f([] { return 1; });", "(void)co_await f(x);",
                "std::vector<std::pair<int, int>> v = co_await f(x);",
                "// if (co_await f(x)) g();", 'auto t = co_await f("a {", x);']:
            with self.subTest(statement=statement):
                self.assertEqual(self.awaits(statement), [])

    def test_places(self):
        self.assertIn("for the client alone", messages("server/net/a.cc", "co_return;\n")[0])
        self.assertIn("hides", messages("client/cpp/a.cc", "asio::co_spawn(c, f(), detached);\n")[0])


if __name__ == "__main__":
    unittest.main()
