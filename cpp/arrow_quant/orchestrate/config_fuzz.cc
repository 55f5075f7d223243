// A configuration from any JSON text; what is accepted is written, read again and turned into options.

#include "arrow_quant/base/fuzz_support.h"
#include "arrow_quant/orchestrate/config.h"
#include "arrow_quant/orchestrate/model_options.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using arrow_quant::DiffusionQuantConfig;
  const std::string_view text = arrow_quant::fuzz::TextOf(data, size);
  arrow_quant::fuzz::Accepts([&] {
    const std::string written = DiffusionQuantConfig::FromJson(text).ToJson();
    std::string again;
    const bool read = arrow_quant::fuzz::Accepts([&] { again = DiffusionQuantConfig::FromJson(written).ToJson(); });
    arrow_quant::fuzz::Require(read && again == written, "a configuration that was written is read back");
    static_cast<void>(arrow_quant::ModelOptionsFromJson(written));
  });
  arrow_quant::fuzz::Accepts([&] { static_cast<void>(arrow_quant::ModelOptionsFromJson(text)); });
  return 0;
}
