#include "arrow_quant/base/text.h"

#include <gtest/gtest.h>

namespace arrow_quant {
namespace {

TEST(Utf8Prefix, NeverCutsACharacter) {
  const std::string text = "aé€😀";  // 1, 2, 3 and 4 bytes
  const std::string expected[] = {"", "a", "a", "aé", "aé", "aé", "aé€", "aé€", "aé€", "aé€", text, text};
  for (std::size_t size = 0; size < std::size(expected); ++size) EXPECT_EQ(Utf8Prefix(text, size), expected[size]);
}

TEST(Utf8Prefix, EndsForBytesThatAreNoText) { EXPECT_EQ(Utf8Prefix("\x80\x80\x80", 2), ""); }

TEST(Shortened, MarksWhatIsLeftOut) {
  EXPECT_EQ(Shortened("abc", 3), "abc");
  EXPECT_EQ(Shortened("abcd", 3), "abc...");
  EXPECT_EQ(Shortened("abé", 3), "ab...");
}

}  // namespace
}  // namespace arrow_quant
