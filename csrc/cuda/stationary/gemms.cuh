// The GEMM that a kernel which keeps w_hh on the chip uses, by math mode.
#pragma once

#include "../cluster/scattered_gemm.cuh"
#include "exact_gemm.cuh"

namespace fastrnn::cuda {

template <class T, MathMode kMath, int kTiles, int kTileGroups, int kWeightRegisters>
using StationaryGemmOf = std::conditional_t<kMath == MathMode::kExact, ExactStationaryGemm<kTiles, kTileGroups>,
                                            StationaryGemm<T, kTiles, kTileGroups, kWeightRegisters>>;

template <class T, MathMode kMath, int kDepth>
using ScatteredGemmOf =
    std::conditional_t<kMath == MathMode::kExact, ExactScatteredGemm<kDepth>, ScatteredGemm<T, kDepth>>;

}  // namespace fastrnn::cuda
