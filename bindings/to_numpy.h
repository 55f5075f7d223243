#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <type_traits>
#include <utility>
#include <vector>

namespace arrow_quant {

// A numpy array that owns the vector's memory.
template <typename T, typename Vector>
nanobind::object ToNumpy(Vector&& values, const std::vector<std::size_t>& shape) {
  auto* owned = new std::decay_t<Vector>(std::forward<Vector>(values));
  const nanobind::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::decay_t<Vector>*>(p); });
  return nanobind::cast(nanobind::ndarray<nanobind::numpy, T>(owned->data(), shape.size(), shape.data(), owner));
}

}  // namespace arrow_quant
