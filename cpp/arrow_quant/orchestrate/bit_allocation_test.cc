#include "arrow_quant/orchestrate/bit_allocation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace arrow_quant {
namespace {

using Layers = std::vector<LayerChoices>;

// Layers of random size and sensitivity with errors that fall with the bits, now and then not, as measured ones.
Layers RandomLayers(std::size_t count, std::mt19937& random) {
  std::uniform_int_distribution<std::int64_t> weights(64, 4096);
  std::uniform_real_distribution<double> noise(0.3, 3);
  Layers layers;
  for (std::size_t l = 0; l < count; ++l) {
    const std::int64_t n = weights(random);
    const double sensitivity = noise(random) * noise(random) * noise(random);
    LayerChoices choices;
    for (const int bits : {2, 3, 4, 8}) {
      choices.push_back({bits, n * bits / 8 + 16, sensitivity * noise(random) / static_cast<double>(1 << (2 * bits))});
    }
    choices.push_back({16, 2 * n, 0});
    layers.push_back(choices);
  }
  return layers;
}

// Calls visit(allocation) for every combination.
template <typename Visit>
void ForAll(const Layers& layers, const Visit& visit) {
  std::vector<std::size_t> chosen(layers.size());
  for (;;) {
    visit(Sum(layers, chosen));
    std::size_t l = 0;
    while (l < layers.size() && ++chosen[l] == layers[l].size()) chosen[l++] = 0;
    if (l == layers.size()) return;
  }
}

std::int64_t BudgetBetween(const Layers& layers, double part) {
  const std::int64_t least = SmallestAllocation(layers).bytes;
  std::int64_t most = 0;
  for (const LayerChoices& choices : layers) most += choices.back().bytes;
  return least + static_cast<std::int64_t>(part * static_cast<double>(most - least));
}

TEST(BitAllocation, IsTheBestOfAllCombinations) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> part(0, 1);
  for (int trial = 0; trial < 60; ++trial) {
    const Layers layers = RandomLayers(1 + static_cast<std::size_t>(trial) % 5, random);
    const std::int64_t budget = BudgetBetween(layers, part(random));
    double best = std::numeric_limits<double>::infinity();
    ForAll(layers, [&](const Allocation& a) {
      if (a.bytes <= budget) best = std::min(best, a.cost);
    });
    const Allocation found = CheapestAllocation(layers, budget);
    EXPECT_LE(found.bytes, budget);
    EXPECT_DOUBLE_EQ(found.cost, best);
  }
}

TEST(BitAllocation, IsTheSmallestOfAllWithinAnError) {
  std::mt19937 random(2);
  std::uniform_real_distribution<double> exponent(-6, 0);
  for (int trial = 0; trial < 60; ++trial) {
    const Layers layers = RandomLayers(1 + static_cast<std::size_t>(trial) % 5, random);
    const double most = std::pow(10, exponent(random));
    std::int64_t best = std::numeric_limits<std::int64_t>::max();
    ForAll(layers, [&](const Allocation& a) {
      if (a.cost <= most) best = std::min(best, a.bytes);
    });
    const Allocation found = SmallestAllocationWithin(layers, most);
    EXPECT_LE(found.cost, most);
    EXPECT_EQ(found.bytes, best);
  }
}

TEST(BitAllocation, IsNeverWorseThanGreedyOrUniformHoweverThinTheLists) {
  std::mt19937 random(3);
  std::uniform_real_distribution<double> part(0, 1);
  for (const std::size_t limit : {std::size_t{2}, std::size_t{16}, std::size_t{512}}) {
    for (int trial = 0; trial < 20; ++trial) {
      const Layers layers = RandomLayers(40, random);
      const std::int64_t budget = BudgetBetween(layers, part(random));
      const Allocation found = CheapestAllocation(layers, budget, limit);
      EXPECT_LE(found.bytes, budget);
      EXPECT_LE(found.cost, GreedyAllocation(layers, budget).cost);
      for (std::size_t c = 0; c < 5; ++c) {
        const Allocation uniform = Sum(layers, std::vector<std::size_t>(layers.size(), c));
        EXPECT_LE(CheapestAllocation(layers, uniform.bytes, limit).cost, uniform.cost);
      }
    }
  }
}

TEST(BitAllocation, BeatsGreedyWhereOneLargeStepIsBetterThanTwoSmall) {
  const Layers layers = {{{2, 10, 8}, {4, 11, 6}}, {{2, 10, 10}, {4, 20, 0}}};
  EXPECT_EQ(GreedyAllocation(layers, 30).cost, 16);  // the first byte saves 2, then nothing fits
  EXPECT_EQ(CheapestAllocation(layers, 30).cost, 8);
}

TEST(BitAllocation, IsTheSmallestWhereNothingFits) {
  std::mt19937 random(4);
  const Layers layers = RandomLayers(5, random);
  const Allocation smallest = SmallestAllocation(layers);
  EXPECT_EQ(CheapestAllocation(layers, smallest.bytes - 1).bytes, smallest.bytes);
  EXPECT_EQ(CheapestAllocation(layers, 0).chosen, smallest.chosen);
  EXPECT_EQ(GreedyAllocation(layers, 0).chosen, smallest.chosen);
}

TEST(BitAllocation, ServesLayersWithOneChoiceAndNoLayers) {
  EXPECT_EQ(CheapestAllocation({}, 0).chosen.size(), 0U);
  EXPECT_EQ(SmallestAllocationWithin({}, 0).bytes, 0);
  const Layers layers = {{{8, 100, 0.5}}, {{2, 10, 3}, {16, 80, 0}}};
  EXPECT_EQ(CheapestAllocation(layers, 150).bytes, 110);
  EXPECT_EQ(CheapestAllocation(layers, 180).bytes, 180);
  EXPECT_EQ(SmallestAllocationWithin(layers, 0).bytes, 180);  // 0.5 is as little as there is
}

}  // namespace
}  // namespace arrow_quant
