#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace arrow_quant {

// Bytes that the cells of a row take in a file of ParquetModelWriter, which are known once they are compressed: fitted
// codes and grids take less than their width. Large cells are compressed in pieces, so that little memory is needed.
std::uint64_t EncodedBytes(std::span<const std::byte> data);
std::uint64_t EncodedBytes(std::span<const float> values);

// What a row takes besides cells of so many bytes: its names and its part of a row group; with `report`, the figures of
// a calibrated layer too. An estimate from above.
std::uint64_t EncodedRowOverhead(std::uint64_t cell_bytes, bool report = false);

// What a file takes besides its rows: schema, footer and one row group.
inline constexpr std::uint64_t kEncodedFileOverhead = 13000;

}  // namespace arrow_quant
