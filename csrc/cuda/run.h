// Scratch and launch of the kernels that a plan names.
#pragma once

#include "plan.h"

namespace fastrnn::cuda {

// In values of T; depends on the plan, on dims and on extras.
template <class T>
int64_t forward_scratch(CellKind cell, const Forward<T>& params, const Plan& plan);
template <class T>
int64_t backward_scratch(CellKind cell, const Backward<T>& params, const Plan& plan);

// calls: plan.at_once() of them, e.g. one per direction. Those after the first need no scratch.
template <class T>
void run_forward(CellKind cell, const Forward<T>* calls, const Plan& plan, const Queue& queue);
template <class T>
void run_backward(CellKind cell, const Backward<T>* calls, const Plan& plan, const Queue& queue);

}  // namespace fastrnn::cuda
