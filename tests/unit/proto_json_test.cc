#include <string>

#include <gtest/gtest.h>

#include "proto/json.h"

namespace cistern::proto {
namespace {

TEST(Json, TakesObjects) {
  for (const std::string text :
       {R"({})", R"( {"a" : 1 , "b":[true,false,null,-0.5e+3,"x\u00e9\n"]} )", R"({"a":{"a":{}}})",
        R"({"":0})", "{\"k\":\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\"}",
        R"({"k":"\ud83d\ude00"})"}) {
    EXPECT_TRUE(is_json_object(as_bytes(text))) << text;
  }
}

TEST(Json, RefusesWhatIsNoObject) {
  for (const std::string text : {"",
                                 " ",
                                 "1",
                                 "[]",
                                 "null",
                                 "\"x\"",
                                 "{",
                                 "}",
                                 "{}{}",
                                 "{} x",
                                 "{a:1}",
                                 "{\"a\"}",
                                 "{\"a\":}",
                                 "{\"a\":1,}",
                                 "{,}",
                                 "{\"a\":01}",
                                 "{\"a\":1.}",
                                 "{\"a\":.5}",
                                 "{\"a\":1e}",
                                 "{\"a\":+1}",
                                 "{\"a\":-}",
                                 "{\"a\":nul}",
                                 "{\"a\":\"x}",
                                 "{\"a\":\"\\x\"}",
                                 "{\"a\":\"\\u12g4\"}",
                                 "{\"a\":\"\\ud800\"}",
                                 "{\"a\":\"\\udc00\"}",
                                 "{\"a\":\"\\ud800\\u0041\"}",
                                 "{\"a\":\"\n\"}",
                                 "{'a':1}",
                                 "{\"a\":[1,]}",
                                 "{\"a\":[1}",
                                 "\xEF\xBB\xBF{}"}) {
    EXPECT_FALSE(is_json_object(as_bytes(text))) << text;
  }
  EXPECT_FALSE(is_json_object(as_bytes(std::string_view("{}\0", 3))));
  EXPECT_FALSE(is_json_object(as_bytes(std::string_view("{\"a\":\"\\\0\"}", 10))));
}

TEST(Json, RefusesTextThatIsNotUtf8) {
  for (const std::string bad :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x80\x80\x80",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xC3", "\xE2\x82", "\xFF"}) {
    EXPECT_FALSE(is_json_object(as_bytes("{\"k\":\"" + bad + "\"}")));
    EXPECT_FALSE(is_json_object(as_bytes("{\"k\":\"" + bad)));
  }
}

TEST(Json, BoundsTheDepth) {
  const auto nested = [](unsigned depth) {
    return "{\"a\":" + std::string(depth, '[') + std::string(depth, ']') + "}";
  };
  EXPECT_TRUE(is_json_object(as_bytes(nested(kMaxJsonDepth))));
  EXPECT_FALSE(is_json_object(as_bytes(nested(kMaxJsonDepth + 1))));
  EXPECT_FALSE(is_json_object(as_bytes(nested(16'000))));
}

TEST(Json, EveryTruncationIsRefused) {
  const std::string text = R"({"a":[1,{"b":"\u00e9"}],"c":-1.5e2,"d":true})";
  for (std::size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(is_json_object(as_bytes(text.substr(0, size)))) << size;
  }
}

}  // namespace
}  // namespace cistern::proto
