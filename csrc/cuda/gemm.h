// Products of matrices on a GPU, by cuBLAS through torch's handle.
#pragma once

#include "../matrix.h"
#include "kernels.h"

namespace fastrnn::cuda {

// out = a b, or out += a b, of matrices in the GPU's memory; one stride of each of a and b is 1, and out's columns lie
// side by side. The sums are Accumulator<In>; Out is In or Accumulator<In>.
// Defined for double, float, __half and __nv_bfloat16.
template <class In, class Out>
void gemm(const Matrix<Out>& out, const Matrix<const In>& a, const Matrix<const In>& b, bool accumulate,
          const Queue& queue);

}  // namespace fastrnn::cuda
