// A Parquet model, of any layout, from any bytes: what is accepted is loaded, and expanded where it is an older layout.

#include <cstdlib>
#include <vector>

#include "arrow_quant/base/fuzz_support.h"
#include "arrow_quant/io/parquet/legacy.h"
#include "arrow_quant/io/parquet/model_reader.h"

namespace {

using arrow_quant::LoadedTensor;
using arrow_quant::ParquetLayout;
using arrow_quant::ParquetModel;
using arrow_quant::fuzz::Accepts;
using arrow_quant::fuzz::Require;

void Expand(const LoadedTensor& tensor) {
  for (const bool msb_first : {false, true}) {
    const arrow_quant::LegacyTensor legacy = NormalizeLegacy(tensor, {.msb_first = msb_first});
    std::vector<float> out(legacy.num_params);
    DequantizeLegacy(legacy, out.data());
  }
}

void LoadAll(const std::filesystem::path& path) {
  const ParquetModel model = ParquetModel::Open(path);
  for (std::size_t i = 0; i < model.tensors().size(); ++i) {
    Accepts([&] {
      const LoadedTensor tensor = model.Load(i);
      Require(tensor.record.layer_name == model.tensors()[i].record.layer_name, "a tensor is the one listed");
      if (tensor.layout != ParquetLayout::kArrowQuant) Expand(tensor);
    });
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  // The sanitizer sees reads past a buffer only where Arrow takes its memory from malloc.
  ::setenv("ARROW_DEFAULT_MEMORY_POOL", "system", 1);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const arrow_quant::fuzz::ScratchDirectory scratch;
  // What an empty data cell of four weights refers to.
  static const auto companion = scratch.Write("model.bin", std::string(16, '\0'));
  const auto path = scratch.Write("model.parquet", arrow_quant::fuzz::TextOf(data, size));
  Accepts([&] { LoadAll(path); });
  return 0;
}
