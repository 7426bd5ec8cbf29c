// Finds accesses of a kernel's threads that nothing orders. Kernels are compiled with -fsanitize=thread, whose calls
// end in race_calls.cpp and here, not in ThreadSanitizer.
#pragma once

#include <cstddef>

namespace fastrnn::emulation::race {

// The running thread reads or writes memory, in the code that `caller`, a return address, follows.
void accessed(const void* address, size_t bytes, bool writes, const void* caller);

}  // namespace fastrnn::emulation::race
