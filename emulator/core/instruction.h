// A decoded PTX instruction: the parser creates it, a decoder completes it, an executor runs it.
//
// A decoder gets the instruction with its operands resolved and its modifiers as text. It chooses an executor and must
// consume every modifier: a modifier left over is an error that names it, so that none is silently ignored.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/types.h"

namespace lily::emulator {

struct Thread;
struct Warp;
struct Instruction;
struct WarpOperation;
struct Warpgroup;
enum class Rounding : uint8_t;

// Every scalar operand is a register of the thread. Constants, addresses of variables and special registers occupy
// registers that are filled in when the thread starts.
struct Operand {
  enum class Kind : uint8_t { kRegister, kConstant, kAddress, kVector, kSink };
  static constexpr int kNone = -1;

  Kind kind = Kind::kSink;
  bool negated = false;               // !%p
  int32_t reg = kNone;                // of kRegister, kConstant, and the base of kAddress; kNone for `_`
  int32_t second = kNone;             // q in the destination p|q
  Type type = Type::kNone;            // as declared for the register
  int64_t offset = 0;                 // of kAddress; in mov also of the address of a variable
  uint64_t constant = 0;              // value of kConstant, in the type that the instruction names
  std::span<const int32_t> elements;  // registers of {a, b, ...}, owned by the kernel; kNone for `_`
};

// `in.pc` is the instruction's index in its kernel.
using Executor = void (*)(Thread &thread, const Instruction &in);
// Runs once for all lanes of the member mask, after every one of them has arrived.
using WarpExecutor = void (*)(WarpOperation &operation, const Instruction &in);
// Runs once for the 128 threads of a warpgroup, after every one of them has arrived.
using WarpgroupExecutor = void (*)(Warpgroup &group, const Instruction &in);

enum class Flow : uint8_t {
  kNext,       // execute, then continue with thread.pc (the next instruction, unless the executor changes it)
  kWarp,       // wait for the lanes of the member mask, then run warp_executor
  kWarpgroup,  // wait for the threads of the warpgroup, then run warpgroup_executor
  kBarrier,    // bar.sync
  kExit,
  kTrap,
};

struct alignas(64) Instruction {
  static constexpr int kMaxOperands = 8, kCachedOperands = 5;

  // The fields up to `offset` are read for every executed instruction, so they share a cache line.
  Executor executor = nullptr;
  std::array<int32_t, kCachedOperands> registers{};  // operands[i].reg of the first operands
  int32_t guard = Operand::kNone;                    // guard predicate: executes if (register != 0) != guard_negated
  bool guard_negated = false;
  Flow flow = Flow::kNext;

  // Set by the decoder and read by the executor; each pair of them defines the meaning.
  Type type = Type::kNone, source_type = Type::kNone;
  Space space = Space::kGeneric;
  uint8_t vector_width = 1;
  Rounding rounding{};
  uint8_t operation = 0, variant = 0;
  bool flag = false;
  bool is_strong = false;    // volatile: does not race with other strong accesses
  bool is_constant = false;  // ld.global.nc: of memory that nothing writes while the kernel runs
  bool is_matrix = false;    // counts as a matrix instruction
  int32_t pc = 0;
  int64_t offset = 0;  // of the first address operand, set by decode()

  int32_t register_of(int operand) const {
    return operand < kCachedOperands ? registers[operand] : operands[operand].reg;
  }

  // Flow::kWarp: index of the operand with the member mask; kNone: all lanes of the warp.
  WarpExecutor warp_executor = nullptr;
  int8_t mask_operand = Operand::kNone;
  WarpgroupExecutor warpgroup_executor = nullptr;  // Flow::kWarpgroup
  Executor tracked_executor = nullptr;             // what the executor that checks accumulators calls
  bool is_tracked = false;                         // Flow::kWarp: names registers of a warpgroup's product

  uint8_t operand_count = 0;
  std::array<Operand, kMaxOperands> operands;

  int32_t target = -1;  // bra

  std::string opcode;     // "ld"
  std::string full_name;  // "ld.global.v4.f32"
  int ptx_line = 0;
  int32_t location = 0;  // index into KernelCode::locations

  std::span<const Operand> all_operands() const { return {operands.data(), operand_count}; }
};

// The modifiers of an opcode, in order. The decoder must take each of them.
class Modifiers {
 public:
  explicit Modifiers(std::vector<std::string> names) : names_(std::move(names)), taken_(names_.size(), false) {}

  // Takes the first untaken modifier of this name; false if there is none.
  bool take(std::string_view name);
  // Takes the first of `names` that is present and returns its index, or -1.
  int take_any(std::initializer_list<std::string_view> names);
  // As take_any, but returns a value: take_one<Rounding>({{"rn", Rounding::kNearestEven}, ...}). Empty if none is
  // present.
  template <class Value>
  std::optional<Value> take_one(std::initializer_list<std::pair<std::string_view, Value>> choices) {
    for (const auto &[name, value] : choices) {
      if (take(name)) return value;
    }
    return std::nullopt;
  }
  // Takes the first untaken modifier that is a type (.f32, .b64, ...); throws Error if there is none.
  Type take_type();
  bool has(std::string_view name) const;
  // Untaken modifiers, for messages.
  std::vector<std::string> left() const;

 private:
  std::vector<std::string> names_;
  std::vector<bool> taken_;
};

using Decoder = void (*)(Instruction &in, Modifiers &modifiers);
struct OpcodeEntry {
  std::string_view opcode;  // "add"
  Decoder decode;
};

// Rejects an instruction from a decoder: throws Error "<full name>: <why>", to which the parser adds the line.
[[noreturn]] void refuse(const Instruction &in, const std::string &why);
// Throws unless operand_count is within [least, most].
void expect_operands(const Instruction &in, int least, int most);

// All opcodes except control flow and barriers (core/control.cc); defined in core/instructions/.
std::span<const OpcodeEntry> instruction_table();
// bra, ret, exit, trap, bar, fence.
std::span<const OpcodeEntry> control_table();

// Throws for an opcode that no table contains, before its operands are parsed.
Decoder find_decoder(const Instruction &in);

// Sets in.registers.
void cache_registers(Instruction &in);

// Finds and runs the decoder, and checks that it took every modifier and chose an executor.
void decode(Instruction &in, std::vector<std::string> modifiers);

}  // namespace lily::emulator
