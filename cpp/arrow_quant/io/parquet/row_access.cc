#include "arrow_quant/io/parquet/row_access.h"

#include <arrow/array.h>
#include <arrow/record_batch.h>
#include <arrow/type.h>
#include <arrow/util/utf8.h>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

// An integer cell of any of the accepted widths.
struct Whole {
  bool known = true;       // the type is an integer's
  bool too_large = false;  // above 2^63 - 1
  std::int64_t value = 0;
};

Whole IntegerAt(const arrow::Array& array, std::int64_t i) {
  switch (array.type_id()) {
    case arrow::Type::INT32:
      return {.value = static_cast<const arrow::Int32Array&>(array).Value(i)};
    case arrow::Type::UINT32:
      return {.value = static_cast<const arrow::UInt32Array&>(array).Value(i)};
    case arrow::Type::INT64:
      return {.value = static_cast<const arrow::Int64Array&>(array).Value(i)};
    case arrow::Type::UINT64: {
      const std::uint64_t value = static_cast<const arrow::UInt64Array&>(array).Value(i);
      return {.too_large = value > INT64_MAX, .value = static_cast<std::int64_t>(value)};
    }
    default:
      return {.known = false};
  }
}

}  // namespace

void RowAccess::ThrowColumn(const char* column, const std::string& what) const {
  throw Error(ErrorCode::kCorruptFile, std::string("column '") + column + "' " + what, {.file = file_});
}

void RowAccess::ThrowType(const char* column, const arrow::Array& array) const {
  ThrowColumn(column, "has the unexpected type " + array.type()->ToString());
}

std::shared_ptr<arrow::Array> RowAccess::Cell(const char* column) const {
  std::shared_ptr<arrow::Array> array = row_.batch->GetColumnByName(column);
  if (array == nullptr || array->IsNull(row_.row)) return nullptr;
  return array;
}

std::optional<std::string> RowAccess::Text(const char* column) const {
  const auto array = Cell(column);
  if (array == nullptr) return std::nullopt;
  std::string_view text;
  if (array->type_id() == arrow::Type::STRING) {
    text = static_cast<const arrow::StringArray&>(*array).GetView(row_.row);
  } else if (array->type_id() == arrow::Type::LARGE_STRING) {
    text = static_cast<const arrow::LargeStringArray&>(*array).GetView(row_.row);
  } else {
    ThrowType(column, *array);
  }
  arrow::util::InitializeUTF8();
  if (!arrow::util::ValidateUTF8(text)) ThrowColumn(column, "holds text that is not UTF-8");
  return std::string(text);
}

std::optional<std::int64_t> RowAccess::Integer(const char* column) const {
  const auto array = Cell(column);
  if (array == nullptr) return std::nullopt;
  const Whole whole = IntegerAt(*array, row_.row);
  if (!whole.known) ThrowType(column, *array);
  if (whole.too_large) ThrowColumn(column, "holds a value above 2^63");
  return whole.value;
}

std::optional<bool> RowAccess::Boolean(const char* column) const {
  const auto array = Cell(column);
  if (array == nullptr) return std::nullopt;
  if (array->type_id() != arrow::Type::BOOL) ThrowType(column, *array);
  return static_cast<const arrow::BooleanArray&>(*array).Value(row_.row);
}

std::shared_ptr<arrow::Array> RowAccess::ListItems(const char* column) const {
  const auto array = Cell(column);
  if (array == nullptr) return nullptr;
  std::shared_ptr<arrow::Array> items;
  if (array->type_id() == arrow::Type::LIST) {
    items = static_cast<const arrow::ListArray&>(*array).value_slice(row_.row);
  } else if (array->type_id() == arrow::Type::LARGE_LIST) {
    items = static_cast<const arrow::LargeListArray&>(*array).value_slice(row_.row);
  } else {
    ThrowType(column, *array);
  }
  if (items->null_count() > 0) ThrowColumn(column, "holds a null item");
  return items;
}

std::optional<std::vector<std::uint64_t>> RowAccess::Sizes(const char* column) const {
  const auto items = ListItems(column);
  if (items == nullptr) return std::nullopt;
  std::vector<std::uint64_t> sizes;
  for (std::int64_t i = 0; i < items->length(); ++i) {
    const Whole whole = IntegerAt(*items, i);
    if (!whole.known) ThrowType(column, *items);
    if (whole.too_large) ThrowColumn(column, "holds a size above 2^63");
    if (whole.value < 0) ThrowColumn(column, "holds the negative size " + std::to_string(whole.value));
    sizes.push_back(static_cast<std::uint64_t>(whole.value));
  }
  return sizes;
}

std::optional<std::span<const std::uint8_t>> RowAccess::Bytes(const char* column) const {
  const auto array = Cell(column);
  if (array == nullptr) return std::nullopt;
  std::string_view bytes;
  if (array->type_id() == arrow::Type::BINARY) {
    bytes = static_cast<const arrow::BinaryArray&>(*array).GetView(row_.row);
  } else if (array->type_id() == arrow::Type::LARGE_BINARY) {
    bytes = static_cast<const arrow::LargeBinaryArray&>(*array).GetView(row_.row);
  } else {
    ThrowType(column, *array);
  }
  return std::span(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

std::optional<std::span<const float>> RowAccess::Floats(const char* column) const {
  const auto items = ListItems(column);
  if (items == nullptr) return std::nullopt;
  if (items->type_id() != arrow::Type::FLOAT) ThrowType(column, *items);
  // The batch shares the memory of the slice.
  const auto& floats = static_cast<const arrow::FloatArray&>(*items);
  return std::span(floats.raw_values(), static_cast<std::size_t>(floats.length()));
}

std::optional<std::vector<double>> RowAccess::Doubles(const char* column) const {
  const auto items = ListItems(column);
  if (items == nullptr) return std::nullopt;
  if (items->type_id() != arrow::Type::DOUBLE) ThrowType(column, *items);
  const auto& doubles = static_cast<const arrow::DoubleArray&>(*items);
  return std::vector<double>(doubles.raw_values(), doubles.raw_values() + doubles.length());
}

std::string RowAccess::RequiredText(const char* column) const {
  std::optional<std::string> text = Text(column);
  if (!text) ThrowColumn(column, "is missing or null");
  return *std::move(text);
}

std::uint64_t RowAccess::RequiredSize(const char* column) const {
  const std::optional<std::int64_t> value = Integer(column);
  if (!value) ThrowColumn(column, "is missing or null");
  if (*value < 0) ThrowColumn(column, "holds the negative value " + std::to_string(*value));
  return static_cast<std::uint64_t>(*value);
}

std::vector<std::uint64_t> RowAccess::RequiredSizes(const char* column) const {
  std::optional<std::vector<std::uint64_t>> sizes = Sizes(column);
  if (!sizes) ThrowColumn(column, "is missing or null");
  return *std::move(sizes);
}

}  // namespace arrow_quant
