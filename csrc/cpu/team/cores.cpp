#include "cores.h"

#include <omp.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>

namespace fastrnn::cpu {

namespace {

constexpr int kUnlimited = std::numeric_limits<int>::max();

// A quota of CPU time per period of wall-clock time, both in microseconds, as whole cores.
int whole_cores(double quota, double period) {
  return quota > 0 && period > 0 ? static_cast<int>(std::ceil(quota / period)) : kUnlimited;
}

// From Linux cgroups: version 2 or, where that is not mounted, version 1.
int cores_by_quota() {
  std::string quota;
  double period = 0;
  if (std::ifstream("/sys/fs/cgroup/cpu.max") >> quota >> period) {
    return quota == "max" ? kUnlimited : whole_cores(std::atof(quota.c_str()), period);
  }
  double of_v1 = -1;  // which is also the file's value for "no limit"
  std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> of_v1;
  std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  return whole_cores(of_v1, period);
}

}  // namespace

int usable_cores() {
  if (forced_usable_cores) return forced_usable_cores;
  static const int by_quota = cores_by_quota();
  const int by_affinity = omp_get_num_procs();
  return by_affinity < by_quota ? by_affinity : by_quota;
}

}  // namespace fastrnn::cpu
