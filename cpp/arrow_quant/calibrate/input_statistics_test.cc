#include "arrow_quant/calibrate/input_statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "arrow_quant/base/error.h"
#include "arrow_quant/calibrate/activation_statistics.h"
#include "arrow_quant/numeric/convert.h"

namespace arrow_quant {
namespace {

constexpr std::int64_t kChannels = 5;

std::vector<float> Rows(std::int64_t n, unsigned seed, float mean = 0) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(mean, 1);
  std::vector<float> rows(static_cast<std::size_t>(n * kChannels));
  for (float& x : rows) x = normal(random);
  return rows;
}

ActivationRows View(const std::vector<float>& rows) {
  return {rows.data(), DType::kF32, static_cast<std::int64_t>(rows.size()) / kChannels, kChannels};
}

double MomentOf(const std::vector<float>& rows, std::int64_t i, std::int64_t j) {
  double sum = 0;
  const auto n = static_cast<std::int64_t>(rows.size()) / kChannels;
  for (std::int64_t r = 0; r < n; ++r) {
    sum += static_cast<double>(rows[r * kChannels + i]) * static_cast<double>(rows[r * kChannels + j]);
  }
  return sum / static_cast<double>(n);
}

TEST(InputStatistics, SecondMomentIsThatOfAllRows) {
  InputStatistics s(kChannels, {.groups = 2});
  const auto rows = Rows(40, 1);
  const std::vector<float> first(rows.begin(), rows.begin() + 13 * kChannels);
  const std::vector<float> second(rows.begin() + 13 * kChannels, rows.end());
  s.Update(View(first), 0, 10, 1);
  s.Update(View(second), 1, 700, 1);
  const auto h = s.SecondMoment();
  for (std::int64_t i = 0; i < kChannels; ++i) {
    for (std::int64_t j = 0; j < kChannels; ++j) {
      EXPECT_NEAR(h[i * kChannels + j], MomentOf(rows, i, j), 1e-5);  // float32 sums of 40 products
    }
  }
  EXPECT_EQ(s.total_count(), 40);
}

TEST(InputStatistics, TimeWeightsScaleTheGroups) {
  InputStatistics s(kChannels, {.groups = 2});
  const auto early = Rows(8, 1);
  const auto late = Rows(8, 2);
  s.Update(View(early), 0, 0, 1);
  s.Update(View(late), 1, 1, 1);
  const auto h = s.SecondMoment({3, 1});
  EXPECT_NEAR(h[1], (3 * MomentOf(early, 0, 1) + MomentOf(late, 0, 1)) / 4, 1e-5);
  EXPECT_NEAR(s.SecondMoment({0, 2})[1], MomentOf(late, 0, 1), 1e-5);
  EXPECT_THROW(s.SecondMoment({1, 1, 1}), Error);
}

TEST(InputStatistics, DriftIsTheCrossMomentWithTheFloatModel) {
  InputStatistics s(kChannels, {.groups = 2, .held_out_rows = 4});
  const auto own = Rows(30, 1);
  const auto reference = Rows(30, 2);
  const ActivationRows other = View(reference);
  EXPECT_TRUE(s.Drift().empty());
  s.Update(View(own), 1, 5, 1, &other);
  const auto drift = s.Drift();
  for (std::size_t i = 0; i < kChannels; ++i) {
    for (std::size_t j = 0; j < kChannels; ++j) {
      double sum = 0;
      for (std::size_t r = 0; r < 30; ++r) {
        const std::size_t row = r * kChannels;
        sum += static_cast<double>((reference[row + i] - own[row + i]) * own[row + j]);
      }
      EXPECT_NEAR(drift[i * kChannels + j], sum / 30, 1e-5);  // float32 sums of 30 products
    }
  }
  EXPECT_EQ(s.SecondMoment(), [&] {
    InputStatistics alone(kChannels, {.groups = 2});
    alone.Update(View(own), 1, 5, 1);
    return alone.SecondMoment();
  }());
}

TEST(InputStatistics, HeldOutRowsKeepTheirPairs) {
  InputStatistics s(kChannels, {.held_out_rows = 6});
  const auto own = Rows(100, 1);
  std::vector<float> reference = own;
  for (float& x : reference) x += 1;
  const ActivationRows other = View(reference);
  s.HoldOut(View(own), 0, &other);
  ASSERT_EQ(s.held_out(0).size(), 6U * kChannels);
  ASSERT_EQ(s.held_out_reference(0).size(), s.held_out(0).size());
  for (std::size_t i = 0; i < s.held_out(0).size(); ++i) EXPECT_EQ(s.held_out_reference(0)[i], s.held_out(0)[i] + 1);
}

TEST(InputStatistics, RowsThatAreNotFiniteInEitherModelAreLeftOut) {
  InputStatistics s(kChannels, {});
  auto own = Rows(5, 1);
  auto reference = Rows(5, 2);
  own[kChannels] = std::numeric_limits<float>::infinity();
  reference[3 * kChannels + 1] = std::numeric_limits<float>::quiet_NaN();
  const ActivationRows other = View(reference);
  s.Update(View(own), 0, 0, 1, &other);
  EXPECT_EQ(s.non_finite_rows(), 2);
  EXPECT_EQ(s.total_count(), 3);
  for (const float x : s.Drift()) EXPECT_TRUE(std::isfinite(x));
}

TEST(InputStatistics, RefusesRowsThatDoNotPair) {
  InputStatistics s(kChannels, {});
  const auto own = Rows(5, 1);
  const auto fewer = Rows(4, 2);
  const ActivationRows other = View(fewer);
  EXPECT_THROW(s.Update(View(own), 0, 0, 1, &other), Error);
  s.Update(View(own), 0, 0, 1);
  const ActivationRows same = View(own);
  EXPECT_THROW(s.Update(View(own), 0, 0, 1, &same), Error);
}

TEST(InputStatistics, MergedDriftIsThatOfAllRows) {
  const auto own = Rows(40, 1);
  const auto reference = Rows(40, 2);
  const auto part = [&](const std::vector<float>& rows, std::int64_t begin, std::int64_t count) {
    return ActivationRows{rows.data() + begin * kChannels, DType::kF32, count, kChannels};
  };
  const auto of = [&](std::int64_t begin, std::int64_t count) {
    InputStatistics s(kChannels, {.held_out_rows = 100});
    const ActivationRows other = part(reference, begin, count);
    s.Update(part(own, begin, count), 0, 0, 1, &other);
    s.HoldOut(part(own, begin, count), 0, &other);
    return s;
  };
  InputStatistics merged = of(0, 15);
  merged.Merge(of(15, 25));
  const InputStatistics whole = of(0, 40);
  EXPECT_EQ(merged.held_out_reference(0), whole.held_out_reference(0));
  const auto got = merged.Drift();
  const auto want = whole.Drift();
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-5);
}

TEST(InputStatistics, MomentsDoNotCancelFarFromZero) {
  InputStatistics s(kChannels, {});
  for (unsigned seed = 0; seed < 20; ++seed) s.Update(View(Rows(50, seed, 1000)), 0, seed, 1);
  const Moments& m = s.channel_moments(0)[2];
  EXPECT_EQ(m.count, 1000);
  EXPECT_NEAR(m.mean, 1000, 0.2);
  EXPECT_NEAR(m.Std(), 1, 0.1);
  EXPECT_LT(m.min, 998.5F);
  EXPECT_GT(m.max, 1001.5F);
  EXPECT_EQ(s.timesteps().size(), 20U);
  EXPECT_EQ(s.timesteps().at(3).count, 50 * kChannels);
}

TEST(InputStatistics, RowsWithNanAreLeftOutAndCounted) {
  auto rows = Rows(10, 1);
  rows[2 * kChannels + 1] = std::numeric_limits<float>::quiet_NaN();
  rows[7 * kChannels + 4] = -std::numeric_limits<float>::infinity();
  InputStatistics s(kChannels, {.held_out_rows = 20});
  s.Update(View(rows), 0, 0, 1);
  s.HoldOut(View(rows), 0);
  EXPECT_EQ(s.total_count(), 8);
  EXPECT_EQ(s.held_out_count(0), 8);
  EXPECT_EQ(s.non_finite_rows(), 4);
  for (float x : s.SecondMoment()) EXPECT_TRUE(std::isfinite(x));
}

TEST(InputStatistics, Bfloat16RowsCountAsTheirValues) {
  const auto rows = Rows(10, 4);
  std::vector<std::uint16_t> narrow;
  std::vector<float> widened;
  for (float x : rows) {
    narrow.push_back(FloatToBF16(x));
    widened.push_back(BF16ToFloat(narrow.back()));
  }
  InputStatistics a(kChannels, {});
  InputStatistics b(kChannels, {});
  a.Update({narrow.data(), DType::kBF16, 10, kChannels}, 0, 0, 1);
  b.Update(View(widened), 0, 0, 1);
  EXPECT_EQ(a.SecondMoment(), b.SecondMoment());
}

TEST(InputStatistics, ReservoirHoldsWholeRowsOfAnySize) {
  InputStatistics s(kChannels, {.groups = 2, .held_out_rows = 16});
  std::vector<float> rows;
  for (int r = 0; r < 500; ++r) rows.insert(rows.end(), kChannels, static_cast<float>(r));
  s.HoldOut(View(rows), 1);
  ASSERT_EQ(s.held_out_count(1), 16);
  EXPECT_EQ(s.held_out_count(0), 0);
  std::set<float> seen;
  for (std::int64_t r = 0; r < 16; ++r) {
    for (std::int64_t c = 1; c < kChannels; ++c) {
      EXPECT_EQ(s.held_out(1)[r * kChannels + c], s.held_out(1)[r * kChannels]);
    }
    seen.insert(s.held_out(1)[r * kChannels]);
  }
  EXPECT_EQ(seen.size(), 16U);
  EXPECT_GT(*seen.rbegin(), 250);  // 16 of 500 uniform rows all in the first half: chance 2^-16
}

TEST(InputStatistics, MergeIsTheSumOfBoth) {
  const auto first = Rows(20, 1);
  const auto second = Rows(30, 2);
  InputStatistics a(kChannels, {.groups = 1, .held_out_rows = 4});
  InputStatistics b = a;
  a.Update(View(first), 0, 5, 1);
  b.Update(View(second), 0, 5, 1);
  b.HoldOut(View(Rows(9, 3)), 0);
  a.Merge(b);
  EXPECT_EQ(a.total_count(), 50);
  EXPECT_EQ(a.held_out_count(0), 4);
  EXPECT_EQ(a.held_out_offered(0), 9);
  EXPECT_NEAR(a.SecondMoment()[0], (20 * MomentOf(first, 0, 0) + 30 * MomentOf(second, 0, 0)) / 50, 1e-5);
  EXPECT_EQ(a.timesteps().at(5).count, 50 * kChannels);
  EXPECT_THROW(a.Merge(InputStatistics(kChannels + 1, {})), Error);
}

TEST(InputStatistics, ThreadsChangeNoBit) {
  const auto rows = Rows(300, 1);
  InputStatistics one(kChannels, {});
  InputStatistics two(kChannels, {});
  one.Update(View(rows), 0, 0, 1);
  two.Update(View(rows), 0, 0, 2);
  EXPECT_EQ(one.SecondMoment(), two.SecondMoment());
}

TEST(InputStatistics, RefusesOtherChannels) {
  InputStatistics s(kChannels + 1, {});
  EXPECT_THROW(s.Update(View(Rows(3, 1)), 0, 0, 1), Error);
}

TEST(ActivationStatistics, LayersThatShareAnInputFindTheSame) {
  ActivationStatistics s(TimeGroups::Uniform(1000, 10), true, 8, 0);
  const int input = s.AddInput(kChannels);
  s.MapLayer({"", "q.weight"}, {input});
  s.MapLayer({"", "k.weight"}, {input});
  EXPECT_TRUE(s.Find({"", "q.weight"}).empty()) << "no rows yet";
  s.Update(input, View(Rows(4, 1)), 950, false, 1);
  ASSERT_EQ(s.Find({"", "q.weight"}).size(), 1U);
  EXPECT_EQ(s.Find({"", "q.weight"})[0], s.Find({"", "k.weight"})[0]);
  EXPECT_EQ(s.Find({"", "q.weight"})[0]->count(9), 4);
  EXPECT_TRUE(s.Find({"", "v.weight"}).empty());
  EXPECT_THROW(s.MapLayer({"", "v.weight"}, {7}), Error);
}

}  // namespace
}  // namespace arrow_quant
