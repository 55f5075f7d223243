#include "arrow_quant/orchestrate/statistics_file.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/checksum.h"

namespace arrow_quant {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kFormatVersion = 1;
constexpr std::size_t kRecentInputs = 2;
constexpr std::size_t kMomentFields = 5;

[[noreturn]] void ThrowCorrupt(const std::string& file, const std::string& what) {
  throw Error(ErrorCode::kCorruptFile, what,
              {.file = file, .remedy = "Make the file again with arrow-quant calibrate."});
}

AlignedVector<float> UpperTriangle(const AlignedVector<float>& full, std::int64_t n) {
  AlignedVector<float> upper;
  upper.reserve(static_cast<std::size_t>(n * (n + 1) / 2));
  for (std::int64_t i = 0; i < n; ++i) upper.insert(upper.end(), full.begin() + i * n + i, full.begin() + (i + 1) * n);
  return upper;
}

AlignedVector<float> FromUpperTriangle(const AlignedVector<float>& upper, std::int64_t n, const std::string& file) {
  if (upper.size() != static_cast<std::size_t>(n * (n + 1) / 2)) ThrowCorrupt(file, "a second moment has another size");
  AlignedVector<float> full(static_cast<std::size_t>(n * n), 0.0F);
  const float* from = upper.data();
  for (std::int64_t i = 0; i < n; ++i) {
    std::copy(from, from + (n - i), full.begin() + i * n + i);
    from += n - i;
  }
  return full;
}

// Counts are exact up to 2^24 as one float; two hold any count of rows.
void PushCount(double count, AlignedVector<float>& out) {
  const double high = std::floor(count / 16777216.0);
  out.push_back(static_cast<float>(high));
  out.push_back(static_cast<float>(count - high * 16777216.0));
}

double CountOf(const float* pair) { return static_cast<double>(pair[0]) * 16777216.0 + static_cast<double>(pair[1]); }

// Two floats for the count, then mean, mean square deviation, min, max: six arrays of one length side by side.
AlignedVector<float> PackMoments(const std::vector<Moments>& moments) {
  AlignedVector<float> out;
  for (const Moments& m : moments) {
    PushCount(m.count, out);
    out.push_back(static_cast<float>(m.mean));
    out.push_back(static_cast<float>(m.count > 0 ? m.m2 / m.count : 0));
    out.push_back(m.min);
    out.push_back(m.max);
  }
  return out;
}

std::vector<Moments> UnpackMoments(const AlignedVector<float>& in, const std::string& file) {
  constexpr std::size_t kFloats = kMomentFields + 1;
  if (in.size() % kFloats != 0) ThrowCorrupt(file, "moments of an input have another size");
  std::vector<Moments> out;
  for (std::size_t i = 0; i < in.size(); i += kFloats) {
    Moments m;
    m.count = CountOf(&in[i]);
    m.mean = in[i + 2];
    m.m2 = static_cast<double>(in[i + 3]) * m.count;
    m.min = in[i + 4];
    m.max = in[i + 5];
    out.push_back(m);
  }
  return out;
}

std::string Numbered(const char* name, int group) { return std::string(name) + "." + std::to_string(group); }

ArrayRecord ToRecord(const InputStatistics& input) {
  ArrayRecord record;
  const int slots = input.options().keep_groups ? input.options().groups : 1;
  for (int g = 0; g < slots; ++g) {
    const auto& sums = input.raw_second_moment(g);
    if (!sums.empty()) record.emplace_back(Numbered("second_moment", g), UpperTriangle(sums, input.channels()));
    if (!input.raw_drift(g).empty()) record.emplace_back(Numbered("drift", g), input.raw_drift(g));
  }
  for (int g = 0; g < input.options().groups; ++g) {
    record.emplace_back(Numbered("channels", g), PackMoments(input.channel_moments(g)));
    record.emplace_back(Numbered("held_out", g), input.held_out(g));
    const auto& reference = input.held_out_reference(g);
    if (!reference.empty()) record.emplace_back(Numbered("held_out_reference", g), reference);
    AlignedVector<float> offered;
    PushCount(static_cast<double>(input.held_out_offered(g)), offered);
    record.emplace_back(Numbered("offered", g), std::move(offered));
  }
  AlignedVector<float> times;
  std::vector<Moments> moments;
  for (const auto& [time, m] : input.timesteps()) {
    times.push_back(static_cast<float>(time));
    moments.push_back(m);
  }
  record.emplace_back("times", std::move(times));
  record.emplace_back("timesteps", PackMoments(moments));
  AlignedVector<float> non_finite;
  PushCount(static_cast<double>(input.non_finite_rows()), non_finite);
  record.emplace_back("non_finite_rows", std::move(non_finite));
  return record;
}

// Looks arrays of a record up by name.
class Arrays {
 public:
  Arrays(ArrayRecord record, std::string file) : record_(std::move(record)), file_(std::move(file)) {}

  bool Has(const std::string& name) const { return Find(name) != nullptr; }
  AlignedVector<float> Take(const std::string& name) {
    AlignedVector<float>* found = Find(name);
    if (found == nullptr) ThrowCorrupt(file_, "the array '" + name + "' is missing");
    return std::move(*found);
  }
  double Count(const std::string& name) {
    const AlignedVector<float> pair = Take(name);
    if (pair.size() != 2) ThrowCorrupt(file_, "the count '" + name + "' has another size");
    return CountOf(pair.data());
  }

 private:
  AlignedVector<float>* Find(const std::string& name) const {
    for (auto& [key, values] : record_) {
      if (key == name) return &values;
    }
    return nullptr;
  }
  mutable ArrayRecord record_;
  std::string file_;
};

InputStatistics FromRecord(ArrayRecord record, std::int64_t channels, const StatisticsOptions& options,
                           const std::string& file) {
  InputStatistics input(channels, options);
  Arrays arrays(std::move(record), file);
  const int slots = options.keep_groups ? options.groups : 1;
  for (int g = 0; g < slots; ++g) {
    const std::string name = Numbered("second_moment", g);
    if (arrays.Has(name)) input.RestoreSecondMoment(g, FromUpperTriangle(arrays.Take(name), channels, file));
    const std::string drift = Numbered("drift", g);
    if (arrays.Has(drift)) input.RestoreDrift(g, arrays.Take(drift));
  }
  for (int g = 0; g < options.groups; ++g) {
    input.Restore(g, UnpackMoments(arrays.Take(Numbered("channels", g)), file), arrays.Take(Numbered("held_out", g)),
                  static_cast<std::int64_t>(arrays.Count(Numbered("offered", g))));
    const std::string reference = Numbered("held_out_reference", g);
    if (arrays.Has(reference)) input.RestoreReference(g, arrays.Take(reference));
  }
  const AlignedVector<float> times = arrays.Take("times");
  const std::vector<Moments> moments = UnpackMoments(arrays.Take("timesteps"), file);
  if (times.size() != moments.size()) ThrowCorrupt(file, "timesteps and their moments differ in number");
  std::map<double, Moments> timesteps;
  for (std::size_t i = 0; i < times.size(); ++i) timesteps[static_cast<double>(times[i])] = moments[i];
  input.RestoreTotals(std::move(timesteps), static_cast<std::int64_t>(arrays.Count("non_finite_rows")));
  return input;
}

}  // namespace

class StatisticsWriter::Impl {
 public:
  explicit Impl(const std::filesystem::path& path) : writer_(path) {}

  void Append(const ActivationStatistics& part) {
    if (json_.empty()) {
      Begin(part);
    } else if (json_["boundaries"] != Json(part.time_groups().boundaries()) ||
               json_["keep_groups"] != part.options().keep_groups) {
      throw Error(ErrorCode::kShapeMismatch, "statistics of different time groups cannot go into one file");
    }
    const std::size_t before = json_["channels"].size();
    for (int i = 0; i < part.size(); ++i) {
      json_["channels"].push_back(part.input(i).channels());
      writer_.Append(ToRecord(part.input(i)));
    }
    for (const auto& [layer, inputs] : part.layers()) {
      Json numbers = Json::array();
      for (const int input : inputs) numbers.push_back(before + static_cast<std::size_t>(input));
      json_["layers"].push_back({{"component", layer.first}, {"name", layer.second}, {"inputs", std::move(numbers)}});
    }
  }

  void Close(std::string_view facts, const std::vector<double>& sensitivity) {
    if (json_.empty()) throw Error(ErrorCode::kInvalidArgument, "there are no statistics to write");
    json_["facts"] = Json::parse(facts, nullptr, false);
    if (!json_["facts"].is_object()) throw Error(ErrorCode::kInvalidArgument, "the facts are not a JSON object");
    if (!sensitivity.empty()) json_["sensitivity"] = sensitivity;
    writer_.Close(json_.dump(-1, ' ', false, Json::error_handler_t::replace));
  }

 private:
  void Begin(const ActivationStatistics& part) {
    json_["format"] = kFormatVersion;
    json_["boundaries"] = part.time_groups().boundaries();
    json_["keep_groups"] = part.options().keep_groups;
    json_["held_out_rows"] = part.options().held_out_rows;
    json_["channels"] = Json::array();
    json_["layers"] = Json::array();
  }

  ArrayFileWriter writer_;
  Json json_;
};

StatisticsWriter::StatisticsWriter(const std::filesystem::path& path) : impl_(std::make_unique<Impl>(path)) {}
StatisticsWriter::~StatisticsWriter() = default;
void StatisticsWriter::Append(const ActivationStatistics& part) { impl_->Append(part); }
void StatisticsWriter::Close(std::string_view facts, const std::vector<double>& sensitivity) {
  impl_->Close(facts, sensitivity);
}

void WriteStatistics(const ActivationStatistics& statistics, std::string_view facts,
                     const std::filesystem::path& path) {
  StatisticsWriter writer(path);
  writer.Append(statistics);
  writer.Close(facts, statistics.sensitivity());
}

StatisticsFile::StatisticsFile(const std::filesystem::path& path) : name_(path.string()), reader_(path) {
  const Json json = Json::parse(reader_.json(), nullptr, false);
  try {
    if (json.at("format").get<int>() != kFormatVersion) ThrowCorrupt(name_, "statistics of another format version");
    groups_ = TimeGroups(json.at("boundaries").get<std::vector<double>>());
    options_.groups = groups_.size();
    options_.keep_groups = json.at("keep_groups").get<bool>();
    options_.held_out_rows = json.at("held_out_rows").get<std::int64_t>();
    channels_ = json.at("channels").get<std::vector<std::int64_t>>();
    for (const auto& layer : json.at("layers")) {
      layers_[{layer.at("component").get<std::string>(), layer.at("name").get<std::string>()}] =
          layer.at("inputs").get<std::vector<int>>();
    }
    facts_ = json.at("facts").dump();
    if (json.contains("sensitivity")) {
      sensitivity_ = json.at("sensitivity").get<std::vector<double>>();
      CheckSensitivity(sensitivity_, groups_);
    }
  } catch (const Json::exception& e) {
    ThrowCorrupt(name_, std::string("its description is malformed: ") + e.what());
  } catch (const Error& e) {
    if (e.code() == ErrorCode::kCorruptFile) throw;
    ThrowCorrupt(name_, std::string("its description is malformed: ") + e.message());
  }
  if (channels_.size() != static_cast<std::size_t>(reader_.size())) ThrowCorrupt(name_, "inputs are missing");
  for (const auto& [layer, inputs] : layers_) {
    for (int i : inputs) {
      if (i < 0 || i >= reader_.size()) ThrowCorrupt(name_, "layer '" + layer.second + "' names a missing input");
    }
  }
}

std::string StatisticsFile::Checksum() const { return ChecksumFile(name_); }

std::shared_ptr<const InputStatistics> StatisticsFile::Load(int i) const {
  return std::make_shared<const InputStatistics>(
      FromRecord(reader_.Read(i), channels_[static_cast<std::size_t>(i)], options_, name_));
}

std::shared_ptr<const InputStatistics> StatisticsFile::Input(int i) const {
  if (i < 0 || i >= size()) throw Error(ErrorCode::kInvalidArgument, "there is no input " + std::to_string(i));
  const std::lock_guard lock(mutex_);
  auto input = loaded_[i].lock();
  if (input == nullptr) {
    input = Load(i);
    loaded_[i] = input;
  }
  recent_.push_back(input);
  if (recent_.size() > kRecentInputs) recent_.pop_front();
  return input;
}

LayerInputs StatisticsFile::Find(const LayerKey& layer) const {
  const auto it = layers_.find(layer);
  if (it == layers_.end()) return {};
  LayerInputs found;
  for (int i : it->second) {
    auto input = Input(i);
    if (input->total_count() == 0) return {};
    found.push_back(std::move(input));
  }
  return found;
}

}  // namespace arrow_quant
