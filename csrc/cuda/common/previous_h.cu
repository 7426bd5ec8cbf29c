#include "previous_h.h"

#include "extras.cuh"

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
  StepCuts cuts;
  const T *reset_h, *h_mask;  // (B, columns) or null
};

template <class T>
__global__ void gather_step(const GatherParams<T> p) {
  const auto [row, column] = element_of_thread(p.columns);
  if (!p.rows.include(row)) return;
  const int64_t state = row * p.columns + column;
  T h = p.rows_before.include(row) ? p.before[row * p.before_stride + column] : p.hx[state];
  if (p.cuts.before(row) == kCutState) h = p.reset_h[state];
  p.out[state] = p.h_mask ? narrow<T>(widen(h) * widen(p.h_mask[state])) : h;
}

}  // namespace

template <class T>
void gather_previous_h(T* out, const Steps& steps, const Matrix<const T>& output, const T* hx,
                       const Extras<T, Accumulator<T>>* extras, const Queue& queue) {
  const int64_t columns = output.columns;
  for (int64_t s = 0; s < steps.steps; ++s) {
    const GatherParams<T> params{rows_of_step(steps, s),
                                 rows_of_step(steps, s - 1),
                                 columns,
                                 out + steps.offset(s) * columns,
                                 output.data + steps.offset(s - 1) * output.row_stride,
                                 output.row_stride,
                                 hx,
                                 cuts_of_step(extras, steps, s),
                                 extras ? extras->reset_h : nullptr,
                                 extras ? extras->h_mask : nullptr};
    launch_pointwise(gather_step<T>, steps.rows(s), columns, params, queue.stream);
  }
}

#define FASTRNN_INSTANTIATE(T)                                                        \
  template void gather_previous_h(T*, const Steps&, const Matrix<const T>&, const T*, \
                                  const Extras<T, Accumulator<T>>*, const Queue&);

FASTRNN_INSTANTIATE(double)
FASTRNN_INSTANTIATE(float)
FASTRNN_INSTANTIATE(__half)
FASTRNN_INSTANTIATE(__nv_bfloat16)

#undef FASTRNN_INSTANTIATE

}  // namespace fastrnn::cuda
