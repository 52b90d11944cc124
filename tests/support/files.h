// Large files of random bytes or of text, made and compared piece by piece.
#pragma once

#include <cstdint>
#include <string>

namespace cistern::testing {

// `size` bytes that follow from `seed` alone and don't compress.
void make_random_file(const std::string& path, std::uint64_t size, std::uint64_t seed);
// The same of a log file's text, most of which compression saves.
void make_log_file(const std::string& path, std::uint64_t size, std::uint64_t seed);
// Empty when they are the same; else where they first differ.
std::string difference(const std::string& a, const std::string& b);
std::uint64_t size_of(const std::string& path);

}  // namespace cistern::testing
