#include "arrow_quant/io/checksum.h"

#include <gtest/gtest.h>
#include <parquet/xxhasher.h>

#include <string>

namespace arrow_quant {
namespace {

TEST(Xxh64, EqualsTheHashOfTheParquetLibrary) {
  std::string bytes;
  for (int i = 0; i < 300; ++i) bytes += static_cast<char>(i * 37 + i / 7);
  for (std::size_t size = 0; size <= bytes.size(); ++size) {
    Xxh64 hash;
    hash.Update(bytes.data(), size);
    EXPECT_EQ(hash.Digest(), parquet::XxHasher().Hash(std::string_view(bytes).substr(0, size))) << size;
  }
}

TEST(Xxh64, PiecesGiveTheHashOfTheWhole) {
  const std::string bytes(1000, 'x');
  for (std::size_t piece = 1; piece <= 70; ++piece) {
    Xxh64 hash;
    for (std::size_t i = 0; i < bytes.size(); i += piece)
      hash.Update(bytes.data() + i, std::min(piece, bytes.size() - i));
    EXPECT_EQ(hash.Digest(), parquet::XxHasher().Hash(std::string_view(bytes))) << piece;
  }
}

TEST(Xxh64, Formats) { EXPECT_EQ(FormatChecksum(0xABCULL), "xxh64:0000000000000abc"); }

}  // namespace
}  // namespace arrow_quant
