#include "memory.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <sstream>

#include "sanitizer.h"

namespace fastrnn::emulation {

namespace {

constexpr size_t kRedzone = 4096;
constexpr size_t kAlignment = 256;
constexpr size_t kSharedOffset = kRedzone + 16;  // so that nothing is aligned to more than 16 by chance

using Allocation = std::pair<const char* const, size_t>;  // start and size

struct Heap {
  std::map<const char*, size_t> sizes;  // of what is allocated
  char* next = gpu_memory() + kSharedBytes;

  // The allocation that starts last among those that do not start after `place`.
  const Allocation* find(const char* place) {
    if (last_found && place >= last_found->first && place < last_found->first + last_found->second) return last_found;
    const auto after = sizes.upper_bound(place);
    return last_found = after == sizes.begin() ? nullptr : &*std::prev(after);
  }

  const Allocation* last_found = nullptr;
};

Heap& heap() {
  static Heap heap;
  return heap;
}

char* reserve() {
  void* const memory = mmap(nullptr, kSharedBytes + kGlobalBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) std::perror("emulation: cannot reserve memory"), std::abort();
  return static_cast<char*>(memory);
}

}  // namespace

char* gpu_memory() {
  static char* const memory = reserve();
  return memory;
}

void* allocate(size_t bytes) {
  Heap& h = heap();
  char* const memory = h.next + kRedzone;
  const size_t taken = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  char* const end = gpu_memory() + kSharedBytes + kGlobalBytes;
  if (bytes > kGlobalBytes || memory + taken + kRedzone > end) throw std::bad_alloc();
  sanitizer::poison(h.next, kRedzone + taken + kRedzone);
  sanitizer::unpoison(memory, bytes);
  std::memset(memory, kPoison, bytes);
  h.next = memory + taken;
  h.sizes[memory] = bytes;
  return memory;
}

void release(void* memory) {
  Heap& h = heap();
  const auto found = h.sizes.find(static_cast<const char*>(memory));
  if (found == h.sizes.end()) std::fputs("emulation: release of what was never allocated\n", stderr), std::abort();
  sanitizer::poison(found->first, found->second);
  h.sizes.erase(found);
  h.last_found = nullptr;
  // Addresses are used again only when nothing is left, so that a stale pointer is seen for as long as possible.
  if (h.sizes.empty()) h.next = gpu_memory() + kSharedBytes;
}

bool is_allocated(const void* memory, size_t bytes) {
  if (host_memory_counts && !is_gpu_memory(memory)) return true;
  const auto* const from = static_cast<const char*>(memory);
  const Allocation* const found = heap().find(from);
  return found && from + bytes <= found->first + found->second;
}

std::string describe_memory(const void* address) {
  const auto* const place = static_cast<const char*>(address);
  std::ostringstream out;
  if (!is_gpu_memory(address)) {
    out << "host memory at " << address;
  } else if (!is_global_memory(address)) {
    const auto offset = static_cast<size_t>(place - gpu_memory());
    out << "byte " << static_cast<ptrdiff_t>(offset % kSharedSlotBytes) - static_cast<ptrdiff_t>(kSharedOffset)
        << " of a block's shared memory";
  } else if (const Allocation* const found = heap().find(place)) {
    out << "byte " << place - found->first << " of an allocation of " << found->second;
  } else {
    out << "global memory that is not allocated";
  }
  return out.str();
}

char* fresh_shared_memory(size_t slot, size_t bytes) {
  char* const start = gpu_memory() + slot * kSharedSlotBytes;
  char* const memory = start + kSharedOffset;
  if (slot >= kSharedSlots || kSharedOffset + bytes + kRedzone > kSharedSlotBytes) std::abort();
  sanitizer::poison(start, kSharedSlotBytes);
  sanitizer::unpoison(memory, bytes);
  std::memset(memory, kPoison, bytes);
  return memory;
}

}  // namespace fastrnn::emulation
