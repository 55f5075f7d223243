#include "arrow_quant/base/name_pattern.h"

#include <gtest/gtest.h>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

std::string MessageOf(const std::string& pattern) {
  try {
    const NamePattern compiled(pattern, "keep_patterns");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kConfiguration);
    return error.what();
  }
  return "";
}

std::string Repeated(std::string_view text, std::size_t times) {
  std::string result;
  for (std::size_t i = 0; i < times; ++i) result += text;
  return result;
}

TEST(NamePattern, IsFoundAnywhereInAnyCase) {
  const NamePattern pattern("ATTN\\.to_[qk]", "keep_patterns");
  EXPECT_TRUE(pattern.Matches("blocks.0.attn.to_q.weight"));
  EXPECT_FALSE(pattern.Matches("blocks.0.attn.to_v.weight"));
}

TEST(NamePattern, ErrorsNameOptionAndPattern) {
  const std::string message = MessageOf("attn(");
  EXPECT_NE(message.find("keep_patterns: 'attn(' is not a regular expression"), std::string::npos) << message;
}

TEST(NamePattern, RefusesBackReferences) {
  EXPECT_NE(MessageOf("(a)\\1").find("back-reference"), std::string::npos) << MessageOf("(a)\\1");
}

TEST(NamePattern, RefusesWhatIsTooLong) {
  EXPECT_EQ(MessageOf(std::string(kMaxPatternBytes, 'a')), "");
  const std::string message = MessageOf(std::string(kMaxPatternBytes + 1, 'a'));
  EXPECT_NE(message.find("longer than 1000 bytes"), std::string::npos) << message;
  EXPECT_LT(message.size(), 200U);
  // The standard library's compiler recurses for every bracket: this would overflow the stack.
  EXPECT_NE(MessageOf(std::string(1'000'000, '(')).find("longer than"), std::string::npos);
}

TEST(NamePattern, RefusesCountsThatExplode) {
  EXPECT_NE(MessageOf("(((a{99}){99}){99}){99}").find("not a regular expression"), std::string::npos);
}

TEST(NamePattern, RefusesNumbersThatOverflow) {
  for (const char* pattern : {"a{99999999999999999999}", "a{1,99999999999999999999}", "(a)\\99999999999999999999"}) {
    EXPECT_NE(MessageOf(pattern).find("more than 6 digits"), std::string::npos) << pattern;
  }
  EXPECT_EQ(MessageOf("step_12345678901234567890|a{000002}"), "");
}

// Backtracking would take longer than the age of the universe, or the stack.
TEST(NamePattern, MatchesEvilPatternsInBoundedTimeAndStack) {
  const std::string name(64, 'a');
  EXPECT_FALSE(NamePattern("(a*)*b", "keep_patterns").Matches(name));
  EXPECT_FALSE(NamePattern("(a|aa)+$b", "keep_patterns").Matches(name));
  EXPECT_TRUE(NamePattern(Repeated("(", 499) + "a" + Repeated(")", 499), "keep_patterns").Matches(name));
  EXPECT_TRUE(NamePattern("(a?){9000}", "keep_patterns").Matches("a"));
  EXPECT_FALSE(NamePattern("(a|b)*c", "keep_patterns").Matches(std::string(kMaxPatternNameBytes, 'a')));
}

TEST(NamePattern, NamesBeyondTheLimitFitNothing) {
  const NamePattern any("a", "keep_patterns");
  EXPECT_TRUE(any.Matches(std::string(kMaxPatternNameBytes, 'a')));
  EXPECT_FALSE(any.Matches(std::string(kMaxPatternNameBytes + 1, 'a')));
}

}  // namespace
}  // namespace arrow_quant
