#pragma once

#include <string>

#include "arrow_quant/model/source.h"
#include "arrow_quant/orchestrate/model_calibration.h"
#include "arrow_quant/orchestrate/model_options.h"

namespace arrow_quant {

// Of all components' checkpoints, in their order: hashes of names, sizes, times and headers.
std::string SourceFingerprint(const ModelSource& source);

// What the bytes of an output depend on, as the text of a JSON object: the program's version, the options that change
// bytes (not the number of threads), fingerprints of the source, and the contents of the calibration. Two runs with
// equal keys may continue each other. Throws Error kIo.
std::string RunKey(const ModelSource& source, const ModelOptions& options, const ModelCalibration& calibration);

// What differs between two keys, for a sentence: "the source has changed, bit_width was 4 and is 2"; empty when
// nothing does.
std::string DescribeKeyChange(const std::string& before, const std::string& now);

}  // namespace arrow_quant
