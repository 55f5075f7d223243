#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace arrow_quant {

// A width that a layer may have: what it takes and what it costs in quality.
struct BitChoice {
  int bits = 0;  // 16: as the source has it
  std::int64_t bytes = 0;
  double cost = 0;  // at least 0
};

// The widths of one layer, one at least.
using LayerChoices = std::vector<BitChoice>;

// The number of the choice of every layer.
struct Allocation {
  std::vector<std::size_t> chosen;
  std::int64_t bytes = 0;  // together
  double cost = 0;         // together
};

// Bytes and cost of given choices, one for each layer.
Allocation Sum(std::span<const LayerChoices> layers, std::vector<std::size_t> chosen);

// The fewest bytes that the layers can have.
Allocation SmallestAllocation(std::span<const LayerChoices> layers);

// From the smallest on, always the step of one layer to another width that saves most cost for a byte, while one fits.
// Where even the smallest does not fit, it is the answer.
Allocation GreedyAllocation(std::span<const LayerChoices> layers, std::int64_t budget_bytes);

// The least cost within `budget_bytes`: the multiple-choice knapsack problem, solved by the list of undominated (bytes,
// cost) pairs over the first layers, layer after layer (Nemhauser and Ullmann 1969; for multiple choices Kellerer,
// Pferschy and Pisinger 2004, Knapsack Problems, section 11.5). Exact while a list has at most `limit` pairs; a longer
// one is thinned to the cheapest pair of each of `limit` equal ranges of bytes. Never worse than GreedyAllocation and
// than one width for all layers, whatever the thinning took. Where even the smallest does not fit, it is the answer.
Allocation CheapestAllocation(std::span<const LayerChoices> layers, std::int64_t budget_bytes,
                              std::size_t limit = 8192);

// The fewest bytes whose cost is at most `most_cost`, by the same lists; the cheapest of all where none is.
Allocation SmallestAllocationWithin(std::span<const LayerChoices> layers, double most_cost, std::size_t limit = 8192);

}  // namespace arrow_quant
