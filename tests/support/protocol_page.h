// proto/PROTOCOL.md as data: its tables and its exchanges.
#pragma once

#include <cstdint>
#include <fstream>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/support/proto_wire.h"

namespace cistern::testing {

// One frame of an exchange. A byte that isn't compared is empty.
struct PageFrame {
  bool from_client = false;
  int line = 0;  // of the page
  std::vector<std::optional<std::byte>> bytes{};
  bool open_end = false;  // any bytes may follow, to the end of the frame

  bool matches(const Buffer& frame) const {
    if (open_end ? frame.size() < bytes.size() : frame.size() != bytes.size()) return false;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (bytes[i] && *bytes[i] != frame[i]) return false;
    }
    return true;
  }
  // Of a client's frame, in which every byte is given.
  Buffer whole() const {
    Buffer out;
    for (const auto& byte : bytes) out.push_back(byte.value());
    return out;
  }
};

struct Exchange {
  std::string name;
  std::vector<PageFrame> frames;
};

// The value of the examples: the byte at offset i is i mod 251.
inline Buffer page_value(std::size_t size) {
  Buffer value(size);
  for (std::size_t i = 0; i < size; ++i) value[i] = static_cast<std::byte>(i % 251);
  return value;
}

class ProtocolPage {
 public:
  explicit ProtocolPage(const std::string& path) {
    std::ifstream file(path);
    if (!file) throw std::runtime_error("cannot read " + path);
    for (std::string line; std::getline(file, line);) lines_.push_back(line);
  }

  // The cells of every row of the tables whose head is this, head and rule left out.
  std::vector<std::vector<std::string>> table(const std::string& head) const {
    std::vector<std::vector<std::string>> rows;
    for (std::size_t i = 0; i < lines_.size(); ++i) {
      if (lines_[i] != head) continue;
      for (i += 2; i < lines_.size() && lines_[i].starts_with("|"); ++i) {
        rows.push_back(cells(lines_[i]));
      }
    }
    return rows;
  }

  std::vector<Exchange> exchanges() const {
    static const std::string fence = "```exchange ";
    std::vector<Exchange> all;
    for (std::size_t i = 0; i < lines_.size(); ++i) {
      if (!lines_[i].starts_with(fence)) continue;
      all.push_back({lines_[i].substr(fence.size()), {}});
      for (++i; lines_[i] != "```"; ++i) add_line(all.back(), i);
    }
    return all;
  }

 private:
  static std::vector<std::string> cells(const std::string& row) {
    std::vector<std::string> all;
    std::istringstream text(row.substr(1));
    for (std::string cell; std::getline(text, cell, '|');) {
      const std::size_t from = cell.find_first_not_of(' ');
      const std::size_t to = cell.find_last_not_of(' ');
      all.push_back(from == std::string::npos ? "" : cell.substr(from, to - from + 1));
    }
    return all;
  }

  void add_line(Exchange& exchange, std::size_t at) const {
    std::string line = lines_[at].substr(0, lines_[at].find('#'));
    if (line.starts_with("C:") || line.starts_with("S:")) {
      exchange.frames.push_back({.from_client = line[0] == 'C', .line = static_cast<int>(at) + 1});
      line = line.substr(2);
    }
    PageFrame& frame = exchange.frames.at(exchange.frames.size() - 1);
    std::istringstream text(line);
    for (std::string word; text >> word;) {
      if (word == "**") {
        frame.open_end = true;
      } else if (word == "..") {
        frame.bytes.push_back(std::nullopt);
      } else if (word.starts_with("<")) {
        std::size_t end = 0;
        const std::size_t from = std::stoul(word.substr(1), &end);
        const std::size_t to = std::stoul(word.substr(1 + end + 2));
        const Buffer value = page_value(to + 1);
        for (std::size_t i = from; i <= to; ++i) frame.bytes.push_back(value[i]);
      } else {
        frame.bytes.push_back(static_cast<std::byte>(std::stoul(word, nullptr, 16)));
      }
    }
  }

  std::vector<std::string> lines_;
};

// Plays the client's part of the page against a server on one connection and compares what the
// server answers. The server's CREDIT may come in other frames than the page shows; the client
// sends DATA once it has credit for it.
template <typename Connection>  // send(Buffer), and receive(): the next frame, or nothing
class Replay {
 public:
  explicit Replay(Connection& connection) : connection_(connection) {}

  // What went wrong, or nothing.
  std::optional<std::string> play(const Exchange& exchange) {
    for (const PageFrame& frame : exchange.frames) {
      const bool sent_or_seen = frame.from_client ? send(frame) : expect(frame);
      if (!sent_or_seen) {
        return exchange.name + ", line " + std::to_string(frame.line) + ": " + problem_;
      }
    }
    return std::nullopt;
  }

 private:
  bool send(const PageFrame& frame) {
    const Buffer bytes = frame.whole();
    const proto::FrameHeader header = proto::decode_header(bytes.data());
    if (header.length != bytes.size() - proto::kHeaderBytes) {
      problem_ = "the length of the client's frame is wrong";
      return false;
    }
    if (header.type == static_cast<std::uint8_t>(proto::Type::kData)) {
      const std::size_t digest = header.flags != 0 ? proto::kChunkDigestBytes : 0;
      const std::size_t value_bytes = header.length - digest;
      while (credit_ < value_bytes) {
        const std::optional<Frame> more = connection_.receive();
        if (!more || !take_credit(*more)) {
          problem_ = "no credit for the client's DATA";
          return false;
        }
      }
      credit_ -= value_bytes;
    }
    connection_.send(bytes);
    return true;
  }

  bool expect(const PageFrame& frame) {
    const bool is_credit = frame.bytes.at(4) == static_cast<std::byte>(proto::Type::kCredit);
    for (;;) {
      const std::optional<Frame> got = connection_.receive();
      if (!got) {
        problem_ = "the server sent nothing";
        return false;
      }
      if (take_credit(*got) && !is_credit) continue;
      if (frame.matches(got->bytes())) return true;
      problem_ = "the server sent " + proto::to_hex(Bytes(got->bytes()));
      return false;
    }
  }

  bool take_credit(const Frame& frame) {
    if (!frame.is(proto::Type::kCredit)) return false;
    credit_ += proto::load_le<std::uint32_t>(frame.payload.data());
    return true;
  }

  Connection& connection_;
  std::uint64_t credit_ = 0;
  std::string problem_;
};

}  // namespace cistern::testing
