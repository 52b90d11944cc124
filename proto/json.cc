#include "proto/json.h"

#include <cstring>

namespace cistern::proto {
namespace {

// A recursive descent whose depth is bounded. Every function reads one thing and says whether it
// was there.
class Checker {
 public:
  explicit Checker(std::string_view text) : text_(text) {}

  bool whole_object() {
    blanks();
    if (!at('{') || !value(0)) return false;
    blanks();
    return text_.empty();
  }

 private:
  bool at(char c) const { return !text_.empty() && text_.front() == c; }
  bool take(char c) {
    if (!at(c)) return false;
    text_.remove_prefix(1);
    return true;
  }
  bool take(std::string_view word) {
    if (!text_.starts_with(word)) return false;
    text_.remove_prefix(word.size());
    return true;
  }
  void blanks() {
    while (!text_.empty() && std::strchr(" \t\r\n", text_.front()) != nullptr &&
           text_.front() != '\0') {
      text_.remove_prefix(1);
    }
  }

  bool value(unsigned depth) {
    if (depth > kMaxJsonDepth) return false;
    if (at('{')) return members(depth, '{', '}');
    if (at('[')) return members(depth, '[', ']');
    if (at('"')) return string();
    return take("true") || take("false") || take("null") || number();
  }

  bool members(unsigned depth, char open, char close) {
    take(open);
    blanks();
    if (take(close)) return true;
    do {
      blanks();
      if (open == '{') {
        if (!string()) return false;
        blanks();
        if (!take(':')) return false;
        blanks();
      }
      if (!value(depth + 1)) return false;
      blanks();
    } while (take(','));
    return take(close);
  }

  bool digits() {
    std::size_t count = 0;
    while (count < text_.size() && text_[count] >= '0' && text_[count] <= '9') ++count;
    text_.remove_prefix(count);
    return count > 0;
  }

  bool number() {
    take('-');
    if (!take('0') && !digits()) return false;
    if (take('.') && !digits()) return false;
    if (!take('e') && !take('E')) return true;
    if (!take('+')) take('-');
    return digits();
  }

  bool string() {
    if (!take('"')) return false;
    while (!text_.empty()) {
      if (take('"')) return true;
      if (take('\\') ? !escape() : !character()) return false;
    }
    return false;
  }

  bool escape() {
    if (text_.empty()) return false;
    const char kind = text_.front();
    text_.remove_prefix(1);
    if (kind != 'u') return kind != '\0' && std::strchr("\"\\/bfnrt", kind) != nullptr;
    unsigned unit = 0;
    if (!hex4(unit)) return false;
    if (unit >= 0xDC00 && unit <= 0xDFFF) return false;  // the second half of a pair alone
    if (unit < 0xD800 || unit > 0xDBFF) return true;
    unsigned second = 0;
    return take("\\u") && hex4(second) && second >= 0xDC00 && second <= 0xDFFF;
  }

  bool hex4(unsigned& unit) {
    if (text_.size() < 4) return false;
    for (const char c : text_.substr(0, 4)) {
      const bool digit = c >= '0' && c <= '9';
      const char low = static_cast<char>(c | 0x20);
      if (!digit && (low < 'a' || low > 'f')) return false;
      unit = unit * 16 + static_cast<unsigned>(digit ? c - '0' : low - 'a' + 10);
    }
    text_.remove_prefix(4);
    return true;
  }

  // One character of UTF-8 that may stand in a string as it is.
  bool character() {
    const auto byte = [this](std::size_t i) { return static_cast<unsigned char>(text_[i]); };
    const unsigned lead = byte(0);
    if (lead < 0x20) return false;
    std::size_t size = 1;
    unsigned least = 0x80;    // bounds of the second byte, which exclude overlong forms,
    unsigned largest = 0xBF;  // surrogates and what lies past U+10FFFF
    if (lead >= 0x80) {
      if (lead < 0xC2 || lead > 0xF4) return false;
      size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
      if (lead == 0xE0) least = 0xA0;
      if (lead == 0xED) largest = 0x9F;
      if (lead == 0xF0) least = 0x90;
      if (lead == 0xF4) largest = 0x8F;
    }
    if (text_.size() < size) return false;
    for (std::size_t i = 1; i < size; ++i) {
      if (byte(i) < least || byte(i) > largest) return false;
      least = 0x80;
      largest = 0xBF;
    }
    text_.remove_prefix(size);
    return true;
  }

  std::string_view text_;
};

}  // namespace

bool is_json_object(Bytes text) { return Checker(as_text(text)).whole_object(); }

}  // namespace cistern::proto
