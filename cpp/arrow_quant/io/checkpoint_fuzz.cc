// The index of a sharded checkpoint from any text, beside two valid shards. The same text is also taken for a file
// name.

#include "arrow_quant/base/fuzz_support.h"
#include "arrow_quant/io/checkpoint.h"
#include "arrow_quant/io/checkpoint_layout.h"
#include "arrow_quant/io/safetensors/test_files.h"

namespace {

using arrow_quant::Checkpoint;
using arrow_quant::TensorInfo;
using arrow_quant::fuzz::Require;

const arrow_quant::fuzz::ScratchDirectory& Shards() {
  static const arrow_quant::fuzz::ScratchDirectory directory;
  static const bool written = [] {
    directory.Write("a.safetensors", arrow_quant::testing::SafetensorsNamed({"a", "b"}));
    directory.Write("c.safetensors", arrow_quant::testing::SafetensorsNamed({"c"}));
    return true;
  }();
  static_cast<void>(written);
  return directory;
}

void OpenAndRead(const std::filesystem::path& index) {
  const Checkpoint checkpoint = Checkpoint::OpenIndex(index);
  std::int64_t bytes = 0;
  for (const TensorInfo& info : checkpoint.tensors()) {
    Require(checkpoint.Data(info).size() == static_cast<std::size_t>(info.num_bytes), "a tensor has its bytes");
    Require(checkpoint.Find(info.name) != nullptr, "a tensor is found by its name");
    bytes += info.num_bytes;
  }
  Require(bytes == checkpoint.total_bytes(), "the bytes of the tensors add up");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = arrow_quant::fuzz::TextOf(data, size);
  const auto name = arrow_quant::ParseWeightFileName(text);
  Require(!name || name->shard <= name->shard_count, "a shard is one of its count");
  const auto index = Shards().Write("model.safetensors.index.json", text);
  arrow_quant::fuzz::Accepts([&] { OpenAndRead(index); });
  return 0;
}
