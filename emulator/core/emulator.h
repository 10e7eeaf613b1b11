// The emulator's interface: load PTX, launch a kernel on device memory, get findings and counters.
//
//   auto module = Module::parse(ptx);
//   float *x = static_cast<float *>(device_memory().allocate(bytes));
//   LaunchResult result = run(module->kernel("scale"), {grid}, {block}, dynamic_shared_bytes, options, x, 2.0f, n);
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/counters.h"
#include "core/device_memory.h"

namespace lily::emulator {

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t count() const { return uint64_t{x} * y * z; }
};

// PTX that cannot be parsed or is not supported, or a launch that every device would reject. The message names the
// cause.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What a launch accessed in 1024 bytes of an allocation, in units of two bytes. Only the last access to a unit is
// recorded, and accesses of a single byte are not.
struct TouchedPage {
  static constexpr size_t kBytes = 1024, kUnits = kBytes / 2;
  uint64_t allocation = 0;  // its id
  uint64_t page = 0;
  std::bitset<kUnits> read, written;
};

// A launch that may still be running when a dependent launch starts.
struct EarlierLaunch {
  std::string name;
  std::vector<TouchedPage> touched;
};
using EarlierLaunches = std::vector<std::shared_ptr<const EarlierLaunch>>;

struct LaunchOptions {
  uint64_t seed = 1;         // of the schedule (warp priorities and lane order); 0: in index order
  bool checks = true;        // false: fast mode, which checks bounds only and spreads blocks over host threads
  bool shared_races = true;  // this and the next one have an effect only if `checks` is set
  bool global_races = true;
  bool counters = false;
  bool touched = false;  // returns the memory that the launch accessed; requires global_races
  // Programmatic dependent launch: every block must execute griddepcontrol.wait, and a thread before its wait must not
  // access what the earlier launches access.
  bool dependent = false;
  EarlierLaunches earlier;
  int threads = 0;                                // host threads in fast mode; 0: one per processor
  uint64_t max_instructions = uint64_t{8} << 30;  // over all threads; above it the launch counts as hung
  uint32_t max_shared_bytes = 227 * 1024;         // per block, static and dynamic
};

struct SourceLine {
  std::string file;  // as the compiler recorded it; empty without -lineinfo
  int line = 0;
};

enum class FindingKind : uint8_t {
  kOutOfBounds,
  kUseAfterFree,
  kMisaligned,
  kUninitialised,
  kSharedRace,
  kGlobalRace,
  kAsyncCopy,           // accessed before its wait, or in flight at exit
  kDivergentOperation,  // lanes of a warp at different warp operations, or a lane outside its own member mask
  kAbsentLane,          // a shuffle reads a lane that does not take part
  kDivergentBarrier,
  kDeadlock,
  kTimeout,
  kTrap,
  kBadOperand,    // a value that the instruction does not allow
  kAsyncProduct,  // registers or shared memory of a warpgroup's product used before its wait, or without a fence
  kProxyFence,    // shared memory read by a warpgroup's product without fence.proxy.async by the writer
  kNoWait,        // a dependent launch: an access before griddepcontrol.wait, or a block without it
};
const char *name_of(FindingKind kind);  // "out of bounds", "shared race", ...

struct Finding {
  FindingKind kind;
  std::string message;
  std::string kernel;
  std::string instruction;  // opcode with modifiers
  int ptx_line = 0;
  SourceLine source;      // line of the instruction
  SourceLine inlined_at;  // line of the call, if the instruction belongs to an inlined function
  Dim3 block, thread;
  std::string text() const;  // one or two lines
};

struct LaunchResult {
  std::vector<Finding> findings;  // at most one: it ends the launch
  uint64_t instructions = 0;      // of all threads
  KernelCounters counters;        // empty unless LaunchOptions::counters is set
  std::vector<TouchedPage> touched;
  // A dependent launch after this one may start before this one's waits: every block executed
  // griddepcontrol.launch_dependents before griddepcontrol.wait.
  bool dependents_start_early = false;
  bool ok() const { return findings.empty(); }
};

// Demangles a C++ name.
std::string readable_name(const std::string &mangled);

struct Parameter {
  std::string name;
  size_t offset = 0, size = 0, alignment = 1;
};

struct KernelCode;
struct ModuleContents;

// A kernel of a module; valid for the lifetime of the module.
class Kernel {
 public:
  explicit Kernel(const KernelCode *code) : code_(code) {}
  const std::string &name() const;
  const std::vector<Parameter> &parameters() const;
  size_t parameter_bytes() const;
  size_t static_shared_bytes() const;
  size_t local_bytes() const;              // per thread
  uint32_t max_threads_per_block() const;  // from __launch_bounds__; 0 if not given
  const KernelCode *code() const { return code_; }

 private:
  const KernelCode *code_;
};

class Module {
 public:
  // Throws Error that names the line and what is not supported. Kernels are parsed later, at the first call of
  // kernel().
  static std::unique_ptr<Module> parse(std::string_view ptx);
  ~Module();

  std::vector<std::string> kernel_names() const;
  bool has_kernel(std::string_view name) const;
  // Accepts the exact (mangled) name, the name in C++, or part of the mangled name if only one kernel matches. Throws
  // Error.
  Kernel kernel(std::string_view name) const;
  std::string target() const;  // "sm_80"

 private:
  explicit Module(std::unique_ptr<ModuleContents> contents);
  std::unique_ptr<ModuleContents> contents_;
};

// `parameters` has parameter_bytes() bytes in the layout given by parameters(). Throws Error for a launch that every
// device would reject.
LaunchResult launch(const Kernel &kernel, Dim3 grid, Dim3 block, size_t dynamic_shared_bytes, const void *parameters,
                    const LaunchOptions &options = {});

// launch() with the kernel's arguments as C++ values.
template <class... Arguments>
LaunchResult run(const Kernel &kernel, Dim3 grid, Dim3 block, size_t dynamic_shared_bytes, const LaunchOptions &options,
                 const Arguments &...arguments) {
  const std::vector<Parameter> &layout = kernel.parameters();
  if (sizeof...(arguments) != layout.size()) throw Error(kernel.name() + ": wrong number of arguments");
  std::vector<char> buffer(kernel.parameter_bytes());
  size_t i = 0;
  const auto put = [&](const void *value, size_t size) {
    if (size != layout[i].size) throw Error(kernel.name() + ": argument " + std::to_string(i) + " has the wrong size");
    std::memcpy(buffer.data() + layout[i++].offset, value, size);
  };
  (put(&arguments, sizeof arguments), ...);
  return launch(kernel, grid, block, dynamic_shared_bytes, buffer.data(), options);
}

}  // namespace lily::emulator
