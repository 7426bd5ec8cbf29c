#include "previous_h.h"

#include "gpu.cuh"

namespace fastrnn::cuda {

namespace {

// One step.
template <class T>
struct GatherParams {
  T* out;                 // (rows, columns)
  const T* before;        // the step before, within its stride
  const T* hx;            // (B, columns)
  int64_t before_stride;  // of before
  int64_t columns;
  int64_t rows, rows_before;          // that run at this step and at the one before, as far as the host knows
  const int64_t* device_rows;         // what the GPU knows of rows, or null
  const int64_t* device_rows_before;  // ... and of rows_before, or null
};

template <class T>
__global__ void gather_step(const GatherParams<T> p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreadsPerBlock + threadIdx.x;
  const int64_t row = i / p.columns, column = i % p.columns;
  const int64_t rows = p.device_rows ? *p.device_rows : p.rows;
  const int64_t rows_before = p.device_rows_before ? *p.device_rows_before : p.rows_before;
  if (row >= rows) return;
  p.out[i] = row < rows_before ? p.before[row * p.before_stride + column] : p.hx[i];
}

}  // namespace

template <class T>
void gather_previous_h(T* out, const Steps& steps, const Matrix<const T>& output, const T* hx, const Queue& queue) {
  const int64_t columns = output.columns;
  for (int64_t s = 0; s < steps.steps; ++s) {
    GatherParams<T> params{};
    params.out = out + steps.offset(s) * columns;
    params.before = output.data + steps.offset(s - 1) * output.row_stride;
    params.hx = hx;
    params.before_stride = output.row_stride;
    params.columns = columns;
    params.rows = steps.rows(s);
    params.rows_before = steps.rows(s - 1);
    if (steps.device_sizes) {
      params.device_rows = steps.device_sizes + steps.time(s);
      params.device_rows_before = s > 0 ? steps.device_sizes + steps.time(s - 1) : nullptr;
    }
    const int64_t blocks = (params.rows * columns + kThreadsPerBlock - 1) / kThreadsPerBlock;
    launch(gather_step<T>, {blocks, 1, kThreadsPerBlock, 0, false}, params, queue.stream);
  }
}

template void gather_previous_h(double*, const Steps&, const Matrix<const double>&, const double*, const Queue&);
template void gather_previous_h(float*, const Steps&, const Matrix<const float>&, const float*, const Queue&);
template void gather_previous_h(__half*, const Steps&, const Matrix<const __half>&, const __half*, const Queue&);
template void gather_previous_h(__nv_bfloat16*, const Steps&, const Matrix<const __nv_bfloat16>&, const __nv_bfloat16*,
                                const Queue&);

}  // namespace fastrnn::cuda
