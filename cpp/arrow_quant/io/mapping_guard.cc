#include "arrow_quant/io/mapping_guard.h"

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <mutex>

namespace arrow_quant {
namespace {

// Read by the signal handler: lock-free atomics only. A slot is free while `end` is 0.
struct Slot {
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::uintptr_t> end{0};
  std::atomic<bool> failed{false};
};

constexpr std::size_t kSlots = 4096;
std::array<Slot, kSlots> slots;
std::mutex slots_mutex;  // for writers
struct sigaction previous_action;

std::uintptr_t PageSize() {
  static const auto size = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  return size;
}

bool ReplaceByZeros(void* where) {
  const auto address = reinterpret_cast<std::uintptr_t>(where);
  for (Slot& slot : slots) {
    const std::uintptr_t end = slot.end.load();
    if (address >= end || address < slot.begin.load()) continue;
    const std::uintptr_t into_page = address % PageSize();
    slot.failed.store(true);
    return mmap(static_cast<std::byte*>(where) - into_page, end - (address - into_page), PROT_READ,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
  }
  return false;
}

void OnBusError(int, siginfo_t* info, void*) {
  if (info->si_code > 0 && ReplaceByZeros(info->si_addr)) return;
  // The instruction runs again and meets the former handler.
  sigaction(SIGBUS, &previous_action, nullptr);
  if (info->si_code <= 0) raise(SIGBUS);
}

void InstallHandler() {
  static const bool installed = [] {
    PageSize();
    struct sigaction action{};
    action.sa_sigaction = OnBusError;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, &previous_action) == 0;
  }();
  static_cast<void>(installed);
}

}  // namespace

MappingGuard::MappingGuard(const void* begin, std::size_t size) noexcept {
  InstallHandler();
  const std::lock_guard lock(slots_mutex);
  for (std::size_t i = 0; i < kSlots; ++i) {
    Slot& slot = slots[i];
    if (slot.end.load() != 0) continue;
    const auto first = reinterpret_cast<std::uintptr_t>(begin);
    slot.failed.store(false);
    slot.begin.store(first);
    slot.end.store((first + size + PageSize() - 1) / PageSize() * PageSize());
    slot_ = static_cast<int>(i);
    return;
  }
}

MappingGuard::~MappingGuard() {
  if (slot_ < 0) return;
  const std::lock_guard lock(slots_mutex);
  slots[static_cast<std::size_t>(slot_)].end.store(0);
}

bool MappingGuard::failed() const noexcept {
  return slot_ >= 0 && slots[static_cast<std::size_t>(slot_)].failed.load();
}

}  // namespace arrow_quant
