#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "arrow_quant/base/error.h"

namespace arrow_quant {

// Values as bytes of this machine, for files that only this machine reads again: numbers as they are in memory, strings
// and vectors with their length before them, structs member by member. One function per type serves both directions.
//
// An archive has `Bytes(data, size)`, which puts or takes, and `kReading`. A struct T takes part with a function
// `Members(T&)` that gives its members as a tuple of references. It should name them in a structured binding: a member
// that is added later then does not compile until it is named there.

template <typename T>
inline constexpr bool kIsPlain = std::is_arithmetic_v<T> || std::is_enum_v<T>;  // std::byte is an enum
template <typename T>
inline constexpr bool kIsSequence = false;
template <typename T, typename A>
inline constexpr bool kIsSequence<std::vector<T, A>> = true;
template <>
inline constexpr bool kIsSequence<std::string> = true;

template <typename T>
inline constexpr bool kIsOptional = false;
template <typename T>
inline constexpr bool kIsOptional<std::optional<T>> = true;

template <typename Archive, typename T>
void Transfer(Archive& archive, T& value);

template <typename Archive, typename Optional>
void TransferOptional(Archive& archive, Optional& value) {
  std::uint8_t present = value.has_value() ? 1 : 0;
  Transfer(archive, present);
  if constexpr (Archive::kReading) {
    value.reset();
    if (present != 0) value.emplace();
  }
  if (value) Transfer(archive, *value);
}

template <typename Archive, typename Vector>
void TransferSequence(Archive& archive, Vector& values) {
  using Element = std::remove_const_t<std::remove_reference_t<decltype(values[0])>>;
  std::uint64_t count = values.size();
  Transfer(archive, count);
  if constexpr (Archive::kReading) {
    archive.Expect(count);
    values.resize(static_cast<std::size_t>(count));
  }
  if constexpr (kIsPlain<Element>) {
    archive.Bytes(values.data(), static_cast<std::size_t>(count) * sizeof(Element));
  } else {
    for (auto& value : values) Transfer(archive, value);
  }
}

template <typename Archive, typename T>
void Transfer(Archive& archive, T& value) {
  using Value = std::remove_const_t<T>;
  if constexpr (kIsPlain<Value>) {
    archive.Bytes(&value, sizeof value);
  } else if constexpr (kIsSequence<Value>) {
    TransferSequence(archive, value);
  } else if constexpr (kIsOptional<Value>) {
    TransferOptional(archive, value);
  } else {
    std::apply([&](auto&... members) { (Transfer(archive, members), ...); }, Members(value));
  }
}

// Takes values from bytes. Throws Error kCorruptFile where they end too early.
class ByteReader {
 public:
  static constexpr bool kReading = true;

  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  void Bytes(void* out, std::size_t size) {
    Expect(size);
    if (size > 0) std::memcpy(out, bytes_.data(), size);
    bytes_ = bytes_.subspan(size);
  }
  // Every element takes a byte at least, so that no damaged length asks for more memory than the file has bytes.
  void Expect(std::uint64_t count) const {
    if (count > bytes_.size()) throw Error(ErrorCode::kCorruptFile, "a record ends too early");
  }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace arrow_quant
