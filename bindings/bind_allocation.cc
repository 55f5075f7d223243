// Mixed precision's choice of bits, for tests and benchmarks.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <tuple>
#include <vector>

#include "arrow_quant/base/error.h"
#include "arrow_quant/orchestrate/bit_allocation.h"
#include "bindings.h"

namespace nb = nanobind;
using namespace nb::literals;  // NOLINT(google-build-using-namespace): how nanobind names arguments

namespace arrow_quant {
namespace {

using Choices = std::vector<std::tuple<int, std::int64_t, double>>;

std::vector<LayerChoices> LayersOf(const std::vector<Choices>& given) {
  std::vector<LayerChoices> layers;
  for (const Choices& choices : given) {
    if (choices.empty()) throw Error(ErrorCode::kInvalidArgument, "a layer has no choice");
    LayerChoices layer;
    for (const auto& [bits, bytes, cost] : choices) {
      if (bytes < 0 || !(cost >= 0)) throw Error(ErrorCode::kInvalidArgument, "bytes and costs are 0 or more");
      layer.push_back({bits, bytes, cost});
    }
    layers.push_back(std::move(layer));
  }
  return layers;
}

nb::tuple AllocatePy(const std::vector<Choices>& given, std::int64_t budget_bytes, const std::string& method) {
  const std::vector<LayerChoices> layers = LayersOf(given);
  if (method != "cheapest" && method != "greedy") {
    throw Error(ErrorCode::kInvalidArgument, "method is '" + method + "'", {.remedy = "Use cheapest or greedy."});
  }
  const Allocation found =
      method == "greedy" ? GreedyAllocation(layers, budget_bytes) : CheapestAllocation(layers, budget_bytes);
  std::vector<int> bits;
  bits.reserve(layers.size());
  for (std::size_t l = 0; l < layers.size(); ++l) bits.push_back(layers[l][found.chosen[l]].bits);
  return nb::make_tuple(bits, found.bytes, found.cost);
}

}  // namespace

void BindAllocation(nanobind::module_& m) {
  m.def("allocate_bits", &AllocatePy, "layers"_a, "budget_bytes"_a, "method"_a = "cheapest",
        "Bits of every layer, their bytes and cost together; layers are lists of (bits, bytes, cost).");
}

}  // namespace arrow_quant
