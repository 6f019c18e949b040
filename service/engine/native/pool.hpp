// Threads that compute one step together.
//
// All of them run the same function; `Team::for_each` shares out a loop and ends in a barrier.
// Work is taken in small pieces: a thread that the kernel takes off its core holds the others up
// by one piece only. Waiting spins for a while, then sleeps: within a step for some tens of
// microseconds, between steps for what Python does there, since waking up costs a tenth of a step.
//
// As many threads as the process has cores keep to a core each while they compute. Left free, one
// that slept at a barrier while a client or the event loop had its core is woken on the other
// thread's core, and both share that one beside an idle one: a tenth of the rate with 32 streams.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace nestling {

class Team;

// Tells the core that its thread waits.
inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Keeps the calling thread to one core for as long as it lives. A thread of the idle policy stays
// free: whoever works on that core would leave it no time, and the others wait for it.
class Stay {
 public:
  explicit Stay(int core) {
    if (core < 0 || sched_getscheduler(0) == SCHED_IDLE) return;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    is_kept_ = pthread_getaffinity_np(pthread_self(), sizeof before_, &before_) == 0 &&
               pthread_setaffinity_np(pthread_self(), sizeof one, &one) == 0;
  }

  ~Stay() {
    if (is_kept_) pthread_setaffinity_np(pthread_self(), sizeof before_, &before_);
  }

  Stay(const Stay&) = delete;
  Stay& operator=(const Stay&) = delete;

 private:
  cpu_set_t before_;
  bool is_kept_ = false;
};

// The core of each of so many threads, if there are as many cores; else -1: anywhere.
inline std::vector<int> cores_of(int num_threads) {
  std::vector<int> cores;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0 && CPU_COUNT(&allowed) == num_threads) {
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(core, &allowed)) cores.push_back(core);
    }
  }
  cores.resize(num_threads, -1);
  return cores;
}

class Pool {
 public:
  // Throws where the system has not so many threads; those that began have ended then.
  explicit Pool(int num_threads) : size_(num_threads), cores_(cores_of(num_threads)) {
    try {
      for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { work(cores_[i]); });
    } catch (...) {
      end();
      throw;
    }
  }

  ~Pool() { end(); }

  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Runs function(team) on all threads and returns when all have; on the caller's alone while
  // somebody else has the pool.
  template <class Function>
  void run(const Function& function);

 private:
  friend class Team;
  using Job = void (*)(const void*, Team&);

  static constexpr int kSpinsWithin = 4000;    // about 60 µs
  static constexpr int kSpinsBetween = 24000;  // about 400 µs

  // Waits until value is no longer `old`.
  static void wait(const std::atomic<uint32_t>& value, uint32_t old, int spins) {
    for (int i = 0; i < spins; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
    value.wait(old, std::memory_order_acquire);
  }

  void end() {
    job_ = nullptr;
    publish();
    for (auto& worker : workers_) worker.join();
  }

  void publish() {
    epoch_.fetch_add(1, std::memory_order_acq_rel);
    epoch_.notify_all();
  }

  void work(int core);

  const int size_;
  const std::vector<int> cores_;
  std::vector<std::thread> workers_;
  std::mutex busy_;
  Job job_ = nullptr;
  const void* argument_ = nullptr;
  alignas(64) std::atomic<uint32_t> epoch_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> next_{0};
};

class Team {
 public:
  // A pool's, or, with nullptr, the calling thread alone.
  explicit Team(Pool* pool, bool is_caller = true) : pool_(pool), is_caller_(is_caller) {}

  // Whether this is the thread that called Pool::run.
  bool is_caller() const { return is_caller_; }

  int size() const { return pool_ == nullptr ? 1 : pool_->size_; }

  // Calls body(i) for all i below count, on whichever thread; returns when all are done.
  template <class Body>
  void for_each(int count, const Body& body) {
    if (pool_ == nullptr) {
      for (int i = 0; i < count; ++i) body(i);
      return;
    }
    const int piece = count / (kPiecesPerThread * pool_->size_) + 1;
    while (true) {
      const int begin = pool_->next_.fetch_add(piece, std::memory_order_relaxed);
      if (begin >= count) break;
      const int end = begin + piece < count ? begin + piece : count;
      for (int i = begin; i < end; ++i) body(i);
    }
    barrier();
  }

  void barrier() {
    if (pool_ == nullptr) return;
    Pool& pool = *pool_;
    const uint32_t phase = pool.phase_.load(std::memory_order_relaxed);
    if (pool.arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < pool.size_) {
      Pool::wait(pool.phase_, phase, Pool::kSpinsWithin);
      return;
    }
    pool.arrived_.store(0, std::memory_order_relaxed);
    pool.next_.store(0, std::memory_order_relaxed);
    pool.phase_.store(phase + 1, std::memory_order_release);
    pool.phase_.notify_all();
  }

 private:
  static constexpr int kPiecesPerThread = 4;
  Pool* pool_;
  bool is_caller_;
};

template <class Function>
void Pool::run(const Function& function) {
  std::unique_lock<std::mutex> lock(busy_, std::try_to_lock);
  if (!lock.owns_lock() || size_ == 1) {
    Team alone(nullptr);
    function(alone);
    return;
  }
  const Stay stay(cores_[0]);
  job_ = [](const void* argument, Team& team) { (*static_cast<const Function*>(argument))(team); };
  argument_ = &function;
  publish();
  Team team(this);
  function(team);
  team.barrier();
}

inline void Pool::work(int core) {
  const Stay stay(core);
  uint32_t seen = 0;
  while (true) {
    wait(epoch_, seen, kSpinsBetween);
    ++seen;
    if (job_ == nullptr) return;
    Team team(this, false);
    job_(argument_, team);
    team.barrier();
  }
}

}  // namespace nestling
