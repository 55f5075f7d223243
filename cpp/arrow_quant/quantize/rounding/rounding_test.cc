#include "arrow_quant/quantize/rounding/rounding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "arrow_quant/base/error.h"
#include "arrow_quant/quantize/base_quantizer.h"
#include "arrow_quant/quantize/rounding/left_to_right.h"
#include "arrow_quant/quantize/rounding/measure_output.h"

namespace arrow_quant {
namespace {

std::vector<double> Normal(std::int64_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  std::vector<double> x(static_cast<std::size_t>(n));
  for (double& v : x) v = normal(engine);
  return x;
}

std::vector<float> ToFloat(const std::vector<double>& x, double scale = 1) {
  std::vector<float> out;
  for (const double v : x) out.push_back(static_cast<float>(v * scale));
  return out;
}

// The second moment of `rows` inputs of n channels: a decaying spectrum, mixed, one channel in 16 loud.
std::vector<double> Moment(std::int64_t n, std::int64_t rows, unsigned seed) {
  const std::vector<double> mix = Normal(n * n, seed);
  std::vector<double> x(static_cast<std::size_t>(rows * n), 0.0);
  const std::vector<double> z = Normal(rows * n, seed + 1);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t k = 0; k < n; ++k) {
      const double factor = z[static_cast<std::size_t>(r * n + k)] / std::sqrt(1.0 + static_cast<double>(k));
      for (std::int64_t j = 0; j < n; ++j) {
        x[static_cast<std::size_t>(r * n + j)] += factor * mix[static_cast<std::size_t>(k * n + j)] * (j % 16 ? 1 : 8);
      }
    }
  }
  std::vector<double> h(static_cast<std::size_t>(n * n), 0.0);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        h[static_cast<std::size_t>(i * n + j)] +=
            x[static_cast<std::size_t>(r * n + i)] * x[static_cast<std::size_t>(r * n + j)] / static_cast<double>(rows);
      }
    }
  }
  return h;
}

// A layer of `rows` x `cols` with its second moment.
struct Layer {
  Layer(std::int64_t rows_in, std::int64_t cols_in, std::int64_t samples, unsigned seed = 1)
      : rows(rows_in),
        cols(cols_in),
        weight(ToFloat(Normal(rows * cols, seed), 0.02)),
        hessian(ToFloat(Moment(cols, samples, seed + 7))) {}

  MatrixView<const float> View() const { return {weight.data(), rows, cols}; }
  RoundingResult Round(const RoundingOptions& options) const {
    return RoundWithHessian(View(), hessian.data(), options);
  }

  std::int64_t rows;
  std::int64_t cols;
  std::vector<float> weight;
  std::vector<float> hessian;
};

std::vector<float> Values(const QuantizedMatrix& q) {
  std::vector<float> out(static_cast<std::size_t>(q.rows * q.cols));
  DequantizeRows(q, 0, q.rows, out.data());
  return out;
}

double OutputError(const Layer& layer, const QuantizedMatrix& q) {
  const std::vector<float> values = Values(q);
  const OutputSums sums = MeasureOutput(layer.View(), {values.data(), layer.rows, layer.cols}, layer.hessian.data(), 1);
  return sums.ee / sums.ww;
}

// tr(E (H + a I) E^T) in double, a as RoundWithHessian dampens.
double Objective(const Layer& layer, const QuantizedMatrix& q, double dampening) {
  const std::vector<float> values = Values(q);
  const auto n = static_cast<std::size_t>(layer.cols);
  double trace = 0;
  for (std::size_t i = 0; i < n; ++i) trace += static_cast<double>(layer.hessian[i * n + i]);
  const double added = dampening * trace / static_cast<double>(n);
  double sum = 0;
  for (std::size_t r = 0; r < static_cast<std::size_t>(layer.rows); ++r) {
    std::vector<double> e(n);
    for (std::size_t i = 0; i < n; ++i) {
      e[i] = static_cast<double>(layer.weight[r * n + i]) - static_cast<double>(values[r * n + i]);
    }
    for (std::size_t i = 0; i < n; ++i) {
      double image = added * e[i];
      for (std::size_t j = 0; j < n; ++j) image += static_cast<double>(layer.hessian[i * n + j]) * e[j];
      sum += e[i] * image;
    }
  }
  return sum;
}

void ExpectSame(const QuantizedMatrix& a, const QuantizedMatrix& b) {
  EXPECT_EQ(a.codes, b.codes);
  EXPECT_EQ(a.scales, b.scales);
  EXPECT_EQ(a.zero_points, b.zero_points);
  EXPECT_EQ(a.residual_scales, b.residual_scales);
  EXPECT_EQ(a.column_scales, b.column_scales);
}

// Everything that is asked of any result, whatever the second moment.
void ExpectGood(const Layer& layer, const RoundingOptions& options, const RoundingResult& result) {
  for (const float v : Values(result.matrix)) ASSERT_TRUE(std::isfinite(v));
  const QuantizedMatrix nearest =
      QuantizeBase(layer.View(), {.bits = options.bits, .group_size = options.group_size, .fit = GridFit::kMinMax});
  EXPECT_LE(OutputError(layer, result.matrix), OutputError(layer, nearest));
}

constexpr RoundingOptions kAll[] = {
    {.bits = 2, .group_size = 32},
    {.bits = 2, .group_size = 32, .grid = GridKind::kResidualBinary},
    {.bits = 3, .group_size = 64},
    {.bits = 4, .group_size = -1},
    {.bits = 8, .group_size = 48},
    {.bits = 4, .group_size = 32, .order = ColumnOrder::kNatural},
    {.bits = 2, .group_size = 40, .grid = GridKind::kResidualBinary, .order = ColumnOrder::kNatural},
};

TEST(Rounding, BeatsNearestByFar) {
  const Layer layer(48, 150, 400);  // a tail group for every size
  for (const RoundingOptions& options : kAll) {
    const RoundingResult result = layer.Round(options);
    ExpectGood(layer, options, result);
    EXPECT_EQ(result.dampening, 0.01);
    EXPECT_FALSE(result.diagonal);
    const QuantizedMatrix nearest = RoundNearest(layer.View(), nullptr, options);
    EXPECT_LT(OutputError(layer, result.matrix), 0.5 * OutputError(layer, nearest)) << options.bits;
  }
}

TEST(Rounding, ARoundNeverIncreasesTheObjective) {
  for (const unsigned seed : {1U, 2U, 3U}) {
    const Layer layer(40, 130, 300, seed);
    for (RoundingOptions options : kAll) {
      double before = std::numeric_limits<double>::infinity();
      for (options.rounds = 0; options.rounds < 5; ++options.rounds) {
        const double after = Objective(layer, layer.Round(options).matrix, 0.01);
        // Targets are computed in float32: a tie may be decided wrongly by its last digits.
        EXPECT_LE(after, before * (1 + 1e-6)) << options.bits << " " << options.rounds;
        before = after;
      }
    }
  }
}

TEST(Rounding, ThreadsDoNotChangeBytes) {
  const Layer layer(300, 90, 200);
  for (RoundingOptions options : kAll) {
    options.num_threads = 1;
    const RoundingResult one = layer.Round(options);
    options.num_threads = 2;
    ExpectSame(one.matrix, layer.Round(options).matrix);
    ExpectSame(RoundNearest(layer.View(), nullptr, {.bits = 2, .num_threads = 1}),
               RoundNearest(layer.View(), nullptr, {.bits = 2, .num_threads = 2}));
  }
}

TEST(Rounding, ColumnScalesShieldTheGroupOfALargeColumn) {
  Layer layer(300, 128, 300);
  for (std::size_t r = 0; r < 300; ++r) layer.weight[r * 128 + 50] *= 10;
  RoundingOptions options{.bits = 4, .group_size = 64, .num_threads = 1};
  const double plain = OutputError(layer, layer.Round(options).matrix);
  options.column_scales = true;
  const RoundingResult scaled = layer.Round(options);
  EXPECT_LT(OutputError(layer, scaled.matrix), 0.8 * plain);
  options.num_threads = 2;
  ExpectSame(layer.Round(options).matrix, scaled.matrix);
}

TEST(Rounding, TheScaleOfInputsDoesNotMatter) {
  Layer layer(24, 64, 200);
  const RoundingResult expected = layer.Round({});
  for (float& v : layer.hessian) v *= 0x1p-80F;
  ExpectSame(layer.Round({}).matrix, expected.matrix);
}

TEST(Rounding, MoreRoundsAreBetter) {
  const Layer layer(64, 128, 300);
  for (const RoundingOptions& options :
       {RoundingOptions{.bits = 2, .group_size = 64},
        RoundingOptions{.bits = 2, .group_size = 64, .grid = GridKind::kResidualBinary}, RoundingOptions{.bits = 3}}) {
    RoundingOptions none = options;
    none.rounds = 0;
    EXPECT_LT(OutputError(layer, layer.Round(options).matrix), 0.95 * OutputError(layer, layer.Round(none).matrix));
  }
}

TEST(Rounding, RankOneMoment) {
  Layer layer(32, 96, 1);
  for (const RoundingOptions& options : kAll) ExpectGood(layer, options, layer.Round(options));
}

TEST(Rounding, FewerRowsThanChannels) {
  const Layer layer(32, 96, 20);
  for (const RoundingOptions& options : kAll) ExpectGood(layer, options, layer.Round(options));
}

TEST(Rounding, DuplicateColumns) {
  Layer layer(32, 96, 300);
  for (std::size_t i = 0; i < 96; ++i) layer.hessian[i * 96 + 5] = layer.hessian[i * 96 + 70];
  for (std::size_t i = 0; i < 96; ++i) layer.hessian[5 * 96 + i] = layer.hessian[70 * 96 + i];
  for (const RoundingOptions& options : kAll) ExpectGood(layer, options, layer.Round(options));
}

TEST(Rounding, DeadChannels) {
  Layer layer(32, 96, 300);
  for (const std::size_t dead : {0UL, 17UL, 95UL}) {
    for (std::size_t i = 0; i < 96; ++i) layer.hessian[i * 96 + dead] = layer.hessian[dead * 96 + i] = 0;
  }
  for (const RoundingOptions& options : kAll) {
    const RoundingResult result = layer.Round(options);
    ExpectGood(layer, options, result);
    // They are rounded all the same, like any channel: half a step, or the clipping of a fitted grid.
    const std::vector<float> values = Values(result.matrix);
    for (std::size_t r = 0; r < 32; ++r) EXPECT_NEAR(values[r * 96 + 17], layer.weight[r * 96 + 17], 0.06F);
  }
}

TEST(Rounding, AllZeroMomentIsFittedNearestRounding) {
  Layer layer(32, 96, 300);
  layer.hessian.assign(layer.hessian.size(), 0.0F);
  for (const RoundingOptions& options : kAll) {
    const RoundingResult result = layer.Round(options);
    EXPECT_FALSE(result.diagonal);
    const QuantizedMatrix nearest = RoundNearest(layer.View(), nullptr, options);
    double rounded = 0;
    double reference = 0;
    const std::vector<float> a = Values(result.matrix);
    const std::vector<float> b = Values(nearest);
    for (std::size_t i = 0; i < a.size(); ++i) {
      rounded += std::pow(static_cast<double>(a[i] - layer.weight[i]), 2);
      reference += std::pow(static_cast<double>(b[i] - layer.weight[i]), 2);
    }
    EXPECT_LE(rounded, reference * 1.001);
  }
}

TEST(Rounding, DampeningGrowsUntilTheFactorExists) {
  Layer layer(16, 64, 300);
  // An eigenvalue far below zero, as sums in low precision can leave; 0.1 of the mean diagonal lifts it.
  double trace = 0;
  for (std::size_t i = 0; i < 64; ++i) trace += static_cast<double>(layer.hessian[i * 65]);
  for (std::size_t i = 0; i < 64; ++i) {
    for (std::size_t j = 0; j < 64; ++j) {
      layer.hessian[i * 64 + j] = i == j ? 1.0F : -0.017F;  // least eigenvalue 1 - 63 * 0.017 = -0.071
    }
  }
  const RoundingResult result = layer.Round({.bits = 4, .group_size = 32});
  EXPECT_DOUBLE_EQ(result.dampening, 0.1);
  EXPECT_FALSE(result.diagonal);
  for (const float v : Values(result.matrix)) ASSERT_TRUE(std::isfinite(v));
}

TEST(Rounding, ADiagonalIsTheLastResortAndIsTold) {
  Layer layer(16, 64, 300);
  for (std::size_t i = 0; i < 64; ++i) {
    for (std::size_t j = 0; j < 64; ++j) layer.hessian[i * 64 + j] = i == j ? 1.0F : -0.9F;
  }
  for (const RoundingOptions& options : kAll) {
    const RoundingResult result = layer.Round(options);
    EXPECT_TRUE(result.diagonal);
    EXPECT_EQ(result.dampening, 1.0);
    for (const float v : Values(result.matrix)) ASSERT_TRUE(std::isfinite(v));
  }
}

TEST(Rounding, BadConditioningIsFactoredInDouble) {
  const Layer layer(16, 96, 20);  // singular but for the dampening
  const RoundingResult result = layer.Round({.bits = 4, .group_size = 32, .dampening = 1e-7});
  EXPECT_TRUE(result.float64);
  EXPECT_LT(result.dampening, 1e-3);
  ExpectGood(layer, {.bits = 4, .group_size = 32}, result);
  EXPECT_FALSE(layer.Round({.bits = 4, .group_size = 32}).float64);
}

TEST(Rounding, ConstantGroupsAreExact) {
  Layer layer(16, 64, 200);
  layer.weight.assign(layer.weight.size(), 0.3F);
  for (const RoundingOptions& options : kAll) {
    if (options.order == ColumnOrder::kNatural) continue;
    EXPECT_EQ(Values(layer.Round(options).matrix), layer.weight) << options.bits;
  }
}

TEST(Rounding, ExtremeWeightsStayFinite) {
  for (const float scale : {1e30F, 1e-40F}) {
    Layer layer(16, 64, 200);
    for (float& v : layer.weight) v *= scale;
    for (const RoundingOptions& options : kAll) {
      for (const float v : Values(layer.Round(options).matrix)) ASSERT_TRUE(std::isfinite(v)) << options.bits;
    }
  }
}

TEST(Rounding, NonFiniteInputsAreNamed) {
  Layer layer(8, 32, 100);
  layer.hessian[5 * 32 + 9] = std::numeric_limits<float>::infinity();
  try {
    layer.Round({});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kQuantization);
    EXPECT_NE(std::string(e.what()).find("row 5, column 9"), std::string::npos) << e.what();
  }
  layer = Layer(8, 32, 100);
  layer.weight[40] = std::numeric_limits<float>::quiet_NaN();
  try {
    layer.Round({});
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("index 40"), std::string::npos) << e.what();
  }
}

TEST(Rounding, RefusesOptionsOutOfRange) {
  const Layer layer(8, 32, 100);
  for (const RoundingOptions& options :
       {RoundingOptions{.bits = 5}, RoundingOptions{.group_size = 0}, RoundingOptions{.rounds = -1},
        RoundingOptions{.dampening = -0.1}, RoundingOptions{.dampening = 2},
        RoundingOptions{.bits = 4, .grid = GridKind::kResidualBinary}}) {
    EXPECT_THROW(layer.Round(options), Error);
  }
}

TEST(Rounding, StopsOnRequest) {
  const Layer layer(8, 32, 100);
  std::stop_source source;
  source.request_stop();
  EXPECT_THROW(RoundWithHessian(layer.View(), layer.hessian.data(), {}, source.get_token()), Error);
}

TEST(RoundNearest, ImportanceLowersItsOwnError) {
  const Layer layer(32, 96, 300);
  std::vector<float> importance(96);
  for (std::size_t i = 0; i < 96; ++i) importance[i] = layer.hessian[i * 97];
  const auto weighted_error = [&](const QuantizedMatrix& q) {
    const std::vector<float> values = Values(q);
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      sum += static_cast<double>(importance[i % 96]) * std::pow(static_cast<double>(values[i] - layer.weight[i]), 2);
    }
    return sum;
  };
  for (const RoundingOptions& options :
       {RoundingOptions{.bits = 2, .group_size = 32},
        RoundingOptions{.bits = 2, .group_size = 32, .grid = GridKind::kResidualBinary}}) {
    EXPECT_LT(weighted_error(RoundNearest(layer.View(), importance.data(), options)),
              weighted_error(RoundNearest(layer.View(), nullptr, options)));
  }
}

// Frantar et al.: the inverse's Cholesky factor, one column at a time; plain loops.
std::vector<double> TextbookGptq(const std::vector<double>& weight, std::vector<double> h, std::size_t n, int bits,
                                 std::size_t group) {
  double trace = 0;
  for (std::size_t i = 0; i < n; ++i) trace += h[i * n + i];
  for (std::size_t i = 0; i < n; ++i) h[i * n + i] += 0.01 * trace / static_cast<double>(n);
  // The inverse by Gauss-Jordan.
  std::vector<double> inverse(n * n, 0.0);
  for (std::size_t i = 0; i < n; ++i) inverse[i * n + i] = 1;
  for (std::size_t p = 0; p < n; ++p) {
    const double pivot = h[p * n + p];
    for (std::size_t j = 0; j < n; ++j) {
      h[p * n + j] /= pivot;
      inverse[p * n + j] /= pivot;
    }
    for (std::size_t i = 0; i < n; ++i) {
      const double factor = h[i * n + p];
      if (i == p || factor == 0) continue;
      for (std::size_t j = 0; j < n; ++j) {
        h[i * n + j] -= factor * h[p * n + j];
        inverse[i * n + j] -= factor * inverse[p * n + j];
      }
    }
  }
  // Upper U with inverse = U^T U.
  std::vector<double> u(n * n, 0.0);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = i; j < n; ++j) {
      double sum = inverse[i * n + j];
      for (std::size_t k = 0; k < i; ++k) sum -= u[k * n + i] * u[k * n + j];
      u[i * n + j] = i == j ? std::sqrt(sum) : sum / u[i * n + i];
    }
  }
  const double top = (1 << bits) - 1;
  std::vector<double> q(weight.size());
  for (std::size_t r = 0; r < weight.size() / n; ++r) {
    std::vector<double> w(weight.begin() + static_cast<std::ptrdiff_t>(r * n),
                          weight.begin() + static_cast<std::ptrdiff_t>((r + 1) * n));
    double scale = 1;
    double offset = 0;
    for (std::size_t i = 0; i < n; ++i) {
      if (i % group == 0) {
        double low = 0;
        double high = 0;
        for (std::size_t j = i; j < std::min(n, i + group); ++j) {
          low = std::min(low, w[j]);
          high = std::max(high, w[j]);
        }
        scale = (high - low) / top;
        offset = -std::nearbyint(-low / scale) * scale;
      }
      q[r * n + i] = std::clamp(std::nearbyint((w[i] - offset) / scale), 0.0, top) * scale + offset;
      const double error = (w[i] - q[r * n + i]) / u[i * n + i];
      for (std::size_t j = i; j < n; ++j) w[j] -= error * u[i * n + j];
    }
  }
  return q;
}

TEST(RoundLeftToRight, EqualsTextbookGptq) {
  const std::size_t n = 150;
  const std::vector<double> weight = Normal(40 * 150, 3);
  const std::vector<double> h = Moment(150, 400, 4);
  for (const int bits : {2, 3, 4}) {
    for (const std::size_t group : {32UL, 64UL, 150UL}) {
      const std::vector<double> got = RoundLeftToRight({weight.data(), 40, 150}, h.data(),
                                                       {.bits = bits, .group_size = static_cast<std::int64_t>(group)});
      const std::vector<double> want = TextbookGptq(weight, h, n, bits, group);
      double largest = 0;
      for (std::size_t i = 0; i < got.size(); ++i) largest = std::max(largest, std::fabs(got[i] - want[i]));
      EXPECT_LT(largest, 1e-10) << bits << " " << group;
    }
  }
}

TEST(RoundLeftToRight, RefusesAnIndefiniteMoment) {
  const std::vector<double> w(4, 1.0);
  const std::vector<double> h = {1, 2, 2, 1};
  EXPECT_THROW(RoundLeftToRight({w.data(), 2, 2}, h.data(), {.bits = 4, .group_size = 2}), Error);
}

TEST(MeasureOutput, IsTheFormula) {
  const Layer layer(130, 40, 100);
  const std::vector<float> q = Values(layer.Round({.bits = 2, .group_size = 20}).matrix);
  double ww = 0, wq = 0, qq = 0, ee = 0;
  for (std::size_t r = 0; r < 130; ++r) {
    for (std::size_t i = 0; i < 40; ++i) {
      for (std::size_t j = 0; j < 40; ++j) {
        const double h = static_cast<double>(layer.hessian[i * 40 + j]);
        const double wi = static_cast<double>(layer.weight[r * 40 + i]),
                     wj = static_cast<double>(layer.weight[r * 40 + j]);
        const double qi = static_cast<double>(q[r * 40 + i]), qj = static_cast<double>(q[r * 40 + j]);
        ww += wi * h * wj;
        wq += wi * h * qj;
        qq += qi * h * qj;
        ee += (wi - qi) * h * (wj - qj);
      }
    }
  }
  const OutputSums sums = MeasureOutput(layer.View(), {q.data(), 130, 40}, layer.hessian.data(), 2);
  // float32 products of 40 terms.
  EXPECT_NEAR(sums.ww, ww, 1e-5 * ww);
  EXPECT_NEAR(sums.wq, wq, 1e-5 * ww);
  EXPECT_NEAR(sums.qq, qq, 1e-5 * ww);
  EXPECT_NEAR(sums.ee, ee, 1e-5 * ee);
}

TEST(MeasureOutput, RowsAgreeWithTheirSecondMoment) {
  const std::int64_t n = 300;
  Layer layer(50, 40, 100);
  const std::vector<float> x = ToFloat(Normal(n * 40, 9));
  for (std::size_t i = 0; i < 40; ++i) {
    for (std::size_t j = 0; j < 40; ++j) {
      double sum = 0;
      for (std::size_t r = 0; r < 300; ++r)
        sum += static_cast<double>(x[r * 40 + i]) * static_cast<double>(x[r * 40 + j]);
      layer.hessian[i * 40 + j] = static_cast<float>(sum / 300);
    }
  }
  const std::vector<float> q = Values(layer.Round({.bits = 2, .group_size = 20}).matrix);
  const MatrixView<const float> quantized(q.data(), 50, 40);
  const OutputSums a = MeasureOutput(layer.View(), quantized, layer.hessian.data(), 1);
  const OutputSums b = MeasureOutputOnRows(layer.View(), quantized, x.data(), n, 2);
  EXPECT_NEAR(a.ww, b.ww, 1e-5 * a.ww);
  EXPECT_NEAR(a.wq, b.wq, 1e-5 * a.ww);
  EXPECT_NEAR(a.qq, b.qq, 1e-5 * a.ww);
  EXPECT_NEAR(a.ee, b.ee, 1e-5 * a.ee);
}

}  // namespace
}  // namespace arrow_quant
