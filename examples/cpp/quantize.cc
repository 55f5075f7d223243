// Quantize a model and print what became of its layers: quantize MODEL OUTPUT [BITS]
#include <cstdio>
#include <cstdlib>
#include <string>

#include "arrow_quant/base/error.h"
#include "arrow_quant/orchestrate/diffusion_orchestrator.h"

namespace {

arrow_quant::ModelResult Quantize(const std::string& model, const std::string& output, int bits) {
  auto config = arrow_quant::DiffusionQuantConfig::FromProfile("local");
  config.bit_width = bits;
  config.group_size = 64;
  const arrow_quant::DiffusionOrchestrator orchestrator(config, {.overwrite = true});
  return orchestrator.QuantizeModel(model, output, [](const std::string& layer, double fraction) {
    std::fprintf(stderr, "\r%3.0f %% %-60.60s", 100 * fraction, layer.c_str());
  });
}

void Print(const arrow_quant::ModelResult& result) {
  std::printf("%-56s %4s %10s %9s %8s\n", "layer", "bits", "weights", "cosine", "SQNR dB");
  for (const arrow_quant::TensorReport& layer : result.tensors) {
    if (!layer.quantized) continue;
    std::printf("%-56.56s %4d %10lld %9.5f %8.2f\n", layer.name.c_str(), layer.bits,
                static_cast<long long>(layer.num_params), layer.cosine, layer.sqnr_db);
  }
  std::printf("%s model: %.2f MB of %.2f MB, %.2f times smaller, %.2f bits per weight\n", result.modality.c_str(),
              result.model_size_mb(), result.source_size_mb(), result.compression_ratio(), result.bits_per_weight());
  std::printf("%lld of %lld layers fell back\n", static_cast<long long>(result.layers_fallen_back()),
              static_cast<long long>(result.layers_quantized()));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: quantize MODEL OUTPUT [BITS]\n");
    return 2;
  }
  try {
    const auto result = Quantize(argv[1], argv[2], argc > 3 ? std::atoi(argv[3]) : 4);
    std::fprintf(stderr, "\n");
    Print(result);
    return 0;
  } catch (const arrow_quant::Error& error) {
    std::fprintf(stderr, "\nerror: %s\n", error.what());
    return error.code() == arrow_quant::ErrorCode::kConfiguration ? 2 : 3;
  }
}
