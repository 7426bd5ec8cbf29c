// Starts the team that runs the time loops of a call. Not for kernel files, which hold what each worker runs.
#pragma once

#include <cstddef>
#include <span>

#include "work_slice.h"

namespace fastrnn::cpu {

// Runs loop, of ForwardKernels or CellKernels, on calls: on all directions at once under Split::kDirections, else one
// after the other. False if the user interrupted it.
template <class Call>
bool run_loops(void (*loop)(const Call&, const WorkSlice&), const Plan& plan, std::span<const Call> calls) {
  struct Context {
    void (*loop)(const Call&, const WorkSlice&);
    const Plan& plan;
    std::span<const Call> calls;
  } context{loop, plan, calls};
  const auto together = [](void* pointer, Worker& worker) {
    const Context& c = *static_cast<Context*>(pointer);
    for (const Call& call : c.calls) c.loop(call, {c.plan, worker});
  };
  // OpenMP may grant just one thread, which then runs both.
  const auto apart = [](void* pointer, Worker& worker) {
    const Context& c = *static_cast<Context*>(pointer);
    Worker alone = worker.alone();
    for (size_t i = static_cast<size_t>(worker.index); i < c.calls.size(); i += static_cast<size_t>(worker.count)) {
      c.loop(c.calls[i], {c.plan, alone});
    }
  };
  if (plan.split == Split::kDirections) return run_team(plan.threads, apart, &context);
  return run_team(plan.threads, together, &context);
}

}  // namespace fastrnn::cpu
