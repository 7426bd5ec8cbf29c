// h_{t-1} of every row, as w_hh multiplies it, for its gradient: a kernel of its own, after the time loop. Of a dense
// batch without extras it is the output as it lies.
#pragma once

#include "../matrix.h"
#include "kernels.h"

namespace fastrnn::cuda {

// out (N, K), output (N, K) within its stride, hx (B, K); extras may be null. Rows that do not run are left alone.
// Defined for double, float, __half and __nv_bfloat16.
template <class T>
void gather_previous_h(T* out, const Steps& steps, const Matrix<const T>& output, const T* hx,
                       const Extras<T, Accumulator<T>>* extras, const Queue& queue);

}  // namespace fastrnn::cuda
