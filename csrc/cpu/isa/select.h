// Which instruction set's kernels run, and on whose processor.
#pragma once

#include "../kernels.h"

namespace fastrnn::cpu {

// The kernels for the best instruction set that this processor supports, or for the lesser one that FASTRNN_ISA names.
// Throws std::runtime_error if FASTRNN_ISA names none that runs here.
const Kernels& kernels();

// Whether AMD made this processor.
bool is_amd();

}  // namespace fastrnn::cpu
