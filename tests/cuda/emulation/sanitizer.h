// What AddressSanitizer must be told about stacks and about memory that nobody may touch; nothing without it.
#pragma once

#include <cstddef>

#ifdef FASTRNN_EMULATION_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace fastrnn::emulation::sanitizer {

#ifdef FASTRNN_EMULATION_ASAN

inline void start_switch(void** save_fake_stack, const void* bottom, size_t size) {
  __sanitizer_start_switch_fiber(save_fake_stack, bottom, size);
}
inline void finish_switch(void* fake_stack) { __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr); }
inline void poison(const void* memory, size_t bytes) { __asan_poison_memory_region(memory, bytes); }
inline void unpoison(const void* memory, size_t bytes) { __asan_unpoison_memory_region(memory, bytes); }

#else

inline void start_switch(void**, const void*, size_t) {}
inline void finish_switch(void*) {}
inline void poison(const void*, size_t) {}
inline void unpoison(const void*, size_t) {}

#endif

}  // namespace fastrnn::emulation::sanitizer
