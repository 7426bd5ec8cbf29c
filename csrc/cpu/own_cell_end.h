// The end of a file that holds a user's cell, FASTRNN_CELL, to be compiled for FASTRNN_TYPE: see own_cell.h.
#include "isa/instantiate.h"
#include "own_cell.h"

namespace fastrnn::cpu {

namespace {
const TeamFunctions* team_functions = nullptr;
}  // namespace

void Worker::barrier() { team_functions->barrier(*this); }
void Worker::poll(int64_t step) { team_functions->poll(*this, step); }
bool Worker::stopped_at(int64_t step) const { return team_functions->stopped_at(*this, step); }

}  // namespace fastrnn::cpu

extern "C" [[gnu::visibility("default")]] const void* fastrnn_own_cell(const fastrnn::cpu::TeamFunctions* team) {
  using namespace fastrnn::cpu;
  static constexpr CellKernels<FASTRNN_TYPE> kernels =
      instantiate_cell<Isa, fastrnn::own::FASTRNN_CELL, FASTRNN_TYPE>();
  team_functions = team;
  return &kernels;
}
