#include "arrow_quant/base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <exception>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

thread_local const ThreadPool* current_pool = nullptr;

// CPUs of the cgroup's quota, rounded up; 0 where there is none.
int CgroupQuota() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (v2 >> quota >> period && quota != "max" && period > 0) {
    return std::max(1, static_cast<int>(std::ceil(std::strtod(quota.c_str(), nullptr) / period)));
  }
  std::ifstream quota_v1("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream period_v1("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double quota_us = 0;
  double period_us = 0;
  if (quota_v1 >> quota_us && period_v1 >> period_us && quota_us > 0 && period_us > 0) {
    return std::max(1, static_cast<int>(std::ceil(quota_us / period_us)));
  }
  return 0;
}

// One ParallelFor: indices are handed out by a counter; the last participant to leave wakes the caller.
struct Batch {
  Batch(std::int64_t count, const std::function<void(std::int64_t)>& function, std::stop_token token)
      : n(count), body(function), stop(std::move(token)) {}

  std::int64_t n;
  const std::function<void(std::int64_t)>& body;
  std::stop_token stop;
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> abandoned{false};
  std::mutex mutex;
  std::condition_variable done;
  int running = 0;
  bool closed = false;
  std::exception_ptr error;

  void Run() {
    while (!abandoned.load(std::memory_order_relaxed) && !stop.stop_requested()) {
      const std::int64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= n) return;
      try {
        body(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
        abandoned = true;
      }
    }
  }

  // A pool thread takes part, unless the caller has already seen everything done.
  void Join() {
    {
      const std::lock_guard lock(mutex);
      if (closed) return;
      ++running;
    }
    Run();
    const std::lock_guard lock(mutex);
    if (--running == 0) done.notify_all();
  }

  bool Exhausted() const { return next.load() >= n || abandoned || stop.stop_requested(); }

  void Wait() {
    std::unique_lock lock(mutex);
    while (running > 0 || !Exhausted()) done.wait_for(lock, std::chrono::milliseconds(20));
    closed = true;
  }
};

}  // namespace

int AvailableCpus() {
  int cpus = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cpus = CPU_COUNT(&set);
  if (const int quota = CgroupQuota(); quota > 0) cpus = std::min(cpus, quota);
  return std::max(1, cpus);
}

ThreadPool::ThreadPool(int threads) {
  workers_.reserve(static_cast<std::size_t>(threads));
  for (int i = 0; i < threads; ++i) {
    workers_.emplace_back([this](const std::stop_token& stop) { RunWorker(stop); });
  }
}

ThreadPool::~ThreadPool() {
  for (std::jthread& worker : workers_) worker.request_stop();
  wake_.notify_all();
}

ThreadPool& ThreadPool::Shared() {
  // Leaked on purpose: threads must not be joined while static objects are destroyed, nor in a forked child, where
  // they do not exist.
  static std::atomic<ThreadPool*> pool{nullptr};
  static std::mutex mutex;
  static const int once = pthread_atfork(nullptr, nullptr, [] { pool = nullptr; });
  static_cast<void>(once);
  if (ThreadPool* existing = pool.load()) return *existing;
  const std::lock_guard lock(mutex);
  if (pool.load() == nullptr) pool = new ThreadPool(AvailableCpus());
  return *pool.load();
}

void ThreadPool::Enqueue(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
}

void ThreadPool::RunWorker(const std::stop_token& stop) {
  current_pool = this;
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      if (!wake_.wait(lock, stop, [this] { return !tasks_.empty(); })) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

void ThreadPool::ParallelFor(std::int64_t n, int max_threads, const std::function<void(std::int64_t)>& body,
                             const std::stop_token& stop) {
  if (n <= 0) return;
  const bool nested = current_pool == this;
  std::int64_t helpers = max_threads > 0 ? std::min(max_threads, size()) : size();
  helpers = std::min(helpers, n);
  if (nested) --helpers;  // the calling thread is one of the pool's
  auto batch = std::make_shared<Batch>(n, body, stop);
  for (std::int64_t i = 0; i < helpers; ++i) {
    Enqueue([batch] { batch->Join(); });
  }
  if (nested) batch->Run();
  batch->Wait();
  if (batch->error) std::rethrow_exception(batch->error);
  if (stop.stop_requested()) throw Error(ErrorCode::kCancelled, "stopped on request");
}

}  // namespace arrow_quant
