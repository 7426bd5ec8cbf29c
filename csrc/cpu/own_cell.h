// How the extension and a library that holds the kernels of a cell which a user wrote know each other. fastrnn/_cell
// writes such a library's one file, which ends with own_cell_end.h, and compiles it.
#pragma once

#include "team/team.h"

namespace fastrnn::cpu {

// What kernels call of the extension.
struct TeamFunctions {
  void (*barrier)(Worker& worker);
  void (*poll)(Worker& worker, int64_t step);
  bool (*stopped_at)(const Worker& worker, int64_t step);
};

// The function that the library exports, fastrnn_own_cell: the cell's CellKernels of the one type it was compiled for.
using OwnCellFunction = const void* (*)(const TeamFunctions* team);

}  // namespace fastrnn::cpu
