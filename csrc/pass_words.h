// How a pass may run, and why: the numbers that the op _plan returns, with the words that Python has for them from
// fastrnn._C.plan_words.
#pragma once

namespace fastrnn {

// kNone: it would not run at all.
enum class Path { kNone, kFused, kStreamed, kPersistent, kCluster };
inline constexpr const char* kPathWords[] = {"none", "fused", "streamed", "persistent", "cluster"};

constexpr const char* name_of(Path path) { return kPathWords[static_cast<int>(path)]; }

// In the order of cpu::WeightSource.
inline constexpr const char* kWeightWords[] = {"in place", "packed", "packed ahead"};

// When a layer's input is multiplied by w_ih.
enum class InputProduct { kAhead, kInLoop };
inline constexpr const char* kInputProductWords[] = {"ahead", "in the loop"};

// In the order of cpu::GemmCode. What is computed as its transpose is so by panels, or too small to matter.
inline constexpr const char* kGemmWords[] = {"plain loop", "panels", "rows", "panels", "torch.mm"};

// Of the CPU, then of a GPU.
enum class Reason {
  kOneThread,
  kOneCore,
  kOwnRows,
  kOwnUnits,
  kOwnDirection,
  kOwnLayers,
  kTooLittleWork,
  kTooLittleWorkPerStep,
  kTooFewUnits,
  kClusterKeepsWeights,
  kChipKeepsWeights,
  kClustersSplit,
  kLayersAtOnce,
  kFloat64,
  kStreamedAskedFor,
  kClusterAskedFor,
  kExtras,
  kProjection,
  kSingleStep,
  kOddHiddenSize,
  kNothingToCompute,
  kOldDevice,
  kDoesNotFit,
  kGaveUpWaiting,
  kFailedVerification,
  kUnverified,
  kMeta,
  kCount
};
inline constexpr const char* kReasonWords[] = {
    "torch.get_num_threads() is 1",
    "this process may run on one core alone",
    "each thread runs its own batch rows",
    "each thread runs its own hidden units, meeting at every step",
    "each direction runs on a thread of its own",
    "layers run as a wavefront, each on one thread",
    "too little work for a second thread",
    "too little work in a step to divide the hidden units",
    "too few hidden units to divide",
    "a cluster of blocks keeps the recurrent weights and the state",
    "the recurrent weights stay on the chip for the whole sequence",
    "clusters of blocks split what they multiply",
    "layers run as a wavefront",
    "float64 has no persistent kernel",
    "FASTRNN_CUDA_PATH=streamed",
    "FASTRNN_CUDA_PATH=cluster, and no cluster holds the recurrent weights",
    "persistent kernels know nothing but the plain recurrence",
    "persistent kernels have no projection",
    "a single step leaves nothing to keep on the chip",
    "hidden_size is not a multiple of 16",
    "nothing to compute",
    "persistent kernels need compute capability 8.0 or higher",
    "the recurrent weights do not fit on the chip",
    "a kernel waited in vain before, and gave up",
    "on this GPU the kernel that keeps them on the chip differed from the streamed path",
    "a graph is captured, and the kernel has not been verified: fastrnn.cuda.warm_up() does that ahead",
    "meta tensors: only shapes are computed",
};
static_assert(sizeof(kReasonWords) / sizeof(*kReasonWords) == static_cast<int>(Reason::kCount));

constexpr const char* words_of(Reason reason) { return kReasonWords[static_cast<int>(reason)]; }

}  // namespace fastrnn
