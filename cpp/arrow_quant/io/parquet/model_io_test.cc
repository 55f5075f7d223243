// Round trips through ParquetModelWriter and ParquetModel.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/parquet/model_reader.h"
#include "arrow_quant/io/parquet/model_writer.h"
#include "arrow_quant/io/parquet/record_layout.h"
#include "arrow_quant/io/test_directory.h"

namespace arrow_quant {
namespace {

constexpr float kTimeScales[] = {0.25F, 0.1F, 3e-7F, 1.5F};
constexpr float kTimeZeroPoints[] = {0, 127.3F, 255, 1.25F};

// A record and the memory behind it.
struct Sample {
  TensorRecord record;
  std::vector<std::uint8_t> data;
  std::vector<float> floats;
  std::vector<float> column_values;
};

// [rows, cols] at `bits` in groups of `group_size`, with every field set.
std::unique_ptr<Sample> MakeSample(const std::string& name, std::uint64_t rows, std::uint64_t cols, int bits,
                                   std::uint64_t group_size) {
  auto sample = std::make_unique<Sample>();
  std::mt19937 random(static_cast<unsigned>(rows * 131 + cols * 7 + static_cast<unsigned>(bits)));
  const std::uint64_t groups = (cols + group_size - 1) / group_size;
  sample->data.resize((rows * cols * static_cast<std::uint64_t>(bits) + 7) / 8);
  for (std::uint8_t& byte : sample->data) byte = static_cast<std::uint8_t>(random());
  sample->floats.resize(rows * groups * 3);
  for (float& value : sample->floats) value = std::ldexp(static_cast<float>(random() % 512) - 256.0F, -12);
  for (std::uint64_t i = 0; i < 2 * cols; ++i) sample->column_values.push_back(0.5F + static_cast<float>(i % 7));
  TensorRecord& r = sample->record;
  r.layer_name = name;
  r.shape = {rows, cols};
  r.dtype = "bfloat16";
  r.data = sample->data;
  r.num_params = rows * cols;
  r.quant_type = "int" + std::to_string(bits);
  const std::span<const float> floats(sample->floats);
  r.scales = floats.first(rows * groups);
  r.zero_points = floats.subspan(rows * groups, rows * groups);
  r.quant_axis = 0;
  r.group_size = group_size;
  r.modality = "image";
  r.time_aware_quant_json = R"({"enabled":true})";
  r.activation_stats_json = R"({"mean":[1.5]})";
  r.bits = bits;
  r.packing = "lsb";
  r.grid = bits == 2 ? "residual_binary" : "affine";
  r.zero_point_kind = "float";
  r.row_count = rows;
  if (bits == 2) r.residual_scales = floats.last(rows * groups);
  r.method = "ldlq";
  r.reason = "fell back from 2 bits";
  r.component = "transformer";
  r.report_json = R"({"cosine":0.99})";
  r.time_boundaries = {0, 0.1, 1.0 / 3, 1};
  r.time_block_sizes = {64, 64, 256};
  r.time_scales = kTimeScales;
  r.time_zero_points = kTimeZeroPoints;
  r.correction_boundaries = {0, 0.5};
  r.time_gamma = floats.first(rows);
  r.time_beta = floats.last(rows);
  r.time_gains = floats.first(5);
  r.equalization_scales = std::span(sample->column_values).first(cols);
  r.shift = std::span(sample->column_values).last(cols);
  r.rotation_seed = 77;
  r.equalization_producer = "norm1.linear";
  return sample;
}

template <typename T>
void ExpectSame(std::span<const T> a, std::span<const T> b, const char* what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  EXPECT_TRUE(a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0) << what;
}

void ExpectSame(const TensorRecord& a, const TensorRecord& b) {
  EXPECT_EQ(a.layer_name, b.layer_name);
  EXPECT_EQ(a.shape, b.shape);
  EXPECT_EQ(a.dtype, b.dtype);
  EXPECT_EQ(a.num_params, b.num_params);
  EXPECT_EQ(a.quant_type, b.quant_type);
  EXPECT_EQ(a.quant_axis, b.quant_axis);
  EXPECT_EQ(a.group_size, b.group_size);
  EXPECT_EQ(a.is_diffusion_model, b.is_diffusion_model);
  EXPECT_EQ(a.modality, b.modality);
  EXPECT_EQ(a.time_aware_quant_json, b.time_aware_quant_json);
  EXPECT_EQ(a.spatial_quant_json, b.spatial_quant_json);
  EXPECT_EQ(a.activation_stats_json, b.activation_stats_json);
  EXPECT_EQ(a.bits, b.bits);
  EXPECT_EQ(a.packing, b.packing);
  EXPECT_EQ(a.grid, b.grid);
  EXPECT_EQ(a.zero_point_kind, b.zero_point_kind);
  EXPECT_EQ(a.row_rank, b.row_rank);
  EXPECT_EQ(a.row_begin, b.row_begin);
  EXPECT_EQ(a.row_count, b.row_count);
  EXPECT_EQ(a.method, b.method);
  EXPECT_EQ(a.reason, b.reason);
  EXPECT_EQ(a.component, b.component);
  EXPECT_EQ(a.report_json, b.report_json);
  ExpectSame(a.data, b.data, "data");
  ExpectSame(a.scales, b.scales, "scales");
  ExpectSame(a.zero_points, b.zero_points, "zero_points");
  ExpectSame(a.residual_scales, b.residual_scales, "residual_scales");
  EXPECT_EQ(a.time_boundaries, b.time_boundaries);
  EXPECT_EQ(a.time_block_sizes, b.time_block_sizes);
  ExpectSame(a.time_scales, b.time_scales, "time_scales");
  ExpectSame(a.time_zero_points, b.time_zero_points, "time_zero_points");
  EXPECT_EQ(a.correction_boundaries, b.correction_boundaries);
  ExpectSame(a.time_gamma, b.time_gamma, "time_gamma");
  ExpectSame(a.time_beta, b.time_beta, "time_beta");
  ExpectSame(a.time_gains, b.time_gains, "time_gains");
  ExpectSame(a.equalization_scales, b.equalization_scales, "equalization_scales");
  ExpectSame(a.shift, b.shift, "shift");
  EXPECT_EQ(a.rotation_seed, b.rotation_seed);
  EXPECT_EQ(a.equalization_producer, b.equalization_producer);
}

std::vector<std::unique_ptr<Sample>> ManySamples() {
  std::vector<std::unique_ptr<Sample>> samples;
  for (const int bits : {2, 3, 4, 8}) {
    for (const std::uint64_t cols : {1, 36, 64, 300}) {
      samples.push_back(MakeSample("layer." + std::to_string(bits) + "." + std::to_string(cols), 17, cols, bits, 64));
    }
  }
  return samples;
}

WrittenFile WriteAll(const std::filesystem::path& path, const std::vector<std::unique_ptr<Sample>>& samples,
                     WriterOptions options = {}) {
  ParquetModelWriter writer(path, std::move(options));
  for (const auto& sample : samples) writer.Append(sample->record);
  return writer.Close();
}

ErrorCode CodeOf(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.code();
  }
  ADD_FAILURE() << "no error";
  return ErrorCode::kCancelled;
}

TEST(ParquetModel, EveryFieldSurvives) {
  const TestDirectory directory;
  const auto samples = ManySamples();
  for (const std::uint64_t small : {0, 3000, 1 << 20}) {
    WriteAll(directory / "m.parquet", samples, {.small_record_bytes = small, .row_group_bytes = 10000});
    const ParquetModel model = ParquetModel::Open(directory.path());
    ASSERT_EQ(model.tensors().size(), samples.size());
    for (const auto& sample : samples) {
      const LoadedTensor loaded = model.Load(sample->record.layer_name);
      ExpectSame(loaded.record, sample->record);
      const TensorEntry& entry = model.tensors()[model.Find(sample->record.layer_name, "transformer")];
      EXPECT_EQ(entry.record.report_json, sample->record.report_json);
      EXPECT_TRUE(entry.record.data.empty());
      EXPECT_GT(entry.stored_bytes, 0U);
      EXPECT_EQ(entry.layout, ParquetLayout::kArrowQuant);
    }
  }
}

TEST(ParquetModel, LoadedMemoryOutlivesTheModel) {
  const TestDirectory directory;
  const auto sample = MakeSample("a", 64, 256, 4, 64);
  WriteAll(directory / "m.parquet", {});
  LoadedTensor loaded;
  {
    ParquetModelWriter writer(directory / "m.parquet", {.small_record_bytes = 0});
    writer.Append(sample->record);
    writer.Close();
    loaded = ParquetModel::Open(directory / "m.parquet").Load("a");
  }
  ExpectSame(loaded.record, sample->record);
}

TEST(ParquetModel, KeptTensorsOfAnyShape) {
  const TestDirectory directory;
  const std::vector<std::uint8_t> bytes(48, 7);
  ParquetModelWriter writer(directory / "m.parquet");
  for (const std::vector<std::uint64_t>& shape :
       std::vector<std::vector<std::uint64_t>>{{}, {0}, {2, 0}, {3, 1, 2, 2}}) {
    TensorRecord record;
    record.layer_name = "rank" + std::to_string(shape.size());
    record.shape = shape;
    record.dtype = "float32";
    record.num_params = *CountElements(shape);
    record.data = std::span(bytes).first(record.num_params * 4);
    writer.Append(record);
  }
  writer.Close();
  const ParquetModel model = ParquetModel::Open(directory / "m.parquet");
  for (const TensorEntry& entry : model.tensors()) {
    const LoadedTensor loaded = model.Load(entry.record.layer_name);
    EXPECT_EQ(loaded.record.data.size(), entry.record.num_params * 4);
    EXPECT_EQ(loaded.record.shape, entry.record.shape);
  }
}

TEST(ParquetModel, PartsOfDifferentRotationsAreNoTensor) {
  const TestDirectory directory;
  const auto whole = MakeSample("big", 16, 36, 8, 16);
  ParquetModelWriter writer(directory / "a.parquet");
  for (std::uint64_t begin : {0, 8}) {
    TensorRecord part = whole->record;
    part.row_begin = begin;
    part.row_count = 8;
    part.data = part.data.subspan(begin * 36, 8 * 36);
    part.scales = part.scales.subspan(begin * 3, 8 * 3);
    part.zero_points = part.zero_points.subspan(begin * 3, 8 * 3);
    if (begin > 0) part.rotation_seed.reset();
    writer.Append(part);
  }
  writer.Close();
  EXPECT_THROW(ParquetModel::Open(directory.path()), Error);
}

TEST(ParquetModel, PartsAreJoined) {
  const TestDirectory directory;
  const auto whole = MakeSample("big", 61, 36, 3, 16);
  const std::uint64_t groups = 3;
  const auto parts = PlanParts(61, 36 * 3, 400);
  ASSERT_GT(parts.size(), 2U);
  {
    // Two files, the parts in reverse order.
    ParquetModelWriter first(directory / "a.parquet");
    ParquetModelWriter second(directory / "b.parquet");
    for (std::size_t i = parts.size(); i-- > 0;) {
      TensorRecord part = whole->record;
      part.row_begin = parts[i].begin;
      part.row_count = parts[i].count;
      const std::uint64_t bytes = (part.row_count * 36 * 3 + 7) / 8;
      part.data = part.data.subspan(part.row_begin * 36 * 3 / 8, bytes);
      part.scales = part.scales.subspan(part.row_begin * groups, part.row_count * groups);
      part.zero_points = part.zero_points.subspan(part.row_begin * groups, part.row_count * groups);
      (i % 2 == 0 ? first : second).Append(part);
    }
    first.Close();
    second.Close();
  }
  const ParquetModel model = ParquetModel::Open(directory.path());
  ASSERT_EQ(model.tensors().size(), 1U);
  EXPECT_EQ(model.tensors()[0].parts, static_cast<int>(parts.size()));
  ExpectSame(model.Load("big").record, whole->record);
  std::filesystem::remove(directory / "b.parquet");
  EXPECT_EQ(CodeOf([&] { ParquetModel::Open(directory.path()); }), ErrorCode::kCorruptFile);
}

TEST(PlanParts, CoversTheRowsInMultiplesOfEight) {
  for (const std::uint64_t rows : {0, 1, 8, 9, 1000}) {
    for (const std::uint64_t limit : {1, 100, 5000}) {
      std::uint64_t next = 0;
      for (const RowRange& part : PlanParts(rows, 333, limit)) {
        EXPECT_EQ(part.begin, next);
        EXPECT_EQ(part.begin % kPartRowMultiple, 0U);
        next += part.count;
      }
      EXPECT_EQ(next, rows);
    }
  }
}

TEST(ParquetModelWriter, SameInputSameBytes) {
  const TestDirectory directory;
  const auto samples = ManySamples();
  const WrittenFile a = WriteAll(directory / "a.parquet", samples, {.key_value_metadata = {{"k", "v"}}});
  const WrittenFile b = WriteAll(directory / "b.parquet", samples, {.key_value_metadata = {{"k", "v"}}});
  EXPECT_EQ(ReadBytes(directory / "a.parquet"), ReadBytes(directory / "b.parquet"));
  EXPECT_EQ(a.checksum, b.checksum);
  EXPECT_EQ(a.checksum, ChecksumFile(directory / "a.parquet"));
  EXPECT_EQ(a.bytes, std::filesystem::file_size(directory / "a.parquet"));
  EXPECT_EQ(a.records, samples.size());
}

TEST(ParquetModelWriter, NothingIsVisibleBeforeClose) {
  const TestDirectory directory;
  const auto sample = MakeSample("a", 256, 256, 8, 64);
  try {
    ParquetModelWriter writer(directory / "m.parquet", {.small_record_bytes = 0});
    writer.Append(sample->record);
    EXPECT_FALSE(std::filesystem::exists(directory / "m.parquet"));
    throw std::runtime_error("the quantizer failed");
  } catch (const std::runtime_error&) {
  }
  EXPECT_TRUE(directory.Names().empty());
}

TEST(ParquetModelWriter, SmallTensorsShareTheFixedCost) {
  const TestDirectory directory;
  const std::vector<std::uint8_t> bytes(64, 1);
  ParquetModelWriter writer(directory / "m.parquet");
  for (int i = 0; i < 400; ++i) {
    TensorRecord record;
    record.layer_name = "blocks." + std::to_string(i) + ".norm.weight";
    record.shape = {32};
    record.dtype = "float16";
    record.num_params = 32;
    record.data = bytes;
    writer.Append(record);
  }
  // A row group of its own would cost each of them 3.7 kB.
  EXPECT_LT(writer.Close().bytes, 400U * 100);
}

TEST(ParquetModelWriter, RefusesWhatTheReaderWouldRefuse) {
  const TestDirectory directory;
  using Edit = std::function<void(TensorRecord&)>;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> bad_scales(17 * 2, nan);
  const std::vector<float> no_shift(100, nan);
  const std::vector<float> negative(100, -1.0F);
  const std::vector<Edit> edits = {
      [](TensorRecord& r) { r.layer_name.clear(); },
      [](TensorRecord& r) { r.num_params += 1; },
      [](TensorRecord& r) { r.shape = {17, 1ULL << 60}; },
      [](TensorRecord& r) { r.shape = {1ULL << 40, 1ULL << 40}; },
      [](TensorRecord& r) { r.bits = 5; },
      [](TensorRecord& r) { r.bits = 8; },
      [](TensorRecord& r) { r.group_size = 0; },
      [](TensorRecord& r) { r.group_size.reset(); },
      [](TensorRecord& r) { r.group_size = 32; },
      [](TensorRecord& r) { r.data = r.data.first(r.data.size() - 1); },
      [](TensorRecord& r) { r.scales = r.scales.first(3); },
      [](TensorRecord& r) { r.zero_points = {}; },
      [](TensorRecord& r) { r.zero_point_kind = "none"; },
      [&](TensorRecord& r) { r.scales = bad_scales; },
      [](TensorRecord& r) { r.quant_axis = 2; },
      [](TensorRecord& r) { r.row_rank = 3; },
      [](TensorRecord& r) { r.row_rank = -1; },
      [](TensorRecord& r) { r.row_begin = 1; },
      [](TensorRecord& r) { r.row_count = 18; },
      [](TensorRecord& r) { r.dtype = "float33"; },
      [](TensorRecord& r) { r.grid = "spline"; },
      [](TensorRecord& r) { r.packing = "msb"; },
      [](TensorRecord& r) { r.quant_type = "int16"; },
      [](TensorRecord& r) { r.equalization_scales = r.equalization_scales.first(99); },
      [](TensorRecord& r) { r.shift = r.shift.first(1); },
      [&](TensorRecord& r) { r.shift = no_shift; },
      [&](TensorRecord& r) { r.equalization_scales = negative; },
  };
  const auto sample = MakeSample("a", 17, 100, 4, 64);
  for (std::size_t i = 0; i < edits.size(); ++i) {
    ParquetModelWriter writer(directory / "m.parquet");
    TensorRecord record = sample->record;
    edits[i](record);
    EXPECT_THROW(writer.Append(record), Error) << i;
    // A refused record does not harm the writer.
    writer.Append(sample->record);
    EXPECT_EQ(CodeOf([&] { writer.Append(sample->record); }), ErrorCode::kInvalidArgument) << i;
    EXPECT_EQ(writer.Close().records, 1U);
  }
}

TEST(ParquetModelWriter, RefusesACellAboveTheLimit) {
  const TestDirectory directory;
  // Never touched beyond its length check, so the memory stays virtual.
  const std::size_t size = kMaxCellBytes + 8;
  const std::unique_ptr<std::uint8_t[]> memory(new std::uint8_t[size]);
  TensorRecord record;
  record.layer_name = "huge";
  record.shape = {size / 8, 8};
  record.dtype = "uint8";
  record.num_params = size;
  record.data = {memory.get(), size};
  ParquetModelWriter writer(directory / "m.parquet");
  EXPECT_EQ(CodeOf([&] { writer.Append(record); }), ErrorCode::kInvalidArgument);
}

TEST(ParquetModel, FindTellsAbsentFromAmbiguous) {
  const TestDirectory directory;
  const auto sample = MakeSample("a", 8, 8, 4, 8);
  ParquetModelWriter writer(directory / "m.parquet");
  writer.Append(sample->record);
  sample->record.component = "transformer_2";
  writer.Append(sample->record);
  writer.Close();
  const ParquetModel model = ParquetModel::Open(directory.path());
  EXPECT_EQ(model.Load("a", "transformer_2").record.component, "transformer_2");
  EXPECT_EQ(CodeOf([&] { model.Find("a"); }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(CodeOf([&] { model.Find("b"); }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(CodeOf([&] { model.Load(2); }), ErrorCode::kInvalidArgument);
}

TEST(ParquetModel, DuplicatesAcrossFilesAreAnError) {
  const TestDirectory directory;
  const auto sample = MakeSample("a", 8, 8, 4, 8);
  for (const char* name : {"a.parquet", "b.parquet"}) {
    ParquetModelWriter writer(directory / name);
    writer.Append(sample->record);
    writer.Close();
  }
  EXPECT_EQ(CodeOf([&] { ParquetModel::Open(directory.path()); }), ErrorCode::kCorruptFile);
}

TEST(ParquetModel, SaysWhatIsNotAModel) {
  const TestDirectory directory;
  EXPECT_EQ(CodeOf([&] { ParquetModel::Open(directory / "absent"); }), ErrorCode::kModelNotFound);
  EXPECT_EQ(CodeOf([&] { ParquetModel::Open(directory.path()); }), ErrorCode::kModelNotFound);
  WriteBytes(directory / "m.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
  try {
    ParquetModel::Open(directory.path());
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kCorruptFile);
    EXPECT_NE(e.context().remedy.find("git lfs pull"), std::string::npos);
  }
  WriteBytes(directory / "m.parquet", "");
  EXPECT_EQ(CodeOf([&] { ParquetModel::Open(directory.path()); }), ErrorCode::kCorruptFile);
}

TEST(ParquetModel, NoticesAChangedFile) {
  const TestDirectory directory;
  WriteAll(directory / "m.parquet", ManySamples());
  const ParquetModel model = ParquetModel::Open(directory / "m.parquet");
  std::filesystem::resize_file(directory / "m.parquet", 100);
  EXPECT_EQ(CodeOf([&] { model.Load(0); }), ErrorCode::kIo);
}

// Opens and loads everything; true when no error was thrown.
bool ReadsCleanly(const std::filesystem::path& path) {
  try {
    const ParquetModel model = ParquetModel::Open(path);
    for (std::size_t i = 0; i < model.tensors().size(); ++i) model.Load(i);
    return true;
  } catch (const Error&) {
    return false;
  }
}

class DamagedFile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::vector<std::unique_ptr<Sample>> samples;
    samples.push_back(MakeSample("one", 8, 40, 4, 16));
    samples.push_back(MakeSample("two", 8, 40, 2, 16));
    samples.push_back(MakeSample("large", 64, 64, 8, 16));
    WriteAll(directory_ / "good.parquet", samples, {.small_record_bytes = 1000});
    good_ = ReadBytes(directory_ / "good.parquet");
  }
  bool Reads(const std::string& bytes) {
    WriteBytes(directory_ / "bad.parquet", bytes);
    return ReadsCleanly(directory_ / "bad.parquet");
  }
  TestDirectory directory_;
  std::string good_;
};

TEST_F(DamagedFile, EveryTruncationIsAnError) {
  for (std::size_t size = 0; size < good_.size(); size += 1 + size / 100)
    EXPECT_FALSE(Reads(good_.substr(0, size))) << size;
}

TEST_F(DamagedFile, FlippedBytesNeverCrash) {
  std::mt19937 random(1);
  int undetected = 0;
  for (std::size_t i = 0; i < good_.size(); i += 7) {
    std::string bytes = good_;
    bytes[i] = static_cast<char>(bytes[i] ^ (1 + random() % 255));
    undetected += Reads(bytes) ? 1 : 0;
  }
  // Pages carry checksums, so only bytes that nobody reads may pass: names of encodings, sizes for statistics and the
  // like.
  EXPECT_LT(undetected, static_cast<int>(good_.size()) / 7 / 2);
}

TEST_F(DamagedFile, FlippedValuesAreNoticed) {
  // The codes of the large tensor lie in the file as they are, being random.
  const auto sample = MakeSample("large", 64, 64, 8, 16);
  const std::string codes(sample->data.begin(), sample->data.end());
  const std::size_t at = good_.find(codes.substr(0, 64));
  ASSERT_NE(at, std::string::npos);
  std::string bytes = good_;
  bytes[at + 32] = static_cast<char>(bytes[at + 32] ^ 1);
  EXPECT_FALSE(Reads(bytes));
}

TEST_F(DamagedFile, RandomDamageNeverCrashes) {
  std::mt19937 random(2);
  for (int round = 0; round < 1500; ++round) {
    std::string bytes = good_;
    const std::size_t footer = bytes.size() - std::min<std::size_t>(bytes.size(), 5000);
    for (unsigned n = 1 + random() % 8; n > 0; --n) {
      const std::size_t at = round % 2 == 0 ? random() % bytes.size() : footer + random() % (bytes.size() - footer);
      bytes[at] = static_cast<char>(random());
    }
    Reads(bytes);
  }
}

}  // namespace
}  // namespace arrow_quant
