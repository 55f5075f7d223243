// The older layouts, with files made by Arrow from their description.

#include "arrow_quant/io/parquet/legacy.h"

#include <arrow/array.h>
#include <arrow/builder.h>
#include <arrow/io/file.h>
#include <arrow/table.h>
#include <gtest/gtest.h>
#include <parquet/arrow/writer.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/test_directory.h"

namespace arrow_quant {
namespace {

using Arrays = std::vector<std::pair<std::string, std::shared_ptr<arrow::Array>>>;

template <typename Builder, typename Value>
std::shared_ptr<arrow::Array> Cells(const std::vector<Value>& values) {
  Builder builder;
  for (const Value& value : values) EXPECT_TRUE(builder.Append(value).ok());
  return builder.Finish().ValueOrDie();
}

std::shared_ptr<arrow::Array> Texts(const std::vector<std::string>& values) {
  return Cells<arrow::StringBuilder>(values);
}

template <typename Builder, typename Value>
std::shared_ptr<arrow::Array> Lists(const std::vector<std::vector<Value>>& lists) {
  auto items = std::make_shared<Builder>();
  arrow::ListBuilder builder(arrow::default_memory_pool(), items);
  for (const auto& list : lists) {
    EXPECT_TRUE(builder.Append().ok());
    for (const Value value : list) EXPECT_TRUE(items->Append(value).ok());
  }
  return builder.Finish().ValueOrDie();
}

// One cell that holds a list.
template <typename Builder, typename Value>
std::shared_ptr<arrow::Array> List(const std::vector<Value>& list) {
  return Lists<Builder, Value>({list});
}

std::shared_ptr<arrow::Array> Bytes(const std::vector<std::string>& values) {
  return Cells<arrow::BinaryBuilder>(values);
}

std::shared_ptr<arrow::Array> NullInt() {
  arrow::UInt64Builder builder;
  EXPECT_TRUE(builder.AppendNull().ok());
  return builder.Finish().ValueOrDie();
}

template <typename T>
std::string Raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

void Write(const std::filesystem::path& path, const Arrays& columns) {
  std::vector<std::shared_ptr<arrow::Field>> fields;
  std::vector<std::shared_ptr<arrow::Array>> arrays;
  for (const auto& [name, array] : columns) {
    fields.push_back(arrow::field(name, array->type()));
    arrays.push_back(array);
  }
  const auto table = arrow::Table::Make(arrow::schema(fields), arrays);
  auto sink = arrow::io::FileOutputStream::Open(path.string()).ValueOrDie();
  const auto properties = parquet::ArrowWriterProperties::Builder().store_schema()->build();
  ASSERT_TRUE(parquet::arrow::WriteTable(*table, arrow::default_memory_pool(), sink, 1024,
                                         parquet::default_writer_properties(), properties)
                  .ok());
  ASSERT_TRUE(sink->Close().ok());
}

std::vector<float> Expand(const LoadedTensor& tensor, const LegacyOptions& options = {}) {
  std::vector<float> out(tensor.record.num_params);
  DequantizeLegacy(tensor, out.data(), options);
  return out;
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

// One row of the Python base writer.
struct PythonRow {
  std::string name;
  std::vector<std::int32_t> shape;
  std::string data;
  std::string quant_type;
  std::vector<float> scales = {};
  std::vector<float> zero_points = {};
  std::int32_t quant_axis = -1;
  std::int32_t group_size = 0;
};

void WritePython(const std::filesystem::path& path, const std::vector<PythonRow>& rows) {
  std::vector<std::string> names, dtypes, data, types, scales, zeros;
  std::vector<std::vector<std::int32_t>> shapes;
  std::vector<std::int64_t> counts;
  std::vector<std::int32_t> axes, groups;
  for (const PythonRow& row : rows) {
    names.push_back(row.name);
    shapes.push_back(row.shape);
    dtypes.emplace_back("torch.float32");
    data.push_back(row.data);
    counts.push_back(1);
    for (const std::int32_t size : row.shape) counts.back() *= size;
    types.push_back(row.quant_type);
    scales.push_back(Raw(row.scales));
    zeros.push_back(Raw(row.zero_points));
    axes.push_back(row.quant_axis);
    groups.push_back(row.group_size);
  }
  Write(path, {{"layer_name", Texts(names)},
               {"shape", Lists<arrow::Int32Builder>(shapes)},
               {"dtype", Texts(dtypes)},
               {"data", Bytes(data)},
               {"num_params", Cells<arrow::Int64Builder>(counts)},
               {"quant_type", Texts(types)},
               {"scales", Bytes(scales)},
               {"zero_points", Bytes(zeros)},
               {"quant_axis", Cells<arrow::Int32Builder>(axes)},
               {"group_size", Cells<arrow::Int32Builder>(groups)}});
}

TEST(LegacyV1, RawValuesByRow) {
  const TestDirectory directory;
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};
  Write(directory / "weights.parquet", {{"layer_name", Texts({"a", "b"})},
                                        {"shape", Lists<arrow::Int64Builder, std::int64_t>({{2, 3}, {2}})},
                                        {"dtype", Texts({"torch.float32", "torch.float16"})},
                                        {"data", Bytes({Raw(a), Raw(std::vector<std::uint16_t>{0x3C00, 0xC000})})},
                                        {"num_params", Cells<arrow::Int64Builder, std::int64_t>({6, 2})}});
  const ParquetModel model = ParquetModel::Open(directory.path());
  ASSERT_EQ(model.tensors()[0].layout, ParquetLayout::kV1);
  EXPECT_EQ(Expand(model.Load("a")), a);
  const LegacyTensor half = NormalizeLegacy(model.Load("b"));
  EXPECT_EQ(half.storage, CodeStorage::kRaw);
  EXPECT_EQ(half.raw_dtype, DType::kF16);
  EXPECT_EQ(half.data.size(), 4U);
}

TEST(LegacyPython, SignedCodes) {
  const TestDirectory directory;
  const auto packed = [](std::initializer_list<int> codes) {  // u = q + 2, the first in the low bits
    std::string bytes((codes.size() + 3) / 4, '\0');
    std::size_t i = 0;
    for (const int q : codes) {
      bytes[i / 4] = static_cast<char>(bytes[i / 4] | ((q + 2) << (2 * (i % 4))));
      ++i;
    }
    return bytes;
  };
  WritePython(directory / "weights.parquet",
              {{"per_tensor", {2, 2}, Raw(std::vector<std::int8_t>{-128, -1, 0, 127}), "int8", {0.5F}, {1.0F}},
               {"rows", {2, 2}, Raw(std::vector<std::int8_t>{1, 2, 3, 4}), "int8", {1, 10}, {0, 0}, 0},
               {"columns", {2, 2}, Raw(std::vector<std::int8_t>{1, 2, 3, 4}), "int8", {1, 10}, {0, 0}, 1},
               {"groups", {1, 6}, packed({-2, -1, 0, 1, 1, -2}), "int2", {1, 2}, {0, 1}, 0, 4},
               {"alone", {1}, std::string(1, static_cast<char>(0xA9)), "int2", {2}, {0}},  // q = -1 and padding
               {"empty", {0, 4}, "", "int4", {1}, {0}},
               {"half", {2}, Raw(std::vector<std::uint16_t>{0x3C00, 0x4000}), "fp16", {}, {}},
               {"unsigned", {4}, std::string("\x21\xF0", 2), "int4_asym_group", {1}, {7}, 0, 128}});
  const ParquetModel model = ParquetModel::Open(directory.path());
  using Floats = std::vector<float>;
  EXPECT_EQ(model.tensors()[0].layout, ParquetLayout::kV2BasePython);
  EXPECT_EQ(Expand(model.Load("per_tensor")), (Floats{-64.5F, -1, -0.5F, 63}));
  EXPECT_EQ(Expand(model.Load("rows")), (Floats{1, 2, 30, 40}));
  EXPECT_EQ(Expand(model.Load("columns")), (Floats{1, 20, 3, 40}));
  EXPECT_EQ(Expand(model.Load("groups")), (Floats{-2, -1, 0, 1, 0, -6}));
  EXPECT_EQ(Expand(model.Load("alone")), (Floats{-2}));
  EXPECT_EQ(Expand(model.Load("empty")), Floats{});
  EXPECT_EQ(NormalizeLegacy(model.Load("half")).raw_dtype, DType::kF16);
  EXPECT_EQ(Expand(model.Load("unsigned")), (Floats{-6, -5, -7, 8}));
  // With the high bits first the codes come reversed within each byte; in the last one the padding (-2) comes first.
  EXPECT_EQ(Expand(model.Load("groups"), {.msb_first = true}), (Floats{1, 0, -1, -2, -6, -6}));
}

// One row of the Rust writers.
struct RustRow {
  std::vector<std::uint64_t> shape;
  std::string data;
  std::string quant_type;
  std::vector<float> scales = {};
  std::vector<float> zero_points = {};
  std::shared_ptr<arrow::Array> quant_axis = NullInt();
  std::shared_ptr<arrow::Array> group_size = NullInt();
  std::string time_json = {};
  std::string spatial_json = {};
  bool extended = true;
};

std::shared_ptr<arrow::Array> U64(std::uint64_t value) {
  return Cells<arrow::UInt64Builder>(std::vector<std::uint64_t>{value});
}

void WriteRust(const std::filesystem::path& path, const RustRow& row) {
  std::uint64_t count = 1;
  for (const std::uint64_t size : row.shape) count *= size;
  Arrays columns = {{"layer_name", Texts({"x"})},
                    {"shape", List<arrow::UInt64Builder>(row.shape)},
                    {"dtype", Texts({"float32"})},
                    {"data", Cells<arrow::LargeBinaryBuilder>(std::vector{row.data})},
                    {"num_params", U64(count)},
                    {"quant_type", Texts({row.quant_type})},
                    {"scales", List<arrow::FloatBuilder>(row.scales)},
                    {"zero_points", List<arrow::FloatBuilder>(row.zero_points)},
                    {"quant_axis", row.quant_axis},
                    {"group_size", row.group_size}};
  if (row.extended) columns.emplace_back("is_diffusion_model", Cells<arrow::BooleanBuilder>(std::vector<bool>{true}));
  if (!row.time_json.empty()) columns.emplace_back("time_aware_quant_json", Texts({row.time_json}));
  if (!row.spatial_json.empty()) columns.emplace_back("spatial_quant_json", Texts({row.spatial_json}));
  Write(path, columns);
}

class LegacyRust : public ::testing::Test {
 protected:
  LoadedTensor Load(const RustRow& row) {
    WriteRust(directory_ / "x.parquet", row);
    return ParquetModel::Open(directory_.path()).Load("x");
  }
  std::vector<float> Values(const RustRow& row) { return Expand(Load(row)); }
  TestDirectory directory_;
};

using Floats = std::vector<float>;
const std::string kCodes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};  // NOLINT(cert-err58-cpp)

TEST_F(LegacyRust, BasePerTensorChannelsAndGroups) {
  RustRow row{
      .shape = {2, 5}, .data = kCodes, .quant_type = "int8", .scales = {2}, .zero_points = {0.5F}, .extended = false};
  EXPECT_EQ(Values(row)[3], 5);
  EXPECT_EQ(Load(row).layout, ParquetLayout::kV2BaseRust);
  row.scales = {1, 10};
  row.zero_points = {};
  row.quant_axis = U64(0);
  EXPECT_EQ(Values(row), (Floats{0, 1, 2, 3, 4, 50, 60, 70, 80, 90}));
  row.scales = {1, 10, 100};
  row.group_size = U64(4);
  EXPECT_EQ(Values(row), (Floats{0, 1, 2, 3, 40, 50, 60, 70, 800, 900}));
  // One scale serves all whatever axis and group size say.
  row.scales = {1};
  row.group_size = U64(128);
  EXPECT_EQ(Values(row)[9], 9);
}

TEST_F(LegacyRust, PackedCodesAreUnsigned) {
  const RustRow row{.shape = {6},
                    .data = std::string("\xE4\x01", 2),
                    .quant_type = "int2",
                    .scales = {1},
                    .zero_points = {0},
                    .extended = false};
  EXPECT_EQ(Values(row), (Floats{0, 1, 2, 3, 1, 0}));
}

TEST_F(LegacyRust, TimeGroupsFollowThePosition) {
  RustRow row{.shape = {2, 5},
              .data = kCodes,
              .quant_type = "int4",
              .scales = {1, 10, 100, 1000},
              .zero_points = {0, 0, 0, 1},
              .time_json = R"({"enabled":true,"num_time_groups":4,"time_group_params":[]})"};
  EXPECT_EQ(Load(row).layout, ParquetLayout::kV2Extended);
  EXPECT_EQ(Values(row), (Floats{0, 1, 2, 30, 40, 50, 600, 700, 800, 8000}));
  // More groups than weights: one weight each.
  row.shape = {2};
  row.data = kCodes.substr(3, 2);
  EXPECT_EQ(Values(row), (Floats{3, 40}));
  // The other kind of time-aware file has one scale for all.
  row.scales = {2};
  row.zero_points = {1};
  EXPECT_EQ(Values(row), (Floats{4, 6}));
  row.time_json = "{broken";
  EXPECT_EQ(CodeOf([&] { Values(row); }), ErrorCode::kCorruptFile);
  row.time_json = R"({"num_time_groups":-1})";
  EXPECT_EQ(CodeOf([&] { Values(row); }), ErrorCode::kCorruptFile);
}

TEST_F(LegacyRust, SpatialGroupsAreRows) {
  const RustRow row{.shape = {5, 2},
                    .data = kCodes,
                    .quant_type = "int8",
                    .scales = {1, 10, 100},
                    .zero_points = {0, 0, 0},
                    .group_size = U64(2),
                    .spatial_json = R"({"enabled":true,"equalization_scales":[]})"};
  EXPECT_EQ(Values(row), (Floats{0, 1, 2, 3, 40, 50, 60, 70, 800, 900}));
}

TEST_F(LegacyRust, CompanionFileOrDataLoss) {
  RustRow row{.shape = {3}, .data = "", .quant_type = "none", .scales = {}, .zero_points = {}};
  EXPECT_EQ(CodeOf([&] { Values(row); }), ErrorCode::kCorruptFile);
  const Floats values = {1.5F, -2, 3};
  WriteBytes(directory_ / "x.bin", Raw(values));
  EXPECT_EQ(Values(row), values);
  row.quant_type = "int4";  // written by a converter that lost the codes; the companion still has the weights
  EXPECT_EQ(Values(row), values);
  WriteBytes(directory_ / "x.bin", "12345");
  EXPECT_EQ(CodeOf([&] { Values(row); }), ErrorCode::kShapeMismatch);
}

TEST_F(LegacyRust, MislabelledFloatsAreReadWithAWarning) {
  const Floats values = {1, 2, 3};
  const LoadedTensor loaded =
      Load({.shape = {3}, .data = Raw(values), .quant_type = "int8", .scales = {}, .zero_points = {}});
  EXPECT_EQ(NormalizeLegacy(loaded).warnings.size(), 1U);
  EXPECT_EQ(Expand(loaded), values);
}

TEST_F(LegacyRust, WhatFitsNoRuleIsAnError) {
  const RustRow good{.shape = {2, 5}, .data = kCodes, .quant_type = "int8", .scales = {1}, .zero_points = {0}};
  const auto code = [&](const std::function<void(RustRow&)>& edit) {
    RustRow row = good;
    edit(row);
    return CodeOf([&] { Values(row); });
  };
  EXPECT_EQ(code([](RustRow& r) { r.scales = {1, 2, 3}; }), ErrorCode::kShapeMismatch);
  EXPECT_EQ(code([](RustRow& r) { r.scales = {1, 2, 3}, r.zero_points = {1, 2, 3}; }), ErrorCode::kShapeMismatch);
  EXPECT_EQ(code([](RustRow& r) { r.scales = {}, r.zero_points = {}; }), ErrorCode::kShapeMismatch);
  EXPECT_EQ(code([](RustRow& r) { r.data = "abc"; }), ErrorCode::kShapeMismatch);
  EXPECT_EQ(code([](RustRow& r) { r.quant_type = "int16"; }), ErrorCode::kUnsupported);
  EXPECT_EQ(code([](RustRow& r) { r.scales = {std::numeric_limits<float>::infinity()}; }), ErrorCode::kCorruptFile);
}

TEST(ParquetModelSchema, FilesWithoutTensorsAreLeftOut) {
  const TestDirectory directory;
  Write(directory / "calibration.parquet", {{"data", List<arrow::FloatBuilder>(Floats{1, 2})},
                                            {"timestep", Cells<arrow::Int64Builder, std::int64_t>({3})}});
  EXPECT_EQ(CodeOf([&] { ParquetModel::Open(directory.path()); }), ErrorCode::kModelNotFound);
  EXPECT_EQ(CodeOf([&] { ParquetModel::Open(directory / "calibration.parquet"); }), ErrorCode::kCorruptFile);
  WriteRust(directory / "x.parquet",
            {.shape = {1}, .data = "a", .quant_type = "int8", .scales = {1}, .zero_points = {0}});
  const ParquetModel model = ParquetModel::Open(directory.path());
  EXPECT_EQ(model.tensors().size(), 1U);
  EXPECT_EQ(model.ignored_files().size(), 1U);
}

TEST(ParquetModelSchema, WrongTypesNameTheColumn) {
  const TestDirectory directory;
  const Arrays good = {{"layer_name", Texts({"x"})},
                       {"shape", Lists<arrow::Int64Builder, std::int64_t>({{2}})},
                       {"dtype", Texts({"float32"})},
                       {"data", Bytes({"12345678"})},
                       {"num_params", Cells<arrow::Int64Builder, std::int64_t>({2})}};
  const std::vector<std::pair<std::string, std::shared_ptr<arrow::Array>>> swaps = {
      {"layer_name", U64(1)},
      {"layer_name", Bytes({"x"})},
      {"shape", Texts({"[2]"})},
      {"shape", Lists<arrow::Int64Builder, std::int64_t>({{-2}})},
      {"shape", List<arrow::FloatBuilder>(Floats{2})},
      {"shape", Lists<arrow::UInt64Builder, std::uint64_t>({{~0ULL}})},
      {"shape", Lists<arrow::Int64Builder, std::int64_t>({{3}})},
      {"data", List<arrow::FloatBuilder>(Floats{2})},
      {"data", Texts({"12345678"})},
      {"num_params", Texts({"2"})},
      {"num_params", NullInt()},
      {"dtype", U64(1)}};
  for (std::size_t i = 0; i < swaps.size(); ++i) {
    Arrays columns = good;
    for (auto& [name, array] : columns) {
      if (name == swaps[i].first) array = swaps[i].second;
    }
    Write(directory / "x.parquet", columns);
    const ErrorCode code = CodeOf([&] { ParquetModel::Open(directory.path()); });
    EXPECT_TRUE(code == ErrorCode::kCorruptFile || code == ErrorCode::kShapeMismatch) << i;
    columns = good;
    columns.erase(
        std::find_if(columns.begin(), columns.end(), [&](const auto& c) { return c.first == swaps[i].first; }));
    Write(directory / "x.parquet", columns);
    EXPECT_THROW(ParquetModel::Open(directory / "x.parquet"), Error) << i;
  }
}

}  // namespace
}  // namespace arrow_quant
