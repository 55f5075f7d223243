// What each profile changes in the defaults of config.h, which are those of "local".

#include <array>

#include "arrow_quant/base/error.h"
#include "arrow_quant/orchestrate/config.h"
#include "arrow_quant/orchestrate/config_fields.h"

namespace arrow_quant {
namespace {

// Phones and small boards: the smallest model.
DiffusionQuantConfig Edge() {
  DiffusionQuantConfig config;
  config.deployment_profile = "edge";
  config.bit_width = 2;
  config.num_time_groups = 5;
  config.group_size = 256;
  config.enable_spatial = false;
  config.min_accuracy = 0.65;
  config.calibration_samples = 32;
  config.target_size_mb = 35.0;
  return config;
}

// Servers: the best quality.
DiffusionQuantConfig Cloud() {
  DiffusionQuantConfig config;
  config.deployment_profile = "cloud";
  config.bit_width = 8;
  config.num_time_groups = 20;
  config.group_size = 64;
  config.min_accuracy = 0.95;
  config.calibration_samples = 512;
  config.target_size_mb = 2000.0;
  return config;
}

// Any model: weights only as far as the configuration goes, without timesteps or image logic.
DiffusionQuantConfig Base() {
  DiffusionQuantConfig config;
  config.num_time_groups = 1;
  config.enable_time_aware = false;
  config.enable_spatial = false;
  config.min_accuracy = 0.90;
  config.target_size_mb.reset();
  config.enable_streaming = false;
  config.enable_memory_aware_scheduling = false;
  config.use_arrow = false;
  return config;
}

}  // namespace

std::span<const std::string_view> ConfigProfiles() {
  static constexpr std::array<std::string_view, 4> kProfiles = {"edge", "local", "cloud", "base"};
  return kProfiles;
}

DiffusionQuantConfig DiffusionQuantConfig::FromProfile(std::string_view name) {
  if (name == "local") return {};
  if (name == "edge") return Edge();
  if (name == "cloud") return Cloud();
  if (name == "base") return Base();
  throw Error(ErrorCode::kConfiguration, "there is no profile '" + std::string(name) + "'",
              {.remedy = "Use edge, local, cloud or base."});
}

}  // namespace arrow_quant
