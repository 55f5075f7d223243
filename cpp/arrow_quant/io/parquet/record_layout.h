#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/parquet/tensor_record.h"

namespace arrow_quant {

// The matrix that a tensor is seen as: quant_axis is moved to the front, then the first row_rank axes form the rows and
// the others the columns. A scalar is 1x1.
struct RowLayout {
  std::uint64_t rows = 1;
  std::uint64_t cols = 1;
  std::uint64_t groups = 0;  // of one row; 0 when not quantized
};

// Consecutive rows of the matrix.
struct RowRange {
  std::uint64_t begin = 0;
  std::uint64_t count = 0;
};

// Product of the sizes; nothing when the product of the non-zero ones exceeds 2^48, more than any tensor has.
std::optional<std::uint64_t> CountElements(std::span<const std::uint64_t> shape);

// The width that "int2", "int3", "int4" or "int8" names, a suffix after "_" allowed; nothing otherwise.
std::optional<int> BitsOfQuantType(std::string_view quant_type);

// True for the names under which tensors are stored as raw values: "", "none", "float32", "fp16", "unquantized", ...
bool IsRawQuantType(std::string_view quant_type);

// The element type's size in bytes. Throws Error kUnsupported for a type that is not known.
std::uint64_t ElementBytes(const TensorRecord& record, const std::string& file);

// The matrix view of a record of our layout, from its fields alone. Throws Error kShapeMismatch or kCorruptFile naming
// `file`, the tensor and the value when a field is out of range or two disagree.
RowLayout CheckFields(const TensorRecord& record, const std::string& file);

// Check that the byte and float ranges have the lengths that the fields ask for and that the floats are finite. Throws
// as CheckFields does.
void CheckCells(const TensorRecord& record, const RowLayout& layout, const std::string& file);

// Bytes that the data cell of `row_count` rows must have.
std::uint64_t CellBytes(const TensorRecord& record, const RowLayout& layout, std::uint64_t row_count,
                        const std::string& file);

// Cut `rows` rows into parts of at most `max_bytes`, each beginning at a multiple of kPartRowMultiple. One part when
// all fits, or when a single multiple is larger already.
std::vector<RowRange> PlanParts(std::uint64_t rows, std::uint64_t bits_per_row,
                                std::uint64_t max_bytes = kPreferredCellBytes);

// Throw Error kCorruptFile (or `code`) about a tensor of a file.
[[noreturn]] void ThrowTensorError(const std::string& file, const std::string& tensor, const std::string& message,
                                   ErrorCode code = ErrorCode::kCorruptFile, const std::string& remedy = "");

}  // namespace arrow_quant
