// Which product a kernel that keeps w_hh on the chip multiplies by.
#pragma once

#include "exact_product.cuh"
#include "scattered_product.cuh"

namespace fastrnn::cuda {

template <class T, Math kMath, int kTiles, int kTileGroups, int kWeightRegisters>
using StationaryProductOf = std::conditional_t<kMath == Math::kExact, ExactStationaryProduct<kTiles, kTileGroups>,
                                               StationaryProduct<T, kTiles, kTileGroups, kWeightRegisters>>;

template <class T, Math kMath, int kDepth>
using ScatteredProductOf =
    std::conditional_t<kMath == Math::kExact, ExactScatteredProduct<kDepth>, ScatteredProduct<T, kDepth>>;

}  // namespace fastrnn::cuda
