// Memory of the emulated GPU: what the tests give to kernels. It lies between zones that AddressSanitizer guards, and
// is full of NaN until something else is written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

namespace fastrnn::emulation {

constexpr int kPoison = 0xff;  // of every byte; a NaN in every floating-point type

void* allocate(size_t bytes);
void release(void* memory);

// Values in the emulated GPU's memory. The host may read and write them too, between launches.
template <class T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit Buffer(size_t size) : data_(static_cast<T*>(allocate(size * sizeof(T)))), size_(size) {}
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}
  Buffer& operator=(Buffer&&) = delete;
  ~Buffer() {
    if (data_) release(data_);
  }

  T* data() const { return data_; }
  size_t size() const { return size_; }
  T* begin() const { return data_; }
  T* end() const { return data_ + size_; }
  T& operator[](size_t index) const { return data_[index]; }

 private:
  T* data_;
  size_t size_;
};

// One range of addresses holds all the emulated GPU's memory: first every block's shared memory, then the rest.
constexpr size_t kSharedSlots = 1024;
constexpr size_t kSharedSlotBytes = 512 << 10;
constexpr size_t kSharedBytes = kSharedSlots * kSharedSlotBytes;
constexpr size_t kGlobalBytes = size_t{64} << 30;

char* gpu_memory();

inline bool is_gpu_memory(const void* address) {
  return reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(gpu_memory()) < kSharedBytes + kGlobalBytes;
}

// True where the buffers are torch's: then all the host's memory counts as the GPU's, and nobody knows its bounds.
inline bool host_memory_counts = false;

inline bool is_global_memory(const void* address) {
  if (host_memory_counts && !is_gpu_memory(address)) return true;
  return is_gpu_memory(address) && static_cast<const char*>(address) >= gpu_memory() + kSharedBytes;
}

// Whether cudaHostAlloc returned that.
bool is_host_memory(const void* memory);

// Whether all of it lies within one allocation.
bool is_allocated(const void* memory, size_t bytes);

// Where an address lies, for people.
std::string describe_memory(const void* address);

// The shared memory of the block that runs in a slot, full of poison. It is aligned to 16 bytes and no more.
char* fresh_shared_memory(size_t slot, size_t bytes);

}  // namespace fastrnn::emulation
