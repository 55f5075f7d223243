#include "arrow_quant/numeric/pack.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace arrow_quant {
namespace {

TEST(Pack, KnownBytes) {
  const std::vector<std::uint8_t> two = {1, 2, 3, 0, 3};
  std::vector<std::uint8_t> bytes(2, 0xff);
  PackCodes(two.data(), two.size(), 2, bytes.data());
  EXPECT_EQ(bytes, (std::vector<std::uint8_t>{0x39, 0x03}));
  const std::vector<std::uint8_t> three = {1, 2, 7, 5};  // 1 | 2<<3 | 7<<6 | 5<<9 = 0xbd1
  PackCodes(three.data(), three.size(), 3, bytes.data());
  EXPECT_EQ(bytes, (std::vector<std::uint8_t>{0xd1, 0x0b}));
  const std::vector<std::uint8_t> four = {0xa, 0x5, 0xf};
  PackCodes(four.data(), four.size(), 4, bytes.data());
  EXPECT_EQ(bytes, (std::vector<std::uint8_t>{0x5a, 0x0f}));
}

TEST(Pack, UnpackInvertsPackAtEveryLength) {
  std::mt19937 rng(1);
  for (int bits : {2, 3, 4, 8}) {
    for (std::size_t n = 0; n <= 130; ++n) {
      std::vector<std::uint8_t> codes(n);
      for (auto& code : codes) code = static_cast<std::uint8_t>(rng() & ((1u << bits) - 1));
      const std::size_t size = (n * static_cast<std::size_t>(bits) + 7) / 8;
      std::vector<std::uint8_t> bytes(size + 1, 0xee);
      PackCodes(codes.data(), n, bits, bytes.data());
      EXPECT_EQ(bytes[size], 0xee) << "written past the end";
      std::vector<std::uint8_t> back(n + 1, 0xdd);
      UnpackCodes(bytes.data(), n, bits, back.data());
      EXPECT_EQ(back[n], 0xdd) << "written past the end";
      back.pop_back();
      EXPECT_EQ(back, codes) << bits << " bits, n = " << n;
    }
  }
}

TEST(Pack, CodeKStartsAtBitKTimesBits) {
  for (int bits : {2, 3, 4, 8}) {
    for (std::size_t k = 0; k < 20; ++k) {
      std::vector<std::uint8_t> codes(20, 0);
      codes[k] = 1;
      std::vector<std::uint8_t> bytes(20);
      PackCodes(codes.data(), codes.size(), bits, bytes.data());
      const std::size_t bit = k * static_cast<std::size_t>(bits);
      for (std::size_t i = 0; i < (20 * static_cast<std::size_t>(bits) + 7) / 8; ++i) {
        EXPECT_EQ(bytes[i], i == bit / 8 ? 1u << (bit % 8) : 0u);
      }
    }
  }
}

}  // namespace
}  // namespace arrow_quant
