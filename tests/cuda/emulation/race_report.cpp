#include "race_report.h"

#include <unistd.h>

#include <cstdio>
#include <map>
#include <sstream>

#include "memory.h"

extern "C" const char __executable_start;  // the linker's

namespace fastrnn::emulation::race {

namespace {

constexpr size_t kShown = 8;

// The source line and those that it was inlined into, as addr2line says them.
std::string find_source(Code code) {
  std::ostringstream command;
  command << "addr2line -Cfpsi -e /proc/" << getpid() << "/exe 0x" << std::hex << code - 1 << " 2>/dev/null";
  std::string lines;
  FILE* const pipe = popen(command.str().c_str(), "r");
  if (!pipe) return lines;
  char line[512];
  while (std::fgets(line, sizeof(line), pipe)) lines += std::string("      ") + line;
  pclose(pipe);
  return lines;
}

const std::string& source_of(Code code) {
  static std::map<Code, std::string> found;
  const auto [entry, is_new] = found.try_emplace(code);
  if (is_new) entry->second = find_source(code);
  return entry->second;
}

// Threads beyond those of the launch stand for mbarriers.
std::string describe(const Access& access, bool writes, size_t threads, size_t threads_of_block) {
  std::ostringstream out;
  const size_t thread = access.epoch.thread();
  out << (access.epoch.under_way() ? "an asynchronous access still under way "
          : access.epoch.atomic()  ? "the flag is "
                                   : "")
      << (writes ? "written" : "read") << " by ";
  if (thread < threads) {
    out << "thread " << thread % threads_of_block << " of block " << thread / threads_of_block;
  } else {
    out << "a store_async whose mbarrier was not waited for";
  }
  out << " in\n" << source_of(access.code);
  return out.str();
}

const char* describe(Kind kind) {
  switch (kind) {
    case Kind::kRace:
      return "data race on ";
    case Kind::kUninitialised:
      return "nobody wrote ";
    case Kind::kNotItsOwn:
      return "a kernel touches ";
  }
  return "";
}

}  // namespace

Code code_of(const void* instruction) {
  return static_cast<Code>(static_cast<const char*>(instruction) - &__executable_start);
}

void Report::add(const Finding& finding) {
  ++found_;
  if (!seen_.emplace(finding.access.code, finding.before.code).second || findings_.size() >= kShown) return;
  findings_.push_back(finding);
}

std::string Report::text(size_t threads, size_t threads_of_block) const {
  if (found_ == 0) return {};
  std::ostringstream out;
  out << found_ << " accesses of a kernel are wrong; " << findings_.size() << " of them:";
  for (const Finding& finding : findings_) {
    out << "\n  " << describe(finding.kind) << describe_memory(finding.address) << "\n    "
        << describe(finding.access, finding.writes, threads, threads_of_block);
    if (finding.kind == Kind::kRace)
      out << "    and " << describe(finding.before, finding.wrote, threads, threads_of_block);
  }
  return out.str();
}

}  // namespace fastrnn::emulation::race
