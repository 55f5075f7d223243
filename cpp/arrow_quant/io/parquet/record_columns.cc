#include "arrow_quant/io/parquet/record_columns.h"

#include <arrow/array.h>
#include <arrow/buffer.h>
#include <arrow/type.h>

#include <functional>
#include <optional>
#include <string_view>

namespace arrow_quant {
namespace {

using Records = std::span<const TensorRecord>;
using ArrayPtr = std::shared_ptr<arrow::Array>;

// One column: its field, and how the cells are taken from the records.
struct Column {
  std::shared_ptr<arrow::Field> field;
  std::function<ArrayPtr(Records)> build;
  bool old_layout;  // part of the older V2 Extended
};

// A validity bitmap that is only made when a cell is null.
class Validity {
 public:
  explicit Validity(std::size_t rows) : bits_((rows + 7) / 8, 0) {}

  void Set(std::size_t row, bool valid) {
    if (valid) {
      bits_[row / 8] = static_cast<std::uint8_t>(bits_[row / 8] | (1U << (row % 8)));
    } else {
      ++nulls_;
    }
  }
  std::int64_t nulls() const { return nulls_; }
  std::shared_ptr<arrow::Buffer> Take() { return nulls_ == 0 ? nullptr : arrow::Buffer::FromVector(std::move(bits_)); }

 private:
  std::vector<std::uint8_t> bits_;
  std::int64_t nulls_ = 0;
};

// The cells' values one after another; the memory of the only cell itself where there is one.
template <typename T>
std::shared_ptr<arrow::Buffer> JoinCells(const std::vector<std::span<const T>>& cells) {
  if (cells.size() == 1 && !cells[0].empty()) {
    return std::make_shared<arrow::Buffer>(reinterpret_cast<const std::uint8_t*>(cells[0].data()),
                                           static_cast<std::int64_t>(cells[0].size_bytes()));
  }
  std::vector<T> joined;
  for (const std::span<const T> cell : cells) joined.insert(joined.end(), cell.begin(), cell.end());
  return arrow::Buffer::FromVector(std::move(joined));
}

template <typename Offset, typename T>
std::shared_ptr<arrow::Buffer> OffsetsOf(const std::vector<std::span<const T>>& cells) {
  std::vector<Offset> offsets = {0};
  for (const std::span<const T> cell : cells)
    offsets.push_back(static_cast<Offset>(offsets.back() + static_cast<Offset>(cell.size())));
  return arrow::Buffer::FromVector(std::move(offsets));
}

template <typename Getter>
ArrayPtr Strings(Records records, Getter get) {
  std::vector<std::span<const char>> cells;
  Validity validity(records.size());
  for (std::size_t i = 0; i < records.size(); ++i) {
    const std::optional<std::string_view> text = get(records[i]);
    validity.Set(i, text.has_value());
    cells.push_back(text ? std::span<const char>(text->data(), text->size()) : std::span<const char>());
  }
  const std::int64_t nulls = validity.nulls();
  return std::make_shared<arrow::StringArray>(static_cast<std::int64_t>(records.size()), OffsetsOf<std::int32_t>(cells),
                                              JoinCells(cells), validity.Take(), nulls);
}

template <typename ArrayType, typename Getter>
ArrayPtr Numbers(Records records, Getter get) {
  using Value = typename ArrayType::value_type;
  std::vector<Value> values;
  Validity validity(records.size());
  for (std::size_t i = 0; i < records.size(); ++i) {
    const std::optional<Value> value = get(records[i]);
    validity.Set(i, value.has_value());
    values.push_back(value.value_or(Value{0}));
  }
  const std::int64_t nulls = validity.nulls();
  return std::make_shared<ArrayType>(static_cast<std::int64_t>(records.size()),
                                     arrow::Buffer::FromVector(std::move(values)), validity.Take(), nulls);
}

ArrayPtr Booleans(Records records) {
  Validity bits(records.size());
  for (std::size_t i = 0; i < records.size(); ++i) bits.Set(i, records[i].is_diffusion_model);
  std::shared_ptr<arrow::Buffer> values = bits.Take();
  if (values == nullptr) values = arrow::Buffer::FromVector(std::vector<std::uint8_t>((records.size() + 7) / 8, 0xFF));
  return std::make_shared<arrow::BooleanArray>(static_cast<std::int64_t>(records.size()), values);
}

std::shared_ptr<arrow::DataType> ListOf(const std::shared_ptr<arrow::DataType>& item) {
  return arrow::list(arrow::field("item", item, /*nullable=*/false));
}

template <typename ItemArray, typename T, typename Getter>
ArrayPtr Lists(Records records, const std::shared_ptr<arrow::DataType>& item, bool empty_is_null, Getter get) {
  std::vector<std::span<const T>> cells;
  Validity validity(records.size());
  std::int64_t total = 0;
  for (std::size_t i = 0; i < records.size(); ++i) {
    cells.push_back(get(records[i]));
    validity.Set(i, !(empty_is_null && cells.back().empty()));
    total += static_cast<std::int64_t>(cells.back().size());
  }
  const std::int64_t nulls = validity.nulls();
  return std::make_shared<arrow::ListArray>(
      ListOf(item), static_cast<std::int64_t>(records.size()), OffsetsOf<std::int32_t>(cells),
      std::make_shared<ItemArray>(total, JoinCells(cells)), validity.Take(), nulls);
}

ArrayPtr DataCells(Records records) {
  std::vector<std::span<const std::uint8_t>> cells;
  for (const TensorRecord& record : records) cells.push_back(record.data);
  return std::make_shared<arrow::LargeBinaryArray>(static_cast<std::int64_t>(records.size()),
                                                   OffsetsOf<std::int64_t>(cells), JoinCells(cells));
}

Column Text(const char* name, std::string TensorRecord::* member, bool old_layout) {
  return {arrow::field(name, arrow::utf8(), false),
          [member](Records r) {
            return Strings(r, [&](const TensorRecord& t) { return std::optional<std::string_view>(t.*member); });
          },
          old_layout};
}

Column OptionalText(const char* name, std::optional<std::string> TensorRecord::* member, bool old_layout = true) {
  return {arrow::field(name, arrow::utf8(), true),
          [member](Records r) {
            return Strings(r, [&](const TensorRecord& t) {
              return t.*member ? std::optional<std::string_view>(*(t.*member)) : std::nullopt;
            });
          },
          old_layout};
}

template <typename Member>
Column Unsigned(const char* name, Member TensorRecord::* member, bool nullable, bool old_layout) {
  return {arrow::field(name, arrow::uint64(), nullable),
          [member](Records r) {
            return Numbers<arrow::UInt64Array>(
                r, [&](const TensorRecord& t) { return std::optional<std::uint64_t>(t.*member); });
          },
          old_layout};
}

Column Int32(const char* name, std::int32_t TensorRecord::* member) {
  return {arrow::field(name, arrow::int32(), false),
          [member](Records r) {
            return Numbers<arrow::Int32Array>(
                r, [&](const TensorRecord& t) { return std::optional<std::int32_t>(t.*member); });
          },
          false};
}

Column Floats(const char* name, std::span<const float> TensorRecord::* member, bool nullable, bool old_layout) {
  return {arrow::field(name, ListOf(arrow::float32()), nullable),
          [member, nullable](Records r) {
            return Lists<arrow::FloatArray, float>(r, arrow::float32(), nullable,
                                                   [&](const TensorRecord& t) { return t.*member; });
          },
          old_layout};
}

Column Sizes(const char* name, std::vector<std::uint64_t> TensorRecord::* member, bool nullable, bool old_layout) {
  return {arrow::field(name, ListOf(arrow::uint64()), nullable),
          [member, nullable](Records r) {
            return Lists<arrow::UInt64Array, std::uint64_t>(r, arrow::uint64(), nullable, [&](const TensorRecord& t) {
              return std::span<const std::uint64_t>(t.*member);
            });
          },
          old_layout};
}

Column Doubles(const char* name, std::vector<double> TensorRecord::* member) {
  return {arrow::field(name, ListOf(arrow::float64()), true),
          [member](Records r) {
            return Lists<arrow::DoubleArray, double>(
                r, arrow::float64(), true, [&](const TensorRecord& t) { return std::span<const double>(t.*member); });
          },
          false};
}

const std::vector<Column>& Columns() {
  using R = TensorRecord;
  static const std::vector<Column> columns = {
      Text("layer_name", &R::layer_name, true),
      Sizes("shape", &R::shape, false, true),
      Text("dtype", &R::dtype, true),
      {arrow::field("data", arrow::large_binary(), false), DataCells, true},
      Unsigned("num_params", &R::num_params, false, true),
      Text("quant_type", &R::quant_type, true),
      Floats("scales", &R::scales, false, true),
      Floats("zero_points", &R::zero_points, false, true),
      Unsigned("quant_axis", &R::quant_axis, true, true),
      Unsigned("group_size", &R::group_size, true, true),
      {arrow::field("is_diffusion_model", arrow::boolean(), false), Booleans, true},
      OptionalText("modality", &R::modality),
      OptionalText("time_aware_quant_json", &R::time_aware_quant_json),
      OptionalText("spatial_quant_json", &R::spatial_quant_json),
      OptionalText("activation_stats_json", &R::activation_stats_json),
      Int32("bits", &R::bits),
      Text("packing", &R::packing, false),
      Text("grid", &R::grid, false),
      Text("zero_point_kind", &R::zero_point_kind, false),
      Int32("row_rank", &R::row_rank),
      Unsigned("row_begin", &R::row_begin, false, false),
      Unsigned("row_count", &R::row_count, false, false),
      Floats("residual_scales", &R::residual_scales, true, false),
      Text("method", &R::method, false),
      Text("reason", &R::reason, false),
      Text("component", &R::component, false),
      Text("report_json", &R::report_json, false),
      Doubles("time_boundaries", &R::time_boundaries),
      Sizes("time_block_sizes", &R::time_block_sizes, true, false),
      Floats("time_scales", &R::time_scales, true, false),
      Floats("time_zero_points", &R::time_zero_points, true, false),
      Doubles("correction_boundaries", &R::correction_boundaries),
      Floats("time_gamma", &R::time_gamma, true, false),
      Floats("time_beta", &R::time_beta, true, false),
      Floats("time_gains", &R::time_gains, true, false),
      Floats("equalization_scales", &R::equalization_scales, true, false),
      Floats("shift", &R::shift, true, false),
      Unsigned("rotation_seed", &R::rotation_seed, true, false),
      OptionalText("equalization_producer", &R::equalization_producer, false),
  };
  return columns;
}

// The columns of a choice; the JSON columns of the older layout exist only where a file has use for them.
std::vector<const Column*> Chosen(RecordColumns choice) {
  std::vector<const Column*> chosen;
  for (const Column& column : Columns()) {
    const std::string& name = column.field->name();
    if (choice != RecordColumns::kFull) {
      if (!column.old_layout || name == "time_aware_quant_json" || name == "activation_stats_json") continue;
      if (name == "spatial_quant_json" && choice == RecordColumns::kOldPlain) continue;
    }
    chosen.push_back(&column);
  }
  return chosen;
}

}  // namespace

std::shared_ptr<arrow::Schema> RecordSchema(RecordColumns columns) {
  std::vector<std::shared_ptr<arrow::Field>> fields;
  for (const Column* column : Chosen(columns)) fields.push_back(column->field);
  return arrow::schema(std::move(fields));
}

std::vector<ArrayPtr> RecordArrays(std::span<const TensorRecord> records, RecordColumns columns) {
  std::vector<ArrayPtr> arrays;
  for (const Column* column : Chosen(columns)) arrays.push_back(column->build(records));
  return arrays;
}

std::vector<std::string> FloatColumnPaths(RecordColumns columns) {
  std::vector<std::string> paths;
  for (const Column* column : Chosen(columns)) {
    if (column->field->type()->Equals(ListOf(arrow::float32()))) paths.push_back(column->field->name() + ".list.item");
  }
  return paths;
}

}  // namespace arrow_quant
