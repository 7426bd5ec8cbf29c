// Lets one header serve both SIMD vectors on the CPU and scalars in CUDA threads.
#pragma once

#if defined(__CUDACC__)
#define FASTRNN_INLINE __host__ __device__ __forceinline__
#else
// Forced, so that no weak copy compiled for one instruction set can be linked into the code path of a lesser one.
#define FASTRNN_INLINE inline __attribute__((always_inline))
#define FASTRNN_INLINE_LAMBDA __attribute__((always_inline))
#endif
