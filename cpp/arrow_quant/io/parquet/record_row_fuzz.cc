// One row of a Parquet model, of any layout, with cells of the right and of other types. Through files most inputs end
// in Arrow's own checks; here all of them reach ours.

#include <arrow/array.h>
#include <arrow/builder.h>
#include <arrow/record_batch.h>
#include <arrow/type.h>
#include <fuzzer/FuzzedDataProvider.h>

#include <array>
#include <cstdlib>
#include <cstring>

#include "arrow_quant/base/fuzz_support.h"
#include "arrow_quant/io/parquet/arrow_status.h"
#include "arrow_quant/io/parquet/legacy.h"
#include "arrow_quant/io/parquet/record_row.h"

namespace arrow_quant {
namespace {

using fuzz::Accepts;
using fuzz::Require;
using ArrayPtr = std::shared_ptr<arrow::Array>;

enum class Type { kText, kWhole, kBoolean, kSizes, kBytes, kFloats };

struct Column {
  const char* name;
  Type type;
};

constexpr std::array kColumns = {Column{"layer_name", Type::kText},
                                 Column{"shape", Type::kSizes},
                                 Column{"dtype", Type::kText},
                                 Column{"num_params", Type::kWhole},
                                 Column{"quant_type", Type::kText},
                                 Column{"quant_axis", Type::kWhole},
                                 Column{"group_size", Type::kWhole},
                                 Column{"is_diffusion_model", Type::kBoolean},
                                 Column{"modality", Type::kText},
                                 Column{"time_aware_quant_json", Type::kText},
                                 Column{"spatial_quant_json", Type::kText},
                                 Column{"activation_stats_json", Type::kText},
                                 Column{"bits", Type::kWhole},
                                 Column{"packing", Type::kText},
                                 Column{"grid", Type::kText},
                                 Column{"zero_point_kind", Type::kText},
                                 Column{"row_rank", Type::kWhole},
                                 Column{"row_begin", Type::kWhole},
                                 Column{"row_count", Type::kWhole},
                                 Column{"method", Type::kText},
                                 Column{"reason", Type::kText},
                                 Column{"component", Type::kText},
                                 Column{"report_json", Type::kText},
                                 Column{"data", Type::kBytes},
                                 Column{"scales", Type::kFloats},
                                 Column{"zero_points", Type::kFloats},
                                 Column{"residual_scales", Type::kFloats},
                                 Column{"time_scales", Type::kFloats},
                                 Column{"equalization_scales", Type::kFloats},
                                 Column{"shift", Type::kFloats},
                                 Column{"rotation_seed", Type::kWhole},
                                 Column{"equalization_producer", Type::kText}};

// Words that a reader looks for, since a mutation rarely hits upon them.
constexpr std::array<const char*, 16> kWords = {"",
                                                "none",
                                                "int2",
                                                "int4",
                                                "int8",
                                                "int3",
                                                "affine",
                                                "float",
                                                "lsb",
                                                "fp16",
                                                "float32",
                                                "{}",
                                                "layer",
                                                "bfloat16",
                                                "{\"num_time_groups\":2}",
                                                "int4_asym_group"};

template <typename Builder>
ArrayPtr Finished(Builder& builder) {
  return builder.Finish().ValueOrDie();
}

// Data that are said to be text need not be; so says Parquet, too.
template <typename Builder>
ArrayPtr TextArray(FuzzedDataProvider& input) {
  Builder builder;
  const std::string text = input.ConsumeBool() ? input.PickValueInArray(kWords) : input.ConsumeRandomLengthString(64);
  Require(builder.Append(text).ok(), "a text is built");
  return Finished(builder);
}

std::int64_t Whole(FuzzedDataProvider& input) {
  return input.ConsumeBool() ? input.ConsumeIntegralInRange<std::int64_t>(-1, 64)
                             : input.ConsumeIntegral<std::int64_t>();
}

template <typename Builder>
ArrayPtr WholeArray(FuzzedDataProvider& input) {
  Builder builder;
  Require(builder.Append(static_cast<typename Builder::value_type>(Whole(input))).ok(), "a number is built");
  return Finished(builder);
}

template <typename Items, typename Next>
ArrayPtr ListArray(FuzzedDataProvider& input, Next&& next) {
  auto items = std::make_shared<Items>();
  arrow::ListBuilder builder(arrow::default_memory_pool(), items);
  Require(builder.Append().ok(), "a list is built");
  for (std::size_t n = input.ConsumeIntegralInRange<std::size_t>(0, 40); n > 0; --n) {
    const bool null = input.ConsumeIntegralInRange(0, 63) == 1;
    Require((null ? items->AppendNull() : items->Append(next())).ok(), "an item is built");
  }
  return Finished(builder);
}

ArrayPtr FloatsArray(FuzzedDataProvider& input) {
  return ListArray<arrow::FloatBuilder>(input, [&] {
    const auto bits = input.ConsumeIntegral<std::uint32_t>();
    float value = 0;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  });
}

ArrayPtr ArrayOf(Type type, FuzzedDataProvider& input) {
  const bool wide = input.ConsumeBool();
  switch (type) {
    case Type::kText:
      return wide ? TextArray<arrow::LargeStringBuilder>(input) : TextArray<arrow::StringBuilder>(input);
    case Type::kWhole:
      return wide ? WholeArray<arrow::UInt64Builder>(input) : WholeArray<arrow::Int32Builder>(input);
    case Type::kBoolean: {
      arrow::BooleanBuilder builder;
      Require(builder.Append(wide).ok(), "a boolean is built");
      return Finished(builder);
    }
    case Type::kSizes:
      return wide ? ListArray<arrow::UInt64Builder>(input, [&] { return static_cast<std::uint64_t>(Whole(input)); })
                  : ListArray<arrow::Int64Builder>(input, [&] { return Whole(input); });
    case Type::kBytes:
      return TextArray<arrow::BinaryBuilder>(input);
    case Type::kFloats:
      return FloatsArray(input);
  }
  std::abort();
}

// Most cells are of the type that the layout asks for; some are of another, null or missing.
std::shared_ptr<arrow::RecordBatch> Row(FuzzedDataProvider& input, ParquetLayout layout) {
  std::vector<std::shared_ptr<arrow::Field>> fields;
  std::vector<ArrayPtr> arrays;
  for (const Column& column : kColumns) {
    Type type = column.type;
    if (layout == ParquetLayout::kV2BasePython && type == Type::kFloats) type = Type::kBytes;
    const int luck = input.ConsumeIntegralInRange(0, 31);
    if (luck == 1) continue;
    if (luck == 2) type = input.PickValueInArray({Type::kText, Type::kWhole, Type::kBoolean, Type::kFloats});
    ArrayPtr array = ArrayOf(type, input);
    if (luck == 3) array = arrow::MakeArrayOfNull(array->type(), 1).ValueOrDie();
    fields.push_back(arrow::field(column.name, array->type()));
    arrays.push_back(std::move(array));
  }
  return arrow::RecordBatch::Make(arrow::schema(std::move(fields)), 1, std::move(arrays));
}

void Expand(const LoadedTensor& tensor) {
  const LegacyTensor legacy = NormalizeLegacy(tensor);
  std::vector<float> out(legacy.num_params);
  DequantizeLegacy(legacy, out.data());
}

}  // namespace
}  // namespace arrow_quant

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  // The sanitizer sees reads past a buffer only where Arrow takes its memory from malloc.
  ::setenv("ARROW_DEFAULT_MEMORY_POOL", "system", 1);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using arrow_quant::ParquetLayout;
  FuzzedDataProvider input(data, size);
  const auto layout =
      input.PickValueInArray({ParquetLayout::kV1, ParquetLayout::kV2BasePython, ParquetLayout::kV2BaseRust,
                              ParquetLayout::kV2Extended, ParquetLayout::kArrowQuant});
  const bool alone = input.ConsumeBool();
  const auto row = arrow_quant::Row(input, layout);
  arrow_quant::fuzz::Accepts([&] {
    const arrow_quant::LoadedTensor tensor = arrow_quant::ReadCells({row, 0, alone}, "/dev/null/model.parquet", layout);
    if (layout != ParquetLayout::kArrowQuant) arrow_quant::Expand(tensor);
  });
  return 0;
}
