// The functions that code compiled with -fsanitize=thread calls.
#include <cstdint>
#include <cstring>

#include "race_detector.h"
#include "scheduler.h"

using fastrnn::emulation::race::accessed;

#define CALLER __builtin_return_address(0)

#define DEFINE_ACCESS(name, bytes, writes) \
  void name(void* address) { accessed(address, bytes, writes, CALLER); }
#define DEFINE_ACCESSES(bytes)                              \
  DEFINE_ACCESS(__tsan_read##bytes, bytes, false)           \
  DEFINE_ACCESS(__tsan_write##bytes, bytes, true)           \
  DEFINE_ACCESS(__tsan_volatile_read##bytes, bytes, false)  \
  DEFINE_ACCESS(__tsan_volatile_write##bytes, bytes, true)  \
  DEFINE_ACCESS(__tsan_unaligned_read##bytes, bytes, false) \
  DEFINE_ACCESS(__tsan_unaligned_write##bytes, bytes, true)

// Only host code, such as a static variable's first use, has atomic operations: kernels have flags.
#define DEFINE_UPDATE(bits, operation)                                                                       \
  uint##bits##_t __tsan_atomic##bits##_##operation(volatile uint##bits##_t* to, uint##bits##_t value, int) { \
    require_host();                                                                                          \
    return __atomic_##operation(to, value, __ATOMIC_SEQ_CST);                                                \
  }
#define DEFINE_ATOMICS(bits)                                                                               \
  uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* from, int) {                    \
    require_host();                                                                                        \
    return __atomic_load_n(from, __ATOMIC_SEQ_CST);                                                        \
  }                                                                                                        \
  void __tsan_atomic##bits##_store(volatile uint##bits##_t* to, uint##bits##_t value, int) {               \
    require_host();                                                                                        \
    __atomic_store_n(to, value, __ATOMIC_SEQ_CST);                                                         \
  }                                                                                                        \
  uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t* to, uint##bits##_t value, int) {  \
    require_host();                                                                                        \
    return __atomic_exchange_n(to, value, __ATOMIC_SEQ_CST);                                               \
  }                                                                                                        \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile uint##bits##_t* to, uint##bits##_t* expected, \
                                                    uint##bits##_t value, int, int) {                      \
    require_host();                                                                                        \
    return __atomic_compare_exchange_n(to, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);    \
  }                                                                                                        \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile uint##bits##_t* to, uint##bits##_t* expected,   \
                                                  uint##bits##_t value, int, int) {                        \
    require_host();                                                                                        \
    return __atomic_compare_exchange_n(to, expected, value, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);     \
  }                                                                                                        \
  DEFINE_UPDATE(bits, fetch_add)                                                                           \
  DEFINE_UPDATE(bits, fetch_sub)                                                                           \
  DEFINE_UPDATE(bits, fetch_and)                                                                           \
  DEFINE_UPDATE(bits, fetch_or)                                                                            \
  DEFINE_UPDATE(bits, fetch_xor)

namespace {

void require_host() {
  if (fastrnn::emulation::kernel_runs) fastrnn::emulation::scheduler().fail("a kernel has an atomic operation");
}

}  // namespace

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_atomic_thread_fence(int) {}
void __tsan_atomic_signal_fence(int) {}

DEFINE_ACCESSES(1)
DEFINE_ACCESSES(2)
DEFINE_ACCESSES(4)
DEFINE_ACCESSES(8)
DEFINE_ACCESSES(16)
void __tsan_read_range(void* address, size_t bytes) { accessed(address, bytes, false, CALLER); }
void __tsan_write_range(void* address, size_t bytes) { accessed(address, bytes, true, CALLER); }

DEFINE_ATOMICS(8)
DEFINE_ATOMICS(16)
DEFINE_ATOMICS(32)
DEFINE_ATOMICS(64)

// Linked with --wrap, since g++ leaves it to ThreadSanitizer to watch these.
void* __real_memcpy(void* to, const void* from, size_t bytes);
void* __wrap_memcpy(void* to, const void* from, size_t bytes) {
  accessed(from, bytes, false, CALLER);
  accessed(to, bytes, true, CALLER);
  return __real_memcpy(to, from, bytes);
}
void* __real_memmove(void* to, const void* from, size_t bytes);
void* __wrap_memmove(void* to, const void* from, size_t bytes) {
  accessed(from, bytes, false, CALLER);
  accessed(to, bytes, true, CALLER);
  return __real_memmove(to, from, bytes);
}
void* __real_memset(void* to, int value, size_t bytes);
void* __wrap_memset(void* to, int value, size_t bytes) {
  accessed(to, bytes, true, CALLER);
  return __real_memset(to, value, bytes);
}
}
