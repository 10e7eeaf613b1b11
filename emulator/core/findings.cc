// Records findings and formats their messages.
#include <cxxabi.h>

#include <cstdlib>

#include "core/block.h"

namespace lily::emulator {
namespace {

std::string file_name(const KernelCode &code, int file) {
  const auto found = code.module->files.find(file);
  return found == code.module->files.end() ? "" : found->second;
}

std::string without_folder(const std::string &path) { return path.substr(path.rfind('/') + 1); }

std::string position_text(const SourceLine &source, const SourceLine &inlined, int ptx_line) {
  if (source.file.empty()) return "PTX line " + std::to_string(ptx_line);
  std::string text = without_folder(source.file) + ":" + std::to_string(source.line);
  if (!inlined.file.empty()) {
    text += ", called at " + without_folder(inlined.file) + ":" + std::to_string(inlined.line);
  }
  return text;
}

std::string triple(Dim3 d) {
  return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
}

}  // namespace

std::string readable_name(const std::string &mangled) {
  int status = 0;
  char *name = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  const std::string result = status == 0 ? name : mangled;
  std::free(name);
  return result;
}

SourceLine source_line(const KernelCode &code, const Instruction &in) {
  const SourcePosition &position = code.locations[in.location];
  return {file_name(code, position.file), position.line};
}

SourceLine inlined_at(const KernelCode &code, const Instruction &in) {
  const SourcePosition &position = code.locations[in.location];
  return {file_name(code, position.inlined_file), position.inlined_line};
}

std::string describe(const KernelCode &code, int32_t pc) {
  const Instruction &in = code.instructions[pc];
  return in.full_name + " (" + position_text(source_line(code, in), inlined_at(code, in), in.ptx_line) + ")";
}

const char *name_of(FindingKind kind) {
  switch (kind) {
    case FindingKind::kOutOfBounds: return "out of bounds";
    case FindingKind::kUseAfterFree: return "use after free";
    case FindingKind::kMisaligned: return "misaligned";
    case FindingKind::kUninitialised: return "uninitialised read";
    case FindingKind::kSharedRace: return "shared race";
    case FindingKind::kGlobalRace: return "global race";
    case FindingKind::kAsyncCopy: return "async copy";
    case FindingKind::kDivergentOperation: return "divergent warp operation";
    case FindingKind::kAbsentLane: return "absent lane";
    case FindingKind::kDivergentBarrier: return "divergent barrier";
    case FindingKind::kDeadlock: return "deadlock";
    case FindingKind::kTimeout: return "timeout";
    case FindingKind::kTrap: return "trap";
    case FindingKind::kAsyncProduct: return "async product";
    case FindingKind::kProxyFence: return "proxy fence";
    case FindingKind::kNoWait: return "no wait";
    default: return "bad operand";
  }
}

std::string Finding::text() const {
  return std::string("[") + name_of(kind) + "] " + message + "\n    in " + readable_name(kernel) + ", " + instruction +
         " (" + position_text(source, inlined_at, ptx_line) + "), block " + triple(block) + " thread " + triple(thread);
}

void Thread::report(const Instruction &in, FindingKind kind, const std::string &message) const {
  LaunchState &launch = *block->launch;
  {
    const std::lock_guard lock(launch.findings_mutex);
    // Blocks on other host threads may have one, too.
    if (launch.findings.empty())
      launch.findings.push_back({kind, message, launch.code->name, in.full_name, in.ptx_line,
                                 source_line(*launch.code, in), inlined_at(*launch.code, in), block->id,
                                 launch.thread_position(index)});
  }
  launch.ended = true;
  throw LaunchEnded{};
}

}  // namespace lily::emulator
