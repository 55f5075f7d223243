#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace arrow_quant {

// What a saved plan says of one tensor.
struct PlannedTensor {
  std::string component;
  std::string name;
  std::vector<std::int64_t> shape;
  int bits = 16;                // 16: kept
  std::int64_t group_size = 0;  // 0: the run's
  std::string method;           // "ldlq", "min_max", "fitted"; empty: the run's
};

// A plan as PlanModel makes it (its JSON), or the result of a run, which has the same lists; maybe edited since.
struct SavedPlan {
  std::string file;  // for messages
  std::vector<PlannedTensor> tensors;
};

// Reads the lists "layers" and "kept" of a plan. Of an entry bits, group_size, method and keep (true: as 16 bits) may
// be edited, and a kept one may be given bits; what the other keys say is not looked at. Throws Error kConfiguration,
// naming file, tensor and key: no plan, an unknown key, a value that is impossible, a tensor that occurs twice.
SavedPlan ParsePlan(std::string_view text, const std::string& file = {});
// Throws Error kModelNotFound or kIo where the file cannot be read.
SavedPlan LoadPlan(const std::filesystem::path& file);

// What the plan decides, as one line of JSON; equal plans give equal text.
std::string FormatPlan(const SavedPlan& plan);

}  // namespace arrow_quant
