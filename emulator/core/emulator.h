// The emulator's public face: load PTX, launch a kernel on device memory, get findings and counters.
//
//   auto module = Module::load("kernels.ptx");
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

// PTX that cannot be parsed or is not supported, or a launch that no device would accept. The message names the cause.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct LaunchOptions {
  uint64_t seed = 1;         // of the schedule: warp priorities and the order of lanes; 0 is in order
  bool checks = true;        // false is the fast mode: bounds only, blocks spread over threads
  bool shared_races = true;  // these three only with checks
  bool global_races = true;
  bool uninitialised = true;
  bool counters = false;
  bool touched = false;      // gives the memory that the launch touched; needs global_races
  bool cooperative = false;  // all blocks resident, so that they may wait for each other
  int threads = 0;           // of the fast mode; 0 is one per processor
  size_t max_findings =
      1;  // the launch ends at this many; then other findings of the same instruction are not repeated
  uint64_t max_instructions = uint64_t{8} << 30;  // of all threads; beyond it the launch is taken to hang
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
  kAsyncCopy,           // read or overwritten before its wait, or in flight at exit
  kDivergentOperation,  // lanes of a warp at different warp operations, or a lane outside its own member mask
  kAbsentLane,          // a shuffle reads a lane that does not take part
  kDivergentBarrier,
  kDeadlock,
  kTimeout,
  kTrap,
  kBadOperand,  // a value that the instruction does not allow
};
const char *name_of(FindingKind kind);  // "out of bounds", "shared race", ...

struct Finding {
  FindingKind kind;
  std::string message;
  std::string kernel;
  std::string instruction;  // opcode with modifiers
  int ptx_line = 0;
  SourceLine source;      // where the instruction stands
  SourceLine inlined_at;  // the call of the inlined function it stands in, if it does
  Dim3 block, thread;
  std::string text() const;  // all of it, in one or two lines
};

// What a launch did to 1024 bytes of an allocation, in units of two bytes. Only the last access to a unit counts, and a
// single byte of one does not.
struct TouchedPage {
  static constexpr size_t kBytes = 1024, kUnits = kBytes / 2;
  uint64_t allocation = 0;  // its id
  uint64_t page = 0;
  std::bitset<kUnits> read, written, atomic;
};

struct LaunchResult {
  std::vector<Finding> findings;
  uint64_t instructions = 0;  // of all threads
  KernelCounters counters;    // empty unless asked for
  std::vector<TouchedPage> touched;
  bool ok() const { return findings.empty(); }
};

// A mangled name as it is written in C++.
std::string readable_name(const std::string &mangled);

struct Parameter {
  std::string name;
  size_t offset = 0, size = 0, alignment = 1;
};

struct KernelCode;
struct ModuleContents;

// A kernel of a module; valid as long as the module.
class Kernel {
 public:
  explicit Kernel(const KernelCode *code) : code_(code) {}
  const std::string &name() const;
  const std::vector<Parameter> &parameters() const;
  size_t parameter_bytes() const;
  size_t static_shared_bytes() const;
  size_t local_bytes() const;              // per thread
  uint32_t max_threads_per_block() const;  // of __launch_bounds__; 0 if not given
  const KernelCode *code() const { return code_; }

 private:
  const KernelCode *code_;
};

struct ModuleVariable {
  void *address = nullptr;
  size_t size = 0;
};

class Module {
 public:
  // Throws Error naming the line and what is not supported, but for kernels: each is read when it is first asked for.
  // `device` owns the module's variables.
  static std::unique_ptr<Module> parse(std::string_view ptx, int device = 0);
  static std::unique_ptr<Module> load(const std::string &path);
  ~Module();

  std::vector<std::string> kernel_names() const;
  bool has_kernel(std::string_view name) const;
  // By its exact (mangled) name, its name in C++, or the only one whose mangled name contains it. Throws Error.
  Kernel kernel(std::string_view name) const;
  // A .global or .const variable; a null address if there is none.
  ModuleVariable variable(std::string_view name) const;
  std::string target() const;  // "sm_80"

 private:
  explicit Module(std::unique_ptr<ModuleContents> contents);
  std::unique_ptr<ModuleContents> contents_;
};

// `parameters` has parameter_bytes() bytes, laid out as parameters() says. Throws Error for a launch no device would
// accept.
LaunchResult launch(const Kernel &kernel, Dim3 grid, Dim3 block, size_t dynamic_shared_bytes, const void *parameters,
                    const LaunchOptions &options = {});

// launch() with the arguments as a kernel call would give them.
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
