// Every threshold of the CPU path that was found by measuring, one a line: docs/tuning.md says how, and has the
// figures. Kernel files include this: integers alone, and no standard header but <cstdint>.
#pragma once

#include <cstdint>

namespace fastrnn::cpu {

// How work is partitioned over threads (plan.cpp).
constexpr int64_t kWorthATeam = 256 * 1024;          // multiply-adds of a call from which it gets a team
constexpr int64_t kWorthSplittingUnits = 32 * 1024;  // multiply-adds of a step from which its units are partitioned
constexpr int64_t kSharedWeightBytes = 1 << 20;      // most recurrent weights that every thread may stream
constexpr int64_t kRowsPerThread = 4;                // batch rows that each thread should have
constexpr int64_t kLightWeightBytes = 128 * 1024;    // most recurrent weights for which one row per thread is enough
constexpr int64_t kOwnWeightBytes = 3 << 19;         // most recurrent weights of a direction that has one thread
constexpr int64_t kWorthAWavefront = 1 << 20;        // multiply-adds of a layer from which layers are a wavefront
constexpr int64_t kMostInputToStep = 2;              // in a wavefront: multiply-adds of a step's input over the step's
constexpr int64_t kGateMacs = 16;                    // multiply-adds that take as long as a gate without w_hh
constexpr int64_t kPackingRows = 16;                 // rows of a GEMM that take as long as packing its columns

// Which recurrent weights are read in place, unpacked (plan.cpp).
constexpr int64_t kFewRowsInPlace = 4;              // most rows of a call, steps times batch
constexpr int64_t kMoreRowsInPlace = 8;             // the same in forward, with weights as large as the next line says
constexpr int64_t kMoreRowsInPlaceBytes = 1 << 20;  // least recurrent weights for that
constexpr int64_t kPrefetchRows = 8;                // rows of weights in place that are prefetched ahead

// Which input is multiplied by the time loop, and how much of it at a time (plan.cpp).
constexpr int64_t kTeamInputWeightBytes = 1 << 20;         // most input weights, in a team
constexpr int64_t kAloneInputWeightBytes = 128 * 1024;     // on one thread
constexpr int64_t kAloneInputWeightBytesOfRows = 2 << 20;  // on one thread, with kRowsPerThread batch rows and more
constexpr int64_t kInputSteps = 32;                        // most steps at a time
constexpr int64_t kInputGateBytes = 128 * 1024;            // most gates of a worker's rows at a time

// How the sequence is cut into chunks and sub-chunks (ops/cpu_device.h).
constexpr int64_t kTeamChunkBytes = 4 << 20;    // gates of a team's chunk; a shorter call is one chunk
constexpr int64_t kTeamChunkRows = 1024;        // rows of a team's chunk, where those are more
constexpr int64_t kAloneChunkBytes = 1 << 20;   // gates of one thread's chunk
constexpr int64_t kAloneChunkRows = 512;        // rows of one thread's chunk
constexpr int64_t kWavefrontSubChunks = 16;     // most sub-chunks of a chunk in a wavefront
constexpr int64_t kWavefrontMacs = 256 * 1024;  // least multiply-adds of a sub-chunk's steps

// Which code computes a GEMM before or after the time loop (plan.cpp), and in which pieces (gemm/panel_gemm.h).
constexpr int64_t kTinyGemm = 2048;         // multiply-adds up to which a plain loop is used
constexpr int64_t kSmallGemm = 512 * 1024;  // multiply-adds up to which one thread's panels are used on any processor
constexpr int64_t kNarrowGemm = 32;         // a result of fewer columns, or rows, is narrow
constexpr int64_t kFewGemmRows = 2;         // rows up to which the weights' rows are read as they lie
constexpr int64_t kPanelGemmWeightBytes = 2 << 20;  // weights from which a GEMM goes panel by panel
constexpr int64_t kPanelGemmRows = 512;             // most rows of such a GEMM, but for AVX2 and AMD
constexpr int64_t kPanelsAtOnce = 4;                // panels packed at a time
constexpr int64_t kGemmRows = 96;                   // rows of the left operand multiplied by these at a time
constexpr int64_t kGemmDepth = 384;                 // how deep a panel is packed
constexpr int64_t kSumDepth = 128;                  // terms of a sum at a time; divides kGemmDepth
constexpr int64_t kSumAlone = 512 * 1024;           // most values whose columns are summed on the calling thread

// What stays in, or is kept out of, a core's caches (gemm/panels.h, loop/work_slice.h, ops/cpu_memory.h).
constexpr int64_t kPrefetchStepBytes = 64 * 1024;  // gates of a step up to which the next step's are prefetched
constexpr int64_t kPackDepth = 64;                 // depth of the weights packed at a time
constexpr int64_t kRowPaddingBytes = 4096;         // between workers' rows of the state
constexpr int64_t kKeptScratchBytes = 2 << 20;     // scratch that a thread keeps from call to call
constexpr int64_t kOwnScratchBytes = 8192;         // most scratch that takes no tensor

// Waiting, and polling for Ctrl-C (team/, plan.cpp, ops/cpu_gemms.h).
constexpr int64_t kSpins = 1000;                       // turns of busy-waiting before a thread yields
constexpr int64_t kPollMacs = 4 * 1024 * 1024;         // multiply-adds of the time loop between two looks at the clock
constexpr int64_t kPollMilliseconds = 50;              // between two polls
constexpr int64_t kUninterrupted = int64_t{16} << 30;  // most multiply-adds of a GEMM without a poll

}  // namespace fastrnn::cpu
