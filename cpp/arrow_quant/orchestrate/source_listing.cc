#include "arrow_quant/orchestrate/source_listing.h"

#include <nlohmann/json.hpp>

#include "arrow_quant/model/scale_plan.h"
#include "arrow_quant/model/source.h"

namespace arrow_quant {
namespace {

nlohmann::json Place(const Checkpoint& checkpoint, const TensorInfo& info) {
  const auto& file = checkpoint.files()[static_cast<std::size_t>(info.file_index)].path;
  return {{"dtype", TorchName(info.dtype)},
          {"shape", info.shape},
          {"file", file.string()},
          {"offset", info.offset},
          {"num_bytes", info.num_bytes}};
}

}  // namespace

std::string ListSourceTensors(const std::filesystem::path& path) {
  const ModelSource source = ResolveModel(path);
  nlohmann::json list = nlohmann::json::array();
  for (const SourceComponent& component : source.components) {
    const Checkpoint& checkpoint = component.checkpoint;
    const ScalePlan scales = PlanScales(component.scale_for, checkpoint.tensors(), component.config_json);
    for (const TensorInfo& info : checkpoint.tensors()) {
      nlohmann::json entry = Place(checkpoint, info);
      entry["component"] = component.name;
      entry["name"] = info.name;
      entry["merged"] = scales.merged.contains(info.name);
      if (const auto found = scales.weights.find(info.name); found != scales.weights.end()) {
        entry["scale"] = Place(checkpoint, *checkpoint.Find(found->second.scale));
        entry["scale"]["row_block"] = found->second.row_block;
        entry["scale"]["column_block"] = found->second.column_block;
      }
      list.push_back(std::move(entry));
    }
  }
  return list.dump();
}

}  // namespace arrow_quant
