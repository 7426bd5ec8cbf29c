// h_{t-1} of every row of a ragged batch, for the gradient of W_hh: a kernel of its own, after the time loop.
#pragma once

#include "../matrix.h"
#include "kernels.h"

namespace fastrnn::cuda {

// out (N, K), output (N, K) within its stride, hx (B, K). Rows that do not run are left alone.
// Defined for double, float, __half and __nv_bfloat16.
template <class T>
void gather_previous_h(T* out, const Steps& steps, const Matrix<const T>& output, const T* hx, const Queue& queue);

}  // namespace fastrnn::cuda
