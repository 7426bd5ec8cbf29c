// Memory in which no out-of-bounds access goes unnoticed, whatever instruction makes it.
//
// AddressSanitizer checks only what the compiler knows to be a load or a store, which AVX's masked ones are not. So the
// values here end at an inaccessible page, and begin after a margin whose bytes are checked.
#pragma once

#include <sanitizer/asan_interface.h>  // whose macros do nothing without the sanitizer
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "buffers.h"

namespace fastrnn::test {

template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t count) : count_(count) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    writable_ = (bytes + kLeastMargin + page - 1) / page * page;
    mapped_ = writable_ + page;
    void* memory = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    start_ = static_cast<unsigned char*>(memory);
    if (mprotect(start_ + writable_, page, PROT_NONE) != 0) std::abort();
    margin_ = writable_ - bytes;
    std::memset(start_, kMarginByte, margin_);
    ASAN_POISON_MEMORY_REGION(start_, margin_);
    for (int64_t i = 0; i < count; ++i) data()[i] = poison<T>();
  }
  ~Guarded() {
    ASAN_UNPOISON_MEMORY_REGION(start_, margin_);
    munmap(start_, mapped_);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data() const { return reinterpret_cast<T*>(start_ + margin_); }
  int64_t size() const { return count_; }

  bool margin_intact() const {
    ASAN_UNPOISON_MEMORY_REGION(start_, margin_);
    bool intact = true;
    for (size_t i = 0; i < margin_; ++i) intact &= start_[i] == kMarginByte;
    ASAN_POISON_MEMORY_REGION(start_, margin_);
    return intact;
  }

 private:
  static constexpr size_t kLeastMargin = 128;  // two of the widest vectors
  static constexpr unsigned char kMarginByte = 0xa5;

  int64_t count_;
  size_t writable_, mapped_, margin_;
  unsigned char* start_;
};

}  // namespace fastrnn::test
