// A bump allocator over dynamic shared memory, used on the host to measure how much a block needs and in the block to
// lay it out.
#pragma once

#include <cstdint>

#include "../../cells/portable.h"

namespace fastrnn::cuda {

class SharedArena {
 public:
  // With no memory it only measures.
  FASTRNN_INLINE explicit SharedArena(char* memory) : memory_(memory) {}

  // Aligned to 16 bytes. Without a test for no memory, after which nvcc no longer knows that it is shared: it would
  // load and store there by the slower instructions for any memory.
  template <class V>
  FASTRNN_INLINE V* take(int64_t count) {
    V* const part = reinterpret_cast<V*>(memory_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(V)) + 15) / 16 * 16;
    return part;
  }

  FASTRNN_INLINE int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

}  // namespace fastrnn::cuda
