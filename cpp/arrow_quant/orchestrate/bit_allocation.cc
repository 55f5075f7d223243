#include "arrow_quant/orchestrate/bit_allocation.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

namespace arrow_quant {
namespace {

// A choice for each of the first layers, as the choice of the last of them and the pair that it was added to.
struct Pair {
  std::int64_t bytes = 0;
  double cost = 0;
  std::uint32_t choice = 0;
  std::uint32_t before = 0;  // its number in the list of the layers before
};

using PairList = std::vector<Pair>;

// Leaves the pairs that no other beats in both figures, by rising bytes and falling cost.
void RemoveDominated(PairList& pairs) {
  std::sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) {
    if (a.bytes != b.bytes) return a.bytes < b.bytes;
    if (a.cost != b.cost) return a.cost < b.cost;
    return std::pair(a.before, a.choice) < std::pair(b.before, b.choice);
  });
  double least = std::numeric_limits<double>::infinity();
  std::erase_if(pairs, [&](const Pair& pair) {
    if (pair.cost >= least) return true;
    least = pair.cost;
    return false;
  });
}

// Of every range of bytes the last, which is the cheapest; the smallest pair of all stays.
void Thin(PairList& pairs, std::size_t limit) {
  if (pairs.size() <= limit || limit < 2) return;
  const std::int64_t first = pairs.front().bytes;
  const double width = static_cast<double>(pairs.back().bytes - first + 1) / static_cast<double>(limit - 1);
  const auto range = [&](const Pair& pair) {
    return static_cast<std::int64_t>(static_cast<double>(pair.bytes - first) / width);
  };
  PairList kept = {pairs.front()};
  for (std::size_t i = 1; i < pairs.size(); ++i) {
    if (i + 1 == pairs.size() || range(pairs[i]) != range(pairs[i + 1])) kept.push_back(pairs[i]);
  }
  pairs = std::move(kept);
}

std::int64_t FewestBytes(const LayerChoices& choices) {
  return std::min_element(choices.begin(), choices.end(),
                          [](const auto& a, const auto& b) { return a.bytes < b.bytes; })
      ->bytes;
}

// Undominated pairs over all layers up to each; those from which no way leads into the budget are left out.
std::vector<PairList> Lists(std::span<const LayerChoices> layers, std::int64_t budget_bytes, std::size_t limit) {
  std::int64_t rest = 0;  // the least that the layers to come take
  for (const LayerChoices& choices : layers) rest += FewestBytes(choices);
  std::vector<PairList> lists = {{Pair{}}};
  for (const LayerChoices& choices : layers) {
    rest -= FewestBytes(choices);
    PairList next;
    for (std::uint32_t before = 0; before < lists.back().size(); ++before) {
      const Pair& pair = lists.back()[before];
      for (std::uint32_t c = 0; c < choices.size(); ++c) {
        if (pair.bytes + choices[c].bytes > budget_bytes - rest) continue;
        next.push_back({pair.bytes + choices[c].bytes, pair.cost + choices[c].cost, c, before});
      }
    }
    RemoveDominated(next);
    Thin(next, limit);
    next.shrink_to_fit();
    lists.push_back(std::move(next));
  }
  return lists;
}

std::vector<std::size_t> TraceBack(const std::vector<PairList>& lists, std::size_t last) {
  std::vector<std::size_t> chosen(lists.size() - 1);
  for (std::size_t l = lists.size() - 1, at = last; l > 0; --l) {
    chosen[l - 1] = lists[l][at].choice;
    at = lists[l][at].before;
  }
  return chosen;
}

// A change of one layer to another of its choices.
struct Step {
  std::size_t layer = 0;
  std::size_t choice = 0;
  double saved = 0;  // cost
  std::int64_t bytes = 0;
};

// More cost saved for a byte; a step that takes no bytes is better than any that does.
bool IsBetter(const Step& a, const Step& b) {
  if (a.bytes <= 0 || b.bytes <= 0) return a.bytes <= 0 && (b.bytes > 0 || a.saved > b.saved);
  return a.saved * static_cast<double>(b.bytes) > b.saved * static_cast<double>(a.bytes);
}

std::optional<Step> BestStep(std::span<const LayerChoices> layers, const Allocation& from, std::int64_t budget_bytes) {
  std::optional<Step> best;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const BitChoice& now = layers[l][from.chosen[l]];
    for (std::size_t c = 0; c < layers[l].size(); ++c) {
      const BitChoice& other = layers[l][c];
      const Step step{l, c, now.cost - other.cost, other.bytes - now.bytes};
      if (step.saved <= 0 || from.bytes + step.bytes > budget_bytes) continue;
      if (!best || IsBetter(step, *best)) best = step;
    }
  }
  return best;
}

// Every step lowers the cost, so that this ends.
Allocation Improve(std::span<const LayerChoices> layers, Allocation from, std::int64_t budget_bytes) {
  while (const auto step = BestStep(layers, from, budget_bytes)) {
    from.chosen[step->layer] = step->choice;
    from = Sum(layers, std::move(from.chosen));
  }
  return from;
}

// One width for all layers that can have it; the others take what is next above, or their widest.
Allocation UniformAllocation(std::span<const LayerChoices> layers, int bits) {
  std::vector<std::size_t> chosen;
  for (const LayerChoices& choices : layers) {
    std::size_t best = 0;
    for (std::size_t c = 1; c < choices.size(); ++c) {
      const int width = choices[c].bits;
      const int now = choices[best].bits;
      if (now < bits ? width > now : width >= bits && width < now) best = c;
    }
    chosen.push_back(best);
  }
  return Sum(layers, std::move(chosen));
}

// The allocations that a solution must not be worse than.
std::vector<Allocation> Simple(std::span<const LayerChoices> layers, std::int64_t budget_bytes) {
  std::vector<Allocation> found = {GreedyAllocation(layers, budget_bytes)};
  for (const int bits : {2, 3, 4, 8, 16}) found.push_back(UniformAllocation(layers, bits));
  return found;
}

bool IsCheaper(const Allocation& a, const Allocation& b) {
  return a.cost != b.cost ? a.cost < b.cost : a.bytes < b.bytes;
}

}  // namespace

Allocation Sum(std::span<const LayerChoices> layers, std::vector<std::size_t> chosen) {
  Allocation sum{std::move(chosen), 0, 0};
  for (std::size_t l = 0; l < layers.size(); ++l) {
    sum.bytes += layers[l][sum.chosen[l]].bytes;
    sum.cost += layers[l][sum.chosen[l]].cost;
  }
  return sum;
}

Allocation SmallestAllocation(std::span<const LayerChoices> layers) {
  std::vector<std::size_t> chosen;
  for (const LayerChoices& choices : layers) {
    const auto least = std::min_element(choices.begin(), choices.end(), [](const BitChoice& a, const BitChoice& b) {
      return std::pair(a.bytes, a.cost) < std::pair(b.bytes, b.cost);
    });
    chosen.push_back(static_cast<std::size_t>(least - choices.begin()));
  }
  return Sum(layers, std::move(chosen));
}

Allocation GreedyAllocation(std::span<const LayerChoices> layers, std::int64_t budget_bytes) {
  return Improve(layers, SmallestAllocation(layers), budget_bytes);
}

Allocation CheapestAllocation(std::span<const LayerChoices> layers, std::int64_t budget_bytes, std::size_t limit) {
  Allocation best = SmallestAllocation(layers);
  if (best.bytes > budget_bytes) return best;
  const std::vector<PairList> lists = Lists(layers, budget_bytes, limit);
  best = Improve(layers, Sum(layers, TraceBack(lists, lists.back().size() - 1)), budget_bytes);
  for (Allocation& simple : Simple(layers, budget_bytes)) {
    if (simple.bytes <= budget_bytes && IsCheaper(simple, best)) best = std::move(simple);
  }
  return best;
}

Allocation SmallestAllocationWithin(std::span<const LayerChoices> layers, double most_cost, std::size_t limit) {
  const std::vector<PairList> lists = Lists(layers, std::numeric_limits<std::int64_t>::max(), limit);
  const PairList& pairs = lists.back();
  // Costs fall along the list; sums in another order differ in their last digits, so that Sum() judges.
  for (std::size_t i = 0; i + 1 < pairs.size(); ++i) {
    if (pairs[i].cost > most_cost * (1 + 1e-12)) continue;
    Allocation found = Sum(layers, TraceBack(lists, i));
    if (found.cost <= most_cost) return found;
  }
  return Sum(layers, TraceBack(lists, pairs.size() - 1));
}

}  // namespace arrow_quant
