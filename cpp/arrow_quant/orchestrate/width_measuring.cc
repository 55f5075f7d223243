#include "arrow_quant/orchestrate/width_measuring.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>

#include "arrow_quant/base/error.h"
#include "arrow_quant/base/thread_pool.h"
#include "arrow_quant/io/atomic_file.h"
#include "arrow_quant/io/parquet/encoded_size.h"
#include "arrow_quant/orchestrate/float8_weight.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// As in a run: layers side by side, at most so many and so many weights together.
constexpr std::size_t kBatchTensors = 64;
constexpr std::int64_t kBatchWeights = std::int64_t{1} << 22;
constexpr std::size_t kMaxFileBytes = std::size_t{256} << 20;

std::string Line(const TensorNumber& number, const std::vector<WidthFigures>& widths) {
  Json figures = Json::array();
  for (const WidthFigures& w : widths) figures.push_back(Json::array({w.bits, w.bytes, w.error, w.cosine}));
  return Json::array({number.first, number.second, std::move(figures)}).dump() + "\n";
}

void ReadLine(const std::string& line, MeasuredWidths& measured) {
  const Json json = Json::parse(line);
  std::vector<WidthFigures> widths;
  for (const Json& w : json.at(2)) {
    widths.push_back({w.at(0).get<int>(), w.at(1).get<std::int64_t>(), w.at(2).get<double>(), w.at(3).get<double>()});
  }
  measured[{json.at(0).get<std::size_t>(), json.at(1).get<std::size_t>()}] = std::move(widths);
}

// The figures of an earlier run of the same key, as far as its last whole line, which is what the file then holds.
MeasuredWidths Restore(const fs::path& file) {
  MeasuredWidths measured;
  std::error_code error;
  if (file.empty() || !fs::exists(file, error)) return measured;
  std::istringstream text(ReadSmallFile(file, kMaxFileBytes));
  std::string valid;
  for (std::string line; std::getline(text, line) && !text.eof();) {
    try {
      ReadLine(line, measured);
    } catch (const Json::exception&) {
      break;
    }
    valid += line + "\n";
  }
  WriteFileAtomically(file, valid);
  return measured;
}

void Append(const fs::path& file, const std::string& lines) {
  if (file.empty()) return;
  std::ofstream out(file, std::ios::app | std::ios::binary);
  out << lines << std::flush;
  if (!out) throw Error(ErrorCode::kIo, "cannot write what was measured", {.file = file.string()});
}

class Measuring {
 public:
  Measuring(const std::vector<PrecisionComponent>& components, const TensorContext& context, const fs::path& file,
            const MeasuringProgress& progress, const std::stop_token& stop)
      : components_(components), context_(context), file_(file), progress_(progress), stop_(stop) {}

  MeasuredWidths Run() {
    measured_ = Restore(file_);
    const std::vector<TensorNumber> numbers = Missing();
    for (std::size_t begin = 0; begin < numbers.size();) {
      if (stop_.stop_requested()) throw Error(ErrorCode::kCancelled, "stopped on request");
      const std::size_t end = BatchEnd(numbers, begin);
      MeasureBatch(
          {numbers.begin() + static_cast<std::ptrdiff_t>(begin), numbers.begin() + static_cast<std::ptrdiff_t>(end)});
      begin = end;
    }
    return std::move(measured_);
  }

 private:
  const TensorInfo& Info(const TensorNumber& n) const {
    return components_[n.first].source.checkpoint.tensors()[n.second];
  }

  // Layers that are not measured yet; counts all weights.
  std::vector<TensorNumber> Missing() {
    std::vector<TensorNumber> numbers;
    for (std::size_t c = 0; c < components_.size(); ++c) {
      for (std::size_t t = 0; t < components_[c].plans.size(); ++t) {
        const TensorPlan& plan = components_[c].plans[t];
        if (!plan.decision.quantize || plan.merged) continue;
        all_ += Info({c, t}).num_elements;
        if (measured_.contains({c, t})) {
          done_ += Info({c, t}).num_elements;
        } else {
          numbers.emplace_back(c, t);
        }
      }
    }
    return numbers;
  }

  std::size_t BatchEnd(const std::vector<TensorNumber>& numbers, std::size_t begin) const {
    std::int64_t weights = Info(numbers[begin]).num_elements;
    std::size_t end = begin + 1;
    while (end < numbers.size() && end - begin < kBatchTensors && numbers[end].first == numbers[begin].first &&
           weights + Info(numbers[end]).num_elements <= kBatchWeights) {
      weights += Info(numbers[end++]).num_elements;
    }
    return end;
  }

  void MeasureBatch(const std::vector<TensorNumber>& batch) {
    std::vector<std::vector<WidthFigures>> figures(batch.size());
    ThreadPool::Shared().ParallelFor(
        static_cast<std::int64_t>(batch.size()), context_.options.num_threads,
        [&](std::int64_t i) { figures[static_cast<std::size_t>(i)] = Measure(batch[static_cast<std::size_t>(i)]); },
        stop_);
    const Checkpoint& checkpoint = components_[batch.front().first].source.checkpoint;
    checkpoint.RefuseChanged();
    std::string lines;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      lines += Line(batch[i], figures[i]);
      done_ += Info(batch[i]).num_elements;
      checkpoint.Release(Info(batch[i]));
      measured_[batch[i]] = std::move(figures[i]);
    }
    Append(file_, lines);
    if (progress_)
      progress_("measuring " + Info(batch.back()).name, static_cast<double>(done_) / static_cast<double>(all_));
  }

  std::vector<WidthFigures> Measure(const TensorNumber& number) const {
    const PrecisionComponent& component = components_[number.first];
    const TensorPlan& plan = component.plans[number.second];
    const TensorInfo& info = Info(number);
    const Checkpoint& checkpoint = component.source.checkpoint;
    if (plan.scale == nullptr) return MeasureBytes(number, info, checkpoint.Data(info));
    const ExpandedWeight weight = ExpandFloat8(checkpoint, info, *plan.scale);
    return MeasureBytes(number, weight.info, weight.bytes());
  }

  std::vector<WidthFigures> MeasureBytes(const TensorNumber& number, const TensorInfo& info,
                                         std::span<const std::byte> bytes) const {
    const TensorPlan& plan = components_[number.first].plans[number.second];
    const std::string& component = components_[number.first].source.name;
    const TensorJob job{info, bytes, plan.decision, plan.bits, component};
    std::vector<WidthFigures> widths = MeasureWidths(job, context_, WidthsToMeasure(plan), stop_);
    if (widths.empty() || plan.fixed) return widths;
    // With its scale applied, an 8-bit float weight is kept as bfloat16.
    std::uint64_t kept =
        plan.scale != nullptr ? static_cast<std::uint64_t>(2 * info.num_elements) : EncodedBytes(bytes);
    kept += EncodedRowOverhead(kept);
    widths.push_back({16, static_cast<std::int64_t>(kept), 0, 1});
    return widths;
  }

  const std::vector<PrecisionComponent>& components_;
  const TensorContext& context_;
  const fs::path& file_;
  const MeasuringProgress& progress_;
  const std::stop_token& stop_;
  MeasuredWidths measured_;
  std::int64_t all_ = 0;  // weights
  std::int64_t done_ = 0;
};

}  // namespace

std::vector<int> WidthsToMeasure(const TensorPlan& plan) {
  if (plan.fixed) return {plan.bits};
  if (plan.protect) return {8};
  return {2, 3, 4, 8};
}

MeasuredWidths MeasureLayers(const std::vector<PrecisionComponent>& components, const TensorContext& context,
                             const fs::path& file, const MeasuringProgress& progress, const std::stop_token& stop) {
  return Measuring(components, context, file, progress, stop).Run();
}

std::int64_t KeptBytes(const std::vector<PrecisionComponent>& components) {
  std::uint64_t total = 0;
  for (const PrecisionComponent& component : components) {
    const Checkpoint& checkpoint = component.source.checkpoint;
    total += kEncodedFileOverhead * checkpoint.files().size();
    for (std::size_t t = 0; t < component.plans.size(); ++t) {
      const TensorPlan& plan = component.plans[t];
      if (plan.decision.quantize || plan.merged) continue;
      const TensorInfo& info = checkpoint.tensors()[t];
      const std::uint64_t bytes = plan.scale != nullptr ? static_cast<std::uint64_t>(2 * info.num_elements)
                                                        : EncodedBytes(checkpoint.Data(info));
      total += bytes + EncodedRowOverhead(bytes);
      checkpoint.Release(info);
    }
  }
  return static_cast<std::int64_t>(total);
}

}  // namespace arrow_quant
