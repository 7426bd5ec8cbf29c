// How a layer's passes (layer_pass.h) compute on the CPU.
#pragma once

#include "../cpu/loop/loops.h"
#include "../cpu/loop/wavefront.h"
#include "../cpu/tuning.h"
#include "chunks.h"
#include "cpu_gemms.h"

namespace fastrnn::ops {

// If not 0, the rows of a chunk: tests want several in a short call.
inline int64_t forced_chunk_rows = 0;
cpu::Choice plan_pass(const LayerShape& shape, const CellFacts& facts, int element_size, bool backward,
                      int weight_size);

class CpuDevice : public CpuGemms {
 public:
  template <class T>
  using Accumulator = T;

  explicit CpuDevice(const LayerArgs& args) : CpuGemms(Place(args.input)) {}

  // out (N, K): h_{t-1} of every row as w_hh multiplies it. Rows that do not run are left alone.
  template <class T>
  void gather_previous_h(T* out, const Steps& steps, const Matrix<const T>& output, const T* hx,
                         const Extras<T>* extras) const {
    const int64_t size = output.columns;
    for (int64_t s = 0; s < steps.steps; ++s) {
      const int64_t rows = steps.rows(s), ran_before = cpu::smaller(rows, steps.rows(s - 1)), first = steps.offset(s);
      T* to = out + first * size;
      copy_rows(
          Matrix<T>{to, ran_before, size, size},
          Matrix<const T>{output.data + steps.offset(s - 1) * output.row_stride, ran_before, size, output.row_stride});
      copy(to + ran_before * size, hx + ran_before * size, (rows - ran_before) * size);
      if (extras)
        change_previous_h(to, *extras, extras->cuts ? extras->cuts + first : nullptr, s == 0 ? rows : ran_before, rows,
                          size);
    }
  }

  template <class T>
  void copy_rows(const Matrix<T>& to, const Matrix<const T>& from) const {
    if (from.row_stride == from.columns && to.row_stride == to.columns) {
      return copy(to.data, from.data, to.rows * to.columns);
    }
    for (int64_t row = 0; row < to.rows; ++row) {
      copy(to.data + row * to.row_stride, from.data + row * from.row_stride, to.columns);
    }
  }

  template <class T>
  void add_rows(const Matrix<T>& to, const Matrix<const T>& what) const {
    for (int64_t row = 0; row < to.rows; ++row) {
      T* out = to.data + row * to.row_stride;
      const T* in = what.data + row * what.row_stride;
      for (int64_t column = 0; column < to.columns; ++column) out[column] += in[column];
    }
  }

 private:
  // Resets and masks of the rows (rows, size) of one step, whose cuts are those of the first `cut` rows.
  template <class T>
  void change_previous_h(T* h, const Extras<T>& extras, const uint8_t* cuts, int64_t cut, int64_t rows,
                         int64_t size) const {
    for (int64_t row = 0; cuts && row < cut; ++row) {
      if (cuts[row] == kCutState) copy(h + row * size, extras.reset_h + row * size, size);
    }
    for (int64_t k = 0; extras.h_mask && k < rows * size; ++k) h[k] *= extras.h_mask[k];
  }
};

// The time loops of a pass.
template <class T, class W = T>
class CpuLoops {
 public:
  CpuLoops(const CpuDevice& device, const LayerArgs& args, const LayerShape& shape, bool backward)
      : device_(device),
        kernels_(cpu::kernels_of<T, W>(args.cell)),
        layers_(shape.layers),
        dims_(shape.dims),
        plan_(plan_pass(shape, cell_facts(args.cell), sizeof(T), backward, sizeof(W)).plan) {}

  // The recurrences that run one after the other share what the caller makes for one.
  AtOnce at_once() const {
    return {plan_.split == cpu::Split::kLayers ? layers_ : 1, plan_.split == cpu::Split::kDirections ? 2 : 1};
  }

  // Whether forward's time loops multiply the input themselves.
  bool multiplies_input() const { return plan_.input_steps > 0; }

  // Of so many rows in all, each of which writes so many values.
  Chunking cut(int64_t total, int64_t columns) const {
    const int64_t rows = chunk_rows(total, columns);
    if (plan_.split != cpu::Split::kLayers) return {rows, 1};
    const int64_t macs = cpu::smaller(rows, total) * columns * dims_.recurrent_size;
    return {rows, cpu::larger(cpu::smaller(macs / cpu::kWavefrontMacs, cpu::kWavefrontSubChunks), 1)};
  }

  // before(k, i) readies calls[k] for its i-th sub-chunk, after(k, i) takes what that one left.
  template <class Before, class After>
  void run(std::vector<ForwardCall<T, T, W>>& calls, size_t sub_chunks, const Before& before, const After& after) {
    auto loop = kernels_.forward;
    if constexpr (std::is_same_v<T, W>) {
      if (calls[0].params.extras) loop = kernels_.extended.forward;
    }
    int64_t scratch = 0;
    for (const auto& call : calls) scratch = cpu::larger(scratch, kernels_.forward_scratch(call.params.dims, plan_));
    run(loop, scratch, calls, sub_chunks, before, after);
  }
  template <class Before, class After>
  void run(std::vector<BackwardCall<T>>& calls, size_t sub_chunks, const Before& before, const After& after) {
    const auto loop = calls[0].params.extras ? kernels_.extended.backward : kernels_.backward;
    run(loop, kernels_.backward_scratch(dims_, plan_), calls, sub_chunks, before, after);
  }

 private:
  // Short enough for what a chunk's products write to stay near the core until the time loop reads it, long enough
  // for the products to be large.
  int64_t chunk_rows(int64_t total, int64_t columns) const {
    const int64_t row_bytes = cpu::larger(1, columns * static_cast<int64_t>(sizeof(T)));  // no hidden unit, no columns
    if (forced_chunk_rows) return forced_chunk_rows;
    // No product of the caller's.
    if (multiplies_input() && plan_.split != cpu::Split::kLayers) return cpu::larger(total, 1);
    const bool team = plan_.threads > 1;
    const int64_t bytes = team ? cpu::kTeamChunkBytes : cpu::kAloneChunkBytes;
    if (total * row_bytes <= bytes) return cpu::larger(total, 1);
    return cpu::larger(bytes / row_bytes, team ? cpu::kTeamChunkRows : cpu::kAloneChunkRows);
  }

  // Scratch is kept from sub-chunk to sub-chunk: each recurrence that runs at the same time has its own.
  template <class Loop, class Call, class Before, class After>
  void run(Loop loop, int64_t scratch_size, std::vector<Call>& calls, size_t sub_chunks, const Before& before,
           const After& after) {
    // No two workers write to one cache line.
    const int64_t line = 64 / sizeof(T), size = cpu::ceil_div(scratch_size, line) * line;
    const CpuDevice::Scratch<T> scratch(device_, size * static_cast<int64_t>(calls.size()));
    for (size_t k = 0; k < calls.size(); ++k) {
      calls[k].params.scratch = scratch.data() + static_cast<int64_t>(k) * size;
    }
    if (plan_.split == cpu::Split::kLayers) {
      // Whoever runs a sub-chunk also multiplies what it reads and what it leaves: products so small are not worth
      // dividing.
      const auto job = [&](size_t k, size_t i, cpu::Worker& worker) {
        before(k, i);
        loop(calls[k], {plan_, worker});
        if (!worker.stopped()) after(k, i);
      };
      check_finished(cpu::run_wavefront(plan_.threads, calls.size(), sub_chunks, job));
      return;
    }
    for (size_t i = 0; i < sub_chunks; ++i) {
      for (size_t k = 0; k < calls.size(); ++k) before(k, i);
      check_finished(cpu::run_loops<Call>(loop, plan_, calls) && !interrupt_.requested());
      for (size_t k = 0; k < calls.size(); ++k) after(k, i);
    }
  }

  const CpuDevice& device_;
  const typename cpu::DtypeKernels<T, W>::Cell& kernels_;
  const int64_t layers_;
  const Dims dims_;
  const cpu::Plan plan_;
  cpu::InterruptPoll interrupt_;
};

}  // namespace fastrnn::ops
