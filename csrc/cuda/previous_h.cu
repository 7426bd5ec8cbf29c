#include "previous_h.h"

#include "pointwise.cuh"

namespace fastrnn::cuda {

namespace {

// One step.
template <class T>
struct GatherParams {
  StepRows rows, rows_before;
  int64_t columns;
  T* out;           // (rows, columns)
  const T* before;  // (rows, before_stride): the step before
  int64_t before_stride;
  const T* hx;  // (B, columns)
};

template <class T>
__global__ void gather_step(const GatherParams<T> p) {
  const auto [row, column] = element_of_thread(p.columns);
  if (!p.rows.include(row)) return;
  const int64_t state = row * p.columns + column;
  p.out[state] = p.rows_before.include(row) ? p.before[row * p.before_stride + column] : p.hx[state];
}

}  // namespace

template <class T>
void gather_previous_h(T* out, const Steps& steps, const Matrix<const T>& output, const T* hx, const Queue& queue) {
  const int64_t columns = output.columns;
  for (int64_t s = 0; s < steps.steps; ++s) {
    const GatherParams<T> params{rows_of_step(steps, s),
                                 rows_of_step(steps, s - 1),
                                 columns,
                                 out + steps.offset(s) * columns,
                                 output.data + steps.offset(s - 1) * output.row_stride,
                                 output.row_stride,
                                 hx};
    launch_pointwise(gather_step<T>, steps.rows(s), columns, params, queue.stream);
  }
}

template void gather_previous_h(double*, const Steps&, const Matrix<const double>&, const double*, const Queue&);
template void gather_previous_h(float*, const Steps&, const Matrix<const float>&, const float*, const Queue&);
template void gather_previous_h(__half*, const Steps&, const Matrix<const __half>&, const __half*, const Queue&);
template void gather_previous_h(__nv_bfloat16*, const Steps&, const Matrix<const __nv_bfloat16>&, const __nv_bfloat16*,
                                const Queue&);

}  // namespace fastrnn::cuda
