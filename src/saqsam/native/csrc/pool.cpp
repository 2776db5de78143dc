// One pool for the process. Its threads wait on a condition, so they take no time while idle; several Python threads
// may bring work at once, each helps with its own and is helped by threads that are free. After a fork the child
// has no threads but the one that forked: it finds that the pool is another process's and makes its own.
#include "pool.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

namespace {

struct Job {
  void (*work)(void*, int64_t);
  void* context;
  int64_t count;
  int wanted;        // helpers that may still join; under the pool's mutex
  int active = 0;    // helpers at work; likewise
  std::atomic<int64_t> next{0};

  void take_part() {
    for (int64_t index; (index = next.fetch_add(1)) < count;) work(context, index);
  }
};

class Pool {
 public:
  const pid_t owner = getpid();

  void run(Job& job) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      grow(job.wanted);
      jobs_.push_back(&job);
    }
    arrived_.notify_all();
    job.take_part();
    std::unique_lock<std::mutex> lock(mutex_);
    for (auto it = jobs_.begin(); it != jobs_.end(); ++it)
      if (*it == &job) {
        jobs_.erase(it);
        break;
      }
    left_.wait(lock, [&] { return job.active == 0; });
  }

 private:
  void grow(int wanted) {
    for (; size_ < wanted; ++size_) {
      try {
        std::thread([this] { serve(); }).detach();
      } catch (const std::system_error&) {
        return;  // no more threads to be had: those that are there do the work
      }
    }
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      Job* job = nullptr;
      arrived_.wait(lock, [&] { return (job = open_job()) != nullptr; });
      --job->wanted;
      ++job->active;
      lock.unlock();
      job->take_part();
      lock.lock();
      if (--job->active == 0) left_.notify_all();
    }
  }

  Job* open_job() {
    for (Job* job : jobs_)
      if (job->wanted > 0 && job->next.load() < job->count) return job;
    return nullptr;
  }

  std::mutex mutex_;
  std::condition_variable arrived_, left_;
  std::deque<Job*> jobs_;
  int size_ = 0;
};

Pool& pool() {
  static std::atomic<Pool*> current{nullptr};
  Pool* found = current.load();
  while (!found || found->owner != getpid()) {
    Pool* fresh = new Pool;  // never deleted: its threads outlive every other object
    if (current.compare_exchange_strong(found, fresh)) return *fresh;
    delete fresh;
  }
  return *found;
}

struct Scratch {
  std::unique_ptr<char[]> memory;
  int64_t size = 0;
};

}  // namespace

void run_parallel(int64_t count, int threads, void (*work)(void*, int64_t), void* context) {
  Job job;
  job.work = work;
  job.context = context;
  job.count = count;
  job.wanted = (int)(threads < count ? threads : count) - 1;
  if (job.wanted <= 0) return job.take_part();
  pool().run(job);
}

void* thread_scratch(int64_t bytes) {
  thread_local Scratch scratch;
  if (scratch.size < bytes) {
    scratch.memory.reset();
    scratch.memory.reset(new char[bytes + 64]);
    scratch.size = bytes;
  }
  const uintptr_t at = (uintptr_t)scratch.memory.get();
  return (void*)((at + 63) / 64 * 64);
}
