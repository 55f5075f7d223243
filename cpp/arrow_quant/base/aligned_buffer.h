#pragma once

#include <cstddef>
#include <new>
#include <span>
#include <vector>

namespace arrow_quant {

// Allocator of cache-line aligned memory whose elements are left uninitialized.
template <typename T>
struct AlignedAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};

  AlignedAllocator() = default;
  template <typename U>
  // NOLINTNEXTLINE(google-explicit-constructor): allocators convert silently.
  AlignedAllocator(const AlignedAllocator<U>&) noexcept {}

  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kAlignment)); }
  void deallocate(T* p, std::size_t) noexcept { ::operator delete(p, kAlignment); }

  template <typename U, typename... Args>
  void construct(U* p, Args&&... args) {
    if constexpr (sizeof...(Args) == 0) {
      ::new (static_cast<void*>(p)) U;  // default-initialize: no pass over memory that is about to be overwritten
    } else {
      ::new (static_cast<void*>(p)) U(static_cast<Args&&>(args)...);
    }
  }

  template <typename U>
  bool operator==(const AlignedAllocator<U>&) const noexcept {
    return true;
  }
};

// A 64-byte aligned vector; resize() does not clear new elements of trivial types.
template <typename T>
using AlignedVector = std::vector<T, AlignedAllocator<T>>;

}  // namespace arrow_quant
