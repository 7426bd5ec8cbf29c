// How a layer's passes (layer_pass.h) compute on a GPU.
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../cuda/common/error.h"
#include "../cuda/common/gemm.h"
#include "../cuda/common/previous_h.h"
#include "../cuda/common/upload.h"
#include "../cuda/run.h"
#include "chunks.h"
#include "cuda_verification.h"
#include "torch_cuda.h"

namespace fastrnn::ops {

template <>
inline constexpr ScalarType scalar_type_of<__half> = ScalarType::Half;
template <>
inline constexpr ScalarType scalar_type_of<__nv_bfloat16> = ScalarType::BFloat16;

class CudaDevice {
 public:
  template <class T>
  using Accumulator = cuda::Accumulator<T>;

  explicit CudaDevice(const LayerArgs& args) : place_(args.input), context_(args.input, args.allow_tf32) {}

  const cuda::Queue& queue() const { return context_.queue(); }
  int index() const { return place_.index; }

  Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype) const { return ops::empty(sizes, dtype, place_); }

  // Memory for the length of a call, uninitialised.
  template <class T>
  class Scratch {
   public:
    Scratch(const CudaDevice& device, int64_t count) : tensor_(device.empty({count}, scalar_type_of<T>)) {}
    T* data() const { return ops::data<T>(tensor_); }

   private:
    Tensor tensor_;
  };

  // Kernels move 16 bytes at a time.
  static Tensor dense(const Tensor& tensor) {
    if (!tensor.is_contiguous()) return torch::stable::contiguous(tensor);
    return reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 16 == 0 ? tensor : torch::stable::clone(tensor);
  }

  template <class T>
  void copy(T* to, const T* from, int64_t count) const {
    if (count <= 0) return;
    cuda::check(
        cudaMemcpyAsync(to, from, static_cast<size_t>(count) * sizeof(T), cudaMemcpyDeviceToDevice, queue().stream));
  }
  template <class T>
  void zero(T* to, int64_t count) const {
    if (count > 0) cuda::check(cudaMemsetAsync(to, 0, static_cast<size_t>(count) * sizeof(T), queue().stream));
  }

  // out = a b, or out += a b; out's columns lie side by side.
  template <class T>
  void multiply(const Matrix<T>& out, const Matrix<const T>& a, const Matrix<const T>& b,
                bool accumulate = false) const {
    cuda::gemm(out, a, b, accumulate, queue());
  }

  // The sums of the columns, one after the other in out.
  template <class T>
  void sum_rows(T* out, const Matrix<const T>& matrix) const {
    const int64_t first[] = {0};
    const Tensor sums =
        torch::stable::sum(as_tensor(matrix, place_), torch::headeronly::IntHeaderOnlyArrayRef(first, 1));
    copy(out, data<const T>(sums), matrix.columns);
  }

  // Of cells that read the input as it is, which have no kernels on a GPU.
  template <class T>
  void copy_rows(const Matrix<T>&, const Matrix<const T>&) const {
    refuse_input_gate();
  }
  template <class T>
  void add_rows(const Matrix<T>&, const Matrix<const T>&) const {
    refuse_input_gate();
  }

  // out (N, K): h_{t-1} of every row as w_hh multiplies it. Rows that do not run are left alone.
  template <class T>
  void gather_previous_h(T* out, const Steps& steps, const Matrix<const T>& output, const T* hx,
                         const Extras<T, Accumulator<T>>* extras) const {
    cuda::gather_previous_h(out, steps, output, hx, extras, queue());
  }

 private:
  static void refuse_input_gate() { STD_TORCH_CHECK(false, "fastrnn: the cell has no kernels on a GPU"); }

  Place place_;
  CudaContext context_;
};

// Which way a pass of a layer takes, on the current device: as planned, unless the plan's kernel is known to be wrong
// there. Where nothing is known, the kernel is verified if the pass is about to run, or would be at its first use; but
// not while a graph is captured, which would hold the comparison.
template <class T>
cuda::Choice plan_pass(const CudaDevice& device, const LayerArgs& args, const LayerShape& shape, bool backward,
                       bool runs) {
  const cuda::Queue& queue = device.queue();
  const cuda::Workload work{shape.steps,   shape.dims,       shape.layers,           shape.directions,
                            shape.dense(), queue.allow_tf32, args.extras.has_value()};
  const cuda::Choice choice = cuda::choose_plan<T>(args.cell, work, backward);
  if (choice.plan.path == Path::kStreamed || !wants_verification()) return choice;
  const auto stream = [](Reason reason) { return cuda::Choice{{Path::kStreamed, {}, {}}, {reason}}; };
  if constexpr (!std::is_same_v<T, double>) {
    const VerifiedKernel kernel{device.index(), args.cell, shape.dtype, backward, shape.dims, choice.plan};
    std::optional<Verdict> verdict = Verdicts::instance().of(kernel);
    if (!verdict && is_capturing(queue.stream)) return stream(Reason::kUnverified);
    if (!verdict && runs) {
      verdict = Verdicts::instance().find(kernel, [&] { return Verification<T, CudaDevice>(device, kernel).fault(); });
    }
    if (verdict == Verdict::kWrong) return stream(Reason::kFailedVerification);
  }
  return choice;
}

// The time loops of a pass. The weights are of T.
template <class T, class = T>
class CudaLoops {
  using A = cuda::Accumulator<T>;

 public:
  CudaLoops(const CudaDevice& device, const LayerArgs& args, const LayerShape& shape, bool backward)
      : device_(device),
        cell_(args.cell),
        shape_(shape),
        plan_(plan_pass<T>(device, args, shape, backward, true).plan) {
    cuda::raise_if_gave_up();
    if (plan_.path != Path::kStreamed) upload_sizes();
  }

  AtOnce at_once() const { return shape_.directions > 1 ? AtOnce{1, plan_.at_once()} : AtOnce{plan_.at_once(), 1}; }

  static constexpr bool multiplies_input() { return false; }

  // One chunk, whose sub-chunks are the sequences that a launch runs: more than one where layers run as a wavefront.
  Chunking cut(int64_t, int64_t) const {
    return {std::numeric_limits<int64_t>::max(), at_once().layers > 1 ? shape_.steps / cuda::kSubChunkSteps : 1};
  }

  // before(k, i) readies calls[k] for its i-th sub-chunk, after(k, i) takes what that one left.
  //
  // Directions run side by side; layers as a wavefront, each a sub-chunk behind the one before it, which has by then
  // what its own sub-chunk reads. So the calls of a launch need nothing of one another, whichever kernel the plan
  // names.
  template <class Call, class Before, class After>
  void run(std::vector<Call>& calls, size_t sub_chunks, const Before& before, const After& after) const {
    const size_t lag = at_once().layers > 1 ? 1 : 0;
    for (size_t turn = 0; turn < sub_chunks + lag * (calls.size() - 1); ++turn) {
      std::vector<size_t> running;
      for (size_t k = 0; k < calls.size(); ++k) {
        if (turn >= lag * k && turn - lag * k < sub_chunks) running.push_back(k);
      }
      std::vector<Call> ready;
      for (const size_t k : running) {
        before(k, turn - lag * k);
        ready.push_back(calls[k]);
      }
      launch(ready);
      for (const size_t k : running) after(k, turn - lag * k);
    }
  }

 private:
  void launch(const std::vector<ForwardCall<T, A>>& calls) const {
    const ProfilerRange range(name("forward").c_str());
    std::vector<cuda::Forward<T>> params;
    for (const auto& call : calls) params.push_back(of_sub_chunk(call));
    const cuda::Plan plan = plan_.of(static_cast<int64_t>(calls.size()));
    const Tensor scratch = device_.empty({cuda::forward_scratch<T>(cell_, params[0], plan)}, scalar_type_of<T>);
    params[0].scratch = data<T>(scratch);
    cuda::run_forward(cell_, params.data(), plan, device_.queue());
  }
  void launch(const std::vector<BackwardCall<T, A>>& calls) const {
    const ProfilerRange range(name("backward").c_str());
    std::vector<cuda::Backward<T>> params;
    for (const auto& call : calls) params.push_back(of_sub_chunk(call));
    const cuda::Plan plan = plan_.of(static_cast<int64_t>(calls.size()));
    const Tensor scratch = device_.empty({cuda::backward_scratch<T>(cell_, params[0], plan)}, scalar_type_of<T>);
    params[0].scratch = data<T>(scratch);
    cuda::run_backward(cell_, params.data(), plan, device_.queue());
  }

  // A sub-chunk as the sequence of its own that it is for a kernel: it starts from the states with which the one before
  // ended. Where that is not all of the sequence, the batch is dense and there is one direction.
  cuda::Forward<T> of_sub_chunk(const ForwardCall<T, A>& call) const {
    cuda::Forward<T> params = call.params;
    params.steps = steps(params.steps, call.chunk);
    if (call.chunk.begin == 0) device_.copy(params.hy, params.hx, shape_.batch * shape_.dims.recurrent_size);
    params.output += call.chunk.first_row * params.output_stride;
    for (int k = 0; params.keep && k < cell_facts(cell_).cell_states; ++k) {
      params.cells[k] += call.chunk.first_row * shape_.dims.hidden_size;
    }
    if (call.chunk.begin > 0) params.hx = h_before(params);
    return params;
  }
  cuda::Backward<T> of_sub_chunk(const BackwardCall<T, A>& call) const {
    const CellFacts& facts = cell_facts(cell_);
    const int64_t first_row = call.chunk.first_row, hidden = shape_.dims.hidden_size;
    cuda::Backward<T> params = call.params;
    params.steps = steps(params.steps, call.chunk);
    if (facts.reads_saved) params.saved += first_row * facts.saved_values * hidden;
    params.output += first_row * params.output_stride;
    if (params.grad_output) params.grad_output += first_row * params.grad_output_stride;
    if (call.chunk.begin > 0) params.hx = h_before(params);
    for (int k = 0; k < facts.cell_states; ++k) {
      params.cells[k] += first_row * hidden;
      if (call.chunk.begin > 0) params.cx[k] = params.cells[k] - shape_.batch * hidden;
    }
    return params;
  }

  // The h with which the sub-chunk before ended: the last rows of its output, which hx may be only where no other
  // direction's columns lie between them.
  template <class Params>
  const T* h_before(const Params& params) const {
    STD_TORCH_CHECK(params.output_stride == shape_.dims.recurrent_size, "fastrnn: a wavefront of two directions");
    return params.output - shape_.batch * params.output_stride;
  }

  std::string name(const char* pass) const { return std::string("fastrnn::") + pass + " " + name_of(plan_.path); }

  // What the host knows of ragged rows, in the GPU's memory: a kernel that runs all steps asks there.
  void upload_sizes() {
    for (const auto& [values, on_device] : {std::pair(&shape_.sizes, &sizes_), std::pair(&shape_.offsets, &offsets_)}) {
      if (values->empty()) continue;
      const auto count = static_cast<int64_t>(values->size());
      *on_device = device_.empty({count}, ScalarType::Long);
      cuda::upload(data<int64_t>(**on_device), values->data(), count, device_.queue().stream);
    }
  }

  // As the plan's kernels take those of a sub-chunk.
  Steps steps(Steps steps, const Chunk& sub_chunk) const {
    steps.steps = sub_chunk.end - sub_chunk.begin;
    if (sizes_) steps.device_sizes = data<const int64_t>(*sizes_);
    if (offsets_) steps.device_offsets = data<const int64_t>(*offsets_);
    return steps;
  }

  const CudaDevice& device_;
  const CellKind cell_;
  const LayerShape& shape_;
  const cuda::Plan plan_;
  std::optional<Tensor> sizes_, offsets_;
};

}  // namespace fastrnn::ops
