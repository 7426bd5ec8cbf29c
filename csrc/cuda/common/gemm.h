// GEMMs on a GPU, by cuBLAS through torch's handle.
#pragma once

#include "../../matrix.h"
#include "../kernels.h"

namespace fastrnn::cuda {

// out = a b, or out += a b, of matrices in GPU memory; a and b have unit stride in one dimension each, out in its
// columns. Sums are Accumulator<In>; Out is In or Accumulator<In>. Defined for double, float, __half and __nv_bfloat16.
template <class In, class Out>
void gemm(const Matrix<Out>& out, const Matrix<const In>& a, const Matrix<const In>& b, bool accumulate,
          const Queue& queue);

}  // namespace fastrnn::cuda
