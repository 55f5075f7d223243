#pragma once

// TensorRecord from a row. Includes Arrow: only the .cc files of io/parquet include this.

#include <memory>
#include <string>

#include "arrow_quant/io/parquet/model_reader.h"
#include "arrow_quant/io/parquet/row_access.h"

namespace arrow_quant {

// The fields without the ranges, checked as far as they go. Throws Error kCorruptFile, kShapeMismatch, kUnsupported.
TensorRecord ReadDescription(const RowAccess& row, ParquetLayout layout);

// The record with its ranges, and what keeps them alive. Cells of a row group that other tensors share are copied, so
// that a small tensor does not hold on to the memory of its neighbours.
LoadedTensor ReadCells(const BatchRow& batch_row, const std::string& file, ParquetLayout layout);

}  // namespace arrow_quant
