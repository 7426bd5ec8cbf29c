// Work beside the graphs that are being captured.
#pragma once

#include "error.h"

namespace fastrnn::cuda {

// While it lives, what this thread does is no part of a graph that another thread captures, and is not refused because
// of one.
class BesideCaptures {
 public:
  BesideCaptures() { check(cudaThreadExchangeStreamCaptureMode(&mode_)); }
  ~BesideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  BesideCaptures(const BesideCaptures&) = delete;
  BesideCaptures& operator=(const BesideCaptures&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace fastrnn::cuda
