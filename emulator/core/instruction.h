// A decoded PTX instruction: what the parser makes, a decoder completes and an executor runs.
//
// A decoder gets the instruction with its operands resolved and its modifiers as text. It chooses an executor and must
// take every modifier: one that is left over is an error that names it, so that nothing is silently ignored.
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
enum class Rounding : uint8_t;

// Every scalar operand is a register of the thread: a constant, an address of a variable or a special register is one
// that is filled in when the thread starts.
struct Operand {
  enum class Kind : uint8_t { kRegister, kConstant, kAddress, kVector, kSink };
  static constexpr int kNone = -1;

  Kind kind = Kind::kSink;
  bool negated = false;               // !%p
  bool is_clock = false;              // a special register that changes while the thread runs
  int32_t reg = kNone;                // kRegister, kConstant, and the base of kAddress; kNone for `_`
  int32_t second = kNone;             // q of the destination p|q
  Type type = Type::kNone;            // as the register was declared
  int64_t offset = 0;                 // of kAddress; also of a variable's address in mov
  uint64_t constant = 0;              // the value of kConstant, in the type that the instruction names
  std::span<const int32_t> elements;  // registers of {a, b, ...}; kNone for `_`. The kernel owns them
};

// `in.pc` is the instruction's index in its kernel.
using Executor = void (*)(Thread &thread, const Instruction &in);
// Runs once for all lanes of the member mask, when every one of them has arrived.
using WarpExecutor = void (*)(WarpOperation &operation, const Instruction &in);

enum class Flow : uint8_t {
  kNext,     // execute, go on with the next instruction (or with thread.pc if the executor sets it)
  kWarp,     // wait for the lanes of the member mask, then warp_executor
  kBarrier,  // bar, barrier
  kYield,    // execute, then let other threads run
  kExit,
  kTrap,
};

struct alignas(64) Instruction {
  static constexpr int kMaxOperands = 6, kNear = 5;

  // Read for every instruction that runs, so together in one line of the cache: up to `offset`.
  Executor executor = nullptr;
  std::array<int32_t, kNear> registers{};  // operands[i].reg of the first operands, by decode()
  int32_t guard = Operand::kNone;          // guard predicate: executes if (register != 0) != guard_negated
  bool guard_negated = false;
  Flow flow = Flow::kNext;  // decode() makes a strong load kYield, so that spin loops let others run

  // For the decoder to fill and the executor to read. What they mean is between the two of them.
  Type type = Type::kNone, source_type = Type::kNone;
  Space space = Space::kGeneric;
  uint8_t vector_width = 1;
  Rounding rounding{};
  uint8_t operation = 0, variant = 0;
  bool flush_subnormals = false, saturate = false, relu = false, propagate_nan = false, flag = false;
  bool is_strong = false;  // volatile, relaxed, acquire, release: orders, and does not race with its like
  bool is_release = false, is_acquire = false;
  bool is_matrix = false;  // counts as a matrix instruction
  int32_t pc = 0;
  int64_t offset = 0;  // of the first operand that is an address, by decode()

  int32_t register_of(int operand) const { return operand < kNear ? registers[operand] : operands[operand].reg; }

  // Flow::kWarp. The operand with the member mask, or kNone: all lanes of the warp.
  WarpExecutor warp_executor = nullptr;
  int8_t mask_operand = Operand::kNone;

  uint8_t operand_count = 0;
  std::array<Operand, kMaxOperands> operands;

  int32_t target = -1;           // bra
  std::vector<int32_t> targets;  // brx.idx

  std::string opcode;     // "ld"
  std::string full_name;  // "ld.global.v4.f32"
  int ptx_line = 0;
  int32_t location = 0;  // index into KernelCode::locations

  std::span<const Operand> all_operands() const { return {operands.data(), operand_count}; }
};

// The modifiers of an opcode, in order, each to be taken by the decoder.
class Modifiers {
 public:
  explicit Modifiers(std::vector<std::string> names) : names_(std::move(names)), taken_(names_.size(), false) {}

  // Takes the first untaken modifier of this name; false if there is none.
  bool take(std::string_view name);
  // Takes the first of them that is there; its index, or -1.
  int take_any(std::initializer_list<std::string_view> names);
  // The same with values: take_one<Rounding>({{"rn", Rounding::kNearestEven}, ...}). Empty if there is none.
  template <class Value>
  std::optional<Value> take_one(std::initializer_list<std::pair<std::string_view, Value>> choices) {
    for (const auto &[name, value] : choices) {
      if (take(name)) return value;
    }
    return std::nullopt;
  }
  // Takes the first untaken modifier that is a type (.f32, .b64, ...); throws Error if there is none.
  Type take_type();
  std::optional<Type> take_optional_type();
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

// A decoder's way to refuse: throws Error "<full name>: <why>", to which the driver adds the line.
[[noreturn]] void refuse(const Instruction &in, const std::string &why);
// Throws unless operand_count is within [least, most].
void expect_operands(const Instruction &in, int least, int most);

// All opcodes but control flow and barriers (core/control.cc); defined in core/instructions/.
std::span<const OpcodeEntry> instruction_table();
// bra, brx, ret, exit, trap, brkpt, bar, barrier, fence, membar, nanosleep, activemask. It goes before the other table.
std::span<const OpcodeEntry> control_table();

// Refuses an opcode that no table has, before its operands are looked at.
Decoder find_decoder(const Instruction &in);

// Finds the decoder, runs it, and checks that every modifier was taken and an executor chosen.
void decode(Instruction &in, std::vector<std::string> modifiers);

}  // namespace lily::emulator
