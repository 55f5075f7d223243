#include "arrow_quant/kernels/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "arrow_quant/kernels/to_float32.h"
#include "arrow_quant/numeric/convert.h"
#include "arrow_quant/numeric/pack.h"

namespace arrow_quant {
namespace {

constexpr std::size_t kSizes[] = {0,  1,  3,  7,  8,  9,   15,  16,  17,  31,  32,
                                  33, 63, 64, 65, 127, 128, 129, 255, 256, 1000};
constexpr int kBits[] = {2, 3, 4, 8};
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

enum class Kind { kNormal, kDenormal, kHuge, kZeros, kWithSpecials };
constexpr Kind kKinds[] = {Kind::kNormal, Kind::kDenormal, Kind::kHuge, Kind::kZeros, Kind::kWithSpecials};

float Draw(Kind kind, std::mt19937& rng) {
  std::normal_distribution<float> normal;
  switch (kind) {
    case Kind::kNormal:
      return normal(rng);
    case Kind::kDenormal:
      return normal(rng) * 1e-40f;
    case Kind::kHuge:
      return std::ldexp(std::clamp(normal(rng) / 8, -1.0f, 1.0f), 127);
    case Kind::kZeros:
      return rng() % 2 == 0 ? 0.0f : -0.0f;
    case Kind::kWithSpecials:
      break;
  }
  constexpr float kSpecials[] = {kNan, kInf, -kInf, -0.0f, 1e-45f, 3e38f, -3e38f};
  return rng() % 4 == 0 ? kSpecials[rng() % std::size(kSpecials)] : normal(rng);
}

// `n` values that start one element after the alignment that the allocator gives.
struct Misaligned {
  explicit Misaligned(std::size_t n) : storage(n + 1), size(n) {}
  float* data() { return storage.data() + 1; }
  const float* data() const { return storage.data() + 1; }

  std::vector<float> storage;
  std::size_t size;
};

Misaligned Values(std::size_t n, Kind kind, unsigned seed) {
  std::mt19937 rng(seed);
  Misaligned values(n);
  for (std::size_t i = 0; i < n; ++i) values.data()[i] = Draw(kind, rng);
  return values;
}

std::vector<std::uint8_t> Codes(std::size_t n, int bits, unsigned seed) {
  std::mt19937 rng(seed);
  std::vector<std::uint8_t> codes(n);
  for (auto& code : codes) code = static_cast<std::uint8_t>(rng() & ((1u << bits) - 1));
  return codes;
}

// The same bits; any two NaN are the same.
bool Same(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}
bool Same(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}

void ExpectSame(const Misaligned& got, const Misaligned& want) {
  for (std::size_t i = 0; i < want.size; ++i) {
    ASSERT_TRUE(Same(got.data()[i], want.data()[i])) << i << ": " << got.data()[i] << " " << want.data()[i];
  }
}

// Every instruction set against the scalar twin, and the scalar twin against the definitions below.
class KernelTest : public testing::TestWithParam<Isa> {
 protected:
  const KernelTable& kernels_ = KernelsFor(GetParam());
  const KernelTable& scalar_ = KernelsFor(Isa::kScalar);
};

INSTANTIATE_TEST_SUITE_P(Isa, KernelTest, testing::ValuesIn(SupportedIsas()),
                         [](const auto& isa) { return std::string(IsaName(isa.param)); });

TEST_P(KernelTest, MinMax) {
  for (std::size_t n : kSizes) {
    for (Kind kind : kKinds) {
      if (n == 0) continue;
      const Misaligned x = Values(n, kind, static_cast<unsigned>(n));
      float low = kInf;
      float high = -kInf;
      bool finite = true;
      for (std::size_t i = 0; i < n; ++i) {
        low = std::min(low, x.data()[i]);
        high = std::max(high, x.data()[i]);
        finite = finite && std::isfinite(x.data()[i]);
      }
      const MinMax got = kernels_.min_max(x.data(), n);
      ASSERT_EQ(got.finite, finite) << n;
      ASSERT_EQ(got.low, finite ? low : 0.0f);
      ASSERT_EQ(got.high, finite ? high : 0.0f);
      ASSERT_FALSE(got.low == 0.0f && std::signbit(got.low));
    }
  }
}

TEST_P(KernelTest, MinMaxFindsOneBadValueAnywhere) {
  for (float bad : {kNan, kInf, -kInf}) {
    for (std::size_t at = 0; at < 67; ++at) {
      Misaligned x = Values(67, Kind::kNormal, 3);
      x.data()[at] = bad;
      ASSERT_FALSE(kernels_.min_max(x.data(), x.size).finite) << at;
    }
  }
}

TEST_P(KernelTest, DotAndErrorSums) {
  for (std::size_t n : kSizes) {
    for (Kind kind : kKinds) {
      const Misaligned a = Values(n, kind, static_cast<unsigned>(n));
      const Misaligned b = Values(n, kind, static_cast<unsigned>(n) + 1);
      ASSERT_TRUE(Same(kernels_.dot(a.data(), b.data(), n), scalar_.dot(a.data(), b.data(), n)));
      const ErrorSums got = kernels_.error_sums(a.data(), b.data(), n);
      const ErrorSums want = scalar_.error_sums(a.data(), b.data(), n);
      ASSERT_TRUE(Same(got.ww, want.ww) && Same(got.wq, want.wq) && Same(got.qq, want.qq) && Same(got.ee, want.ee));
    }
  }
}

TEST_P(KernelTest, SumsEqualLongDoubleSums) {
  for (std::size_t n : kSizes) {
    const Misaligned a = Values(n, Kind::kNormal, 5);
    const Misaligned b = Values(n, Kind::kNormal, 6);
    long double ww = 0, wq = 0, qq = 0, ee = 0, magnitude = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const long double w = a.data()[i];
      const long double q = b.data()[i];
      ww += w * w;
      wq += w * q;
      qq += q * q;
      ee += (w - q) * (w - q);
      magnitude += (std::fabs(w) + std::fabs(q)) * (std::fabs(w) + std::fabs(q));
    }
    const ErrorSums got = kernels_.error_sums(a.data(), b.data(), n);
    // A sum of n <= 1000 products in double loses at most n * 2^-53 of the sum of magnitudes.
    const double tolerance = static_cast<double>(magnitude) * 1000 * 0x1p-53;
    ASSERT_NEAR(got.ww, static_cast<double>(ww), tolerance);
    ASSERT_NEAR(got.wq, static_cast<double>(wq), tolerance);
    ASSERT_NEAR(got.qq, static_cast<double>(qq), tolerance);
    ASSERT_NEAR(got.ee, static_cast<double>(ee), tolerance);
    ASSERT_NEAR(kernels_.dot(a.data(), b.data(), n), static_cast<double>(wq), tolerance);
  }
}

std::uint8_t CodeByDefinition(float w, AffineParams grid, int max_code) {
  const float real = w / grid.scale + grid.zero_point;
  if (std::isnan(real)) return 0;
  return static_cast<std::uint8_t>(std::clamp(std::nearbyint(real), 0.0f, static_cast<float>(max_code)));
}

TEST_P(KernelTest, Quantize) {
  constexpr AffineParams kGrids[] = {{0.25f, 7.5f}, {1e-40f, 3.0f}, {1e30f, 127.0f}, {1.2e-38f, -1e6f}, {1.0f, 0.0f}};
  for (std::size_t n : kSizes) {
    for (Kind kind : kKinds) {
      for (const AffineParams& grid : kGrids) {
        for (int bits : kBits) {
          const int max_code = (1 << bits) - 1;
          const Misaligned w = Values(n, kind, static_cast<unsigned>(n));
          std::vector<std::uint8_t> codes(n + 1, 0xab);
          kernels_.quantize(w.data(), n, grid, max_code, codes.data());
          ASSERT_EQ(codes[n], 0xab) << "written past the end";
          for (std::size_t i = 0; i < n; ++i) {
            ASSERT_EQ(codes[i], CodeByDefinition(w.data()[i], grid, max_code)) << w.data()[i] << " " << grid.scale;
          }
        }
      }
    }
  }
}

TEST_P(KernelTest, QuantizeRoundsTiesToEven) {
  std::vector<float> w;
  for (int i = 0; i < 64; ++i) w.push_back(static_cast<float>(i) * 0.5f);
  std::vector<std::uint8_t> codes(w.size());
  kernels_.quantize(w.data(), w.size(), {1.0f, 0.0f}, 255, codes.data());
  for (std::size_t i = 0; i < w.size(); ++i) {
    const std::size_t half = i / 2;
    EXPECT_EQ(codes[i], i % 2 == 0 ? half : half + half % 2);
  }
}

TEST_P(KernelTest, Dequantize) {
  constexpr AffineParams kGrids[] = {{0.3f, 7.3f}, {1e-40f, 3.0f}, {3e37f, 127.0f}, {-0.0f, 1.0f}, {1.0f, kNan}};
  for (std::size_t n : kSizes) {
    for (const AffineParams& grid : kGrids) {
      const std::vector<std::uint8_t> codes = Codes(n, 8, static_cast<unsigned>(n));
      Misaligned out(n + 1);
      out.data()[n] = 42;
      kernels_.dequantize(codes.data(), n, grid, out.data());
      ASSERT_EQ(out.data()[n], 42) << "written past the end";
      for (std::size_t i = 0; i < n; ++i) {
        const float difference = static_cast<float>(codes[i]) - grid.zero_point;
        ASSERT_TRUE(Same(out.data()[i], grid.scale * difference)) << i;
      }
    }
  }
}

TEST_P(KernelTest, PackAndUnpack) {
  for (int bits : kBits) {
    for (std::size_t n = 0; n < 300; ++n) {
      const std::vector<std::uint8_t> codes = Codes(n, bits, static_cast<unsigned>(n));
      const std::size_t size = (n * static_cast<std::size_t>(bits) + 7) / 8;
      std::vector<std::uint8_t> want(size);
      PackCodes(codes.data(), n, bits, want.data());
      // Exactly as long as they must be, so that a sanitizer sees any access beyond.
      std::vector<std::uint8_t> bytes(size);
      kernels_.pack(codes.data(), n, bits, bytes.data());
      ASSERT_EQ(bytes, want) << bits << " bits, n = " << n;
      std::vector<std::uint8_t> back(n);
      kernels_.unpack(bytes.data(), n, bits, back.data());
      ASSERT_EQ(back, codes) << bits << " bits, n = " << n;
    }
  }
}

struct RowCase {
  std::size_t first;
  std::size_t n;
  std::size_t group_size;
};

std::vector<RowCase> RowCases() {
  std::vector<RowCase> cases;
  for (std::size_t n : kSizes) {
    for (std::size_t group_size : {1u, 5u, 16u, 36u, 64u, 128u, 1000u}) {
      for (std::size_t first : {0u, 1u, 2u, 3u, 5u, 8u, 37u}) cases.push_back({first, n, group_size});
    }
  }
  return cases;
}

TEST_P(KernelTest, DequantizeRowEqualsUnpackAndDequantize) {
  for (const auto& [first, n, group_size] : RowCases()) {
    const Misaligned scales = Values(n, Kind::kNormal, 7);
    const Misaligned zeros = Values(n, Kind::kNormal, 8);
    for (int bits : kBits) {
      const std::vector<std::uint8_t> codes = Codes(first + n, bits, static_cast<unsigned>(n));
      std::vector<std::uint8_t> bytes((codes.size() * static_cast<std::size_t>(bits) + 7) / 8);
      PackCodes(codes.data(), codes.size(), bits, bytes.data());
      Misaligned want(n);
      for (std::size_t begin = 0, g = 0; begin < n; begin += group_size, ++g) {
        scalar_.dequantize(codes.data() + first + begin, std::min(group_size, n - begin),
                           {scales.data()[g], zeros.data()[g]}, want.data() + begin);
      }
      Misaligned got(n);
      kernels_.dequantize_row(bytes.data(), first, n, bits, group_size, scales.data(), zeros.data(), got.data());
      ExpectSame(got, want);
    }
  }
}

TEST_P(KernelTest, DequantizeRowBinary) {
  for (const auto& [first, n, group_size] : RowCases()) {
    const Misaligned scales = Values(n, Kind::kNormal, 7);
    const Misaligned residuals = Values(n, Kind::kNormal, 8);
    const Misaligned middles = Values(n, Kind::kNormal, 9);
    const std::vector<std::uint8_t> codes = Codes(first + n, 2, static_cast<unsigned>(n));
    std::vector<std::uint8_t> bytes((codes.size() * 2 + 7) / 8);
    PackCodes(codes.data(), codes.size(), 2, bytes.data());
    Misaligned want(n);
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t g = i / group_size;
      const int code = codes[first + i];
      const float outer = middles.data()[g] + scales.data()[g] * static_cast<float>(2 * (code >> 1) - 1);
      want.data()[i] = outer + residuals.data()[g] * static_cast<float>(2 * (code & 1) - 1);
    }
    Misaligned got(n);
    kernels_.dequantize_row_binary(bytes.data(), first, n, group_size, scales.data(), residuals.data(), middles.data(),
                                   got.data());
    ExpectSame(got, want);
  }
}

TEST_P(KernelTest, WidensEvery16BitPattern) {
  // One byte before the data: an odd address.
  std::vector<std::uint8_t> raw(1 + 2 * 65536);
  for (std::uint32_t p = 0; p < 65536; ++p) {
    const auto pattern = static_cast<std::uint16_t>(p);
    std::memcpy(raw.data() + 1 + 2 * p, &pattern, sizeof(pattern));
  }
  std::vector<float> f16(65536);
  std::vector<float> bf16(65536);
  kernels_.f16_to_f32(raw.data() + 1, f16.size(), f16.data());
  kernels_.bf16_to_f32(raw.data() + 1, bf16.size(), bf16.data());
  for (std::uint32_t p = 0; p < 65536; ++p) {
    const auto pattern = static_cast<std::uint16_t>(p);
    ASSERT_EQ(std::bit_cast<std::uint32_t>(f16[p]), std::bit_cast<std::uint32_t>(F16ToFloat(pattern))) << p;
    ASSERT_EQ(std::bit_cast<std::uint32_t>(bf16[p]), std::bit_cast<std::uint32_t>(BF16ToFloat(pattern))) << p;
  }
}

TEST_P(KernelTest, WidensAnyLength) {
  for (std::size_t n : kSizes) {
    std::vector<std::uint16_t> raw(n);
    for (std::size_t i = 0; i < n; ++i) raw[i] = static_cast<std::uint16_t>(i * 131 + 7);
    Misaligned f16(n);
    Misaligned bf16(n);
    kernels_.f16_to_f32(raw.data(), n, f16.data());
    kernels_.bf16_to_f32(raw.data(), n, bf16.data());
    for (std::size_t i = 0; i < n; ++i) {
      ASSERT_TRUE(Same(f16.data()[i], F16ToFloat(raw[i])));
      ASSERT_TRUE(Same(bf16.data()[i], BF16ToFloat(raw[i])));
    }
  }
}

TEST_P(KernelTest, FitAffineGivesTheBitsOfTheScalarTwin) {
  for (std::size_t n : {2u, 3u, 7u, 15u, 16u, 17u, 33u, 64u, 65u, 128u, 129u, 255u, 1000u, 1024u, 1025u, 3000u}) {
    for (float scale : {1.0f, 1e-36f, 1e30f}) {
      for (float center : {0.0f, 100.0f}) {
        Misaligned w = Values(n, Kind::kNormal, static_cast<unsigned>(n));
        Misaligned weight = Values(n, Kind::kNormal, 11);
        for (std::size_t i = 0; i < n; ++i) {
          w.data()[i] = (w.data()[i] + center) * scale;
          weight.data()[i] *= weight.data()[i];
        }
        const MinMax range = scalar_.min_max(w.data(), n);
        for (int bits : kBits) {
          for (const float* g : {static_cast<const float*>(nullptr), static_cast<const float*>(weight.data())}) {
            const int max_code = (1 << bits) - 1;
            const AffineParams got = kernels_.fit_affine(w.data(), g, n, max_code, range.low, range.high);
            const AffineParams want = scalar_.fit_affine(w.data(), g, n, max_code, range.low, range.high);
            ASSERT_TRUE(Same(got.scale, want.scale) && Same(got.zero_point, want.zero_point)) << n << " " << bits;
          }
        }
      }
    }
  }
}

TEST(Kernels, ActiveTableIsThatOfTheActiveIsa) { EXPECT_EQ(&Kernels(), &KernelsFor(ActiveIsa())); }

TEST(FastToFloat32, EqualsToFloat32) {
  std::vector<std::byte> raw(1 + 8 * 100);
  for (std::size_t i = 0; i < raw.size(); ++i) raw[i] = static_cast<std::byte>(i * 73 + 5);
  for (DType dtype : {DType::kF8E4M3, DType::kF8E5M2, DType::kF16, DType::kBF16, DType::kF32, DType::kF64}) {
    Misaligned got(100);
    Misaligned want(100);
    FastToFloat32(dtype, raw.data() + 1, 100, got.data());
    ToFloat32(dtype, raw.data() + 1, 100, want.data());
    ExpectSame(got, want);
  }
}

}  // namespace
}  // namespace arrow_quant
