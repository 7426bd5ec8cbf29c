// h_{t-1} of every row, as multiplied by w_hh, for its gradient: a kernel of its own, after the time loop. For a dense
// batch without extras it is simply the output.
#pragma once

#include "../../matrix.h"
#include "../kernels.h"

namespace fastrnn::cuda {

// out (N, K), output (N, K) with its stride, hx (B, K); extras may be null. Rows that do not run are left untouched.
// Defined for double, float, __half and __nv_bfloat16.
template <class T>
void gather_previous_h(T* out, const Steps& steps, const Matrix<const T>& output, const T* hx,
                       const Extras<T, Accumulator<T>>* extras, const Queue& queue);

}  // namespace fastrnn::cuda
