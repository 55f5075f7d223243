#pragma once

// The Arrow schema of TensorRecord. Includes Arrow: only the .cc files of io/parquet include this.

#include <arrow/type_fwd.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "arrow_quant/io/parquet/model_writer.h"
#include "arrow_quant/io/parquet/tensor_record.h"

namespace arrow_quant {

// Fields in their order on disk.
std::shared_ptr<arrow::Schema> RecordSchema(RecordColumns columns);

// One array for each field, a row for each record. With a single record the arrays point into the record's own memory.
std::vector<std::shared_ptr<arrow::Array>> RecordArrays(std::span<const TensorRecord> records, RecordColumns columns);

// Dotted Parquet paths of the float lists.
std::vector<std::string> FloatColumnPaths(RecordColumns columns);

}  // namespace arrow_quant
