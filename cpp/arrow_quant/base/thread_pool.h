#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <vector>

namespace arrow_quant {

// Threads that this process may use: affinity and cgroup CPU quota obeyed, at least 1.
int AvailableCpus();

// A small fixed pool. All work of the process runs on Shared(), so that concurrent calls do not multiply threads.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // The pool of the process, with AvailableCpus() threads. Re-created in the child after a fork.
  static ThreadPool& Shared();

  int size() const { return static_cast<int>(workers_.size()); }

  // Call body(i) for every i in [0, n), at most `max_threads` at a time (0: the pool's size), and wait for all.
  // The first exception is rethrown here once the running bodies have ended; later indices are then skipped.
  // A stop request skips later indices and throws Error kCancelled. Called from inside the pool it runs on the calling
  // thread too, so nesting cannot deadlock.
  void ParallelFor(std::int64_t n, int max_threads, const std::function<void(std::int64_t)>& body,
                   const std::stop_token& stop = {});

 private:
  void Enqueue(std::function<void()> task);
  void RunWorker(const std::stop_token& stop);

  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::deque<std::function<void()>> tasks_;
  std::vector<std::jthread> workers_;
};

}  // namespace arrow_quant
