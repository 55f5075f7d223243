#include "arrow_quant/orchestrate/source_listing.h"

#include <nlohmann/json.hpp>

#include "arrow_quant/model/source.h"

namespace arrow_quant {

std::string ListSourceTensors(const std::filesystem::path& path) {
  const ModelSource source = ResolveModel(path);
  nlohmann::json list = nlohmann::json::array();
  for (const SourceComponent& component : source.components) {
    for (const TensorInfo& info : component.checkpoint.tensors()) {
      const auto& file = component.checkpoint.files()[static_cast<std::size_t>(info.file_index)].path;
      list.push_back({{"component", component.name},
                      {"name", info.name},
                      {"dtype", TorchName(info.dtype)},
                      {"shape", info.shape},
                      {"file", file.string()},
                      {"offset", info.offset},
                      {"num_bytes", info.num_bytes}});
    }
  }
  return list.dump();
}

}  // namespace arrow_quant
