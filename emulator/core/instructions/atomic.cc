// atom and red: atomic read-modify-write operations; atom returns the old value.
#include "core/instructions/families.h"
#include "core/instructions/half_arithmetic.h"
#include "core/instructions/integer_arithmetic.h"
#include "core/instructions/memory_modifiers.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

enum Operation : uint8_t { kAdd, kMinimum, kMaximum, kAnd, kOr, kXor, kExchange, kIncrement, kDecrement, kCompareSwap };

// red has no destination, so its operands start with the address.
int address_operand(const Instruction &in) { return in.flag ? 0 : 1; }

// `update` computes the new value from the old value and the operand.
template <class Value, class Update>
void apply(Thread &thread, const Instruction &in, Update update) {
  const int first = address_operand(in);
  const Value operand = source<Value>(thread, in, first + 1);
  const uint64_t old =
      thread.atomic_update(in, in.space, thread.address(in.operands[first]), sizeof(Value),
                           [&](uint64_t bits) { return register_bits<Value>(update(value_of<Value>(bits), operand)); });
  if (!in.flag) thread.set(in.operands[0], old);
}

template <class Int>
void integer_atomic(Thread &thread, const Instruction &in) {
  apply<Int>(thread, in, [&](Int old, Int operand) -> Int {
    switch (in.operation) {
      case kAdd: return add<Int>(old, operand);
      case kMinimum: return minimum<Int>(old, operand);
      case kMaximum: return maximum<Int>(old, operand);
      case kAnd: return old & operand;
      case kOr: return old | operand;
      case kXor: return old ^ operand;
      case kIncrement: return old >= operand ? Int(0) : static_cast<Int>(old + 1);
      case kDecrement: return old == 0 || old > operand ? operand : static_cast<Int>(old - 1);
      default: return operand;  // exchange
    }
  });
}

template <class Unsigned>
void compare_and_swap(Thread &thread, const Instruction &in) {
  const Unsigned value = source<Unsigned>(thread, in, address_operand(in) + 2);
  apply<Unsigned>(thread, in, [&](Unsigned old, Unsigned expected) { return old == expected ? value : old; });
}

// Sums of f32 flush subnormals in global memory but not in shared memory.
void add_float(Thread &thread, const Instruction &in) {
  const uint64_t address = thread.address(in.operands[address_operand(in)]);
  const bool in_window = address - kSharedWindow < kWindowBytes;
  const bool flush = !(in.space == Space::kShared || (in.space == Space::kGeneric && in_window));
  apply<float>(thread, in, [&](float old, float operand) {
    return flush ? flush_subnormal(flush_subnormal(old) + flush_subnormal(operand)) : old + operand;
  });
}
void add_double(Thread &thread, const Instruction &in) {
  apply<double>(thread, in, [](double old, double operand) { return old + operand; });
}
template <class Format>
void add_half(Thread &thread, const Instruction &in) {
  apply<uint16_t>(thread, in, add_16<Format>);
}
template <class Format>
void add_half_pair(Thread &thread, const Instruction &in) {
  apply<uint32_t>(thread, in, [](uint32_t old, uint32_t operand) -> uint32_t {
    const uint32_t lower = add_16<Format>(static_cast<uint16_t>(old), static_cast<uint16_t>(operand));
    const uint32_t upper = add_16<Format>(static_cast<uint16_t>(old >> 16), static_cast<uint16_t>(operand >> 16));
    return upper << 16 | lower;
  });
}

void choose_add(Instruction &in, Modifiers &modifiers, Type type) {
  switch (type) {
    case Type::kU32: in.executor = integer_atomic<uint32_t>; return;
    case Type::kS32: in.executor = integer_atomic<int32_t>; return;
    case Type::kU64: in.executor = integer_atomic<uint64_t>; return;
    case Type::kF32: in.executor = add_float; return;
    case Type::kF64: in.executor = add_double; return;
    case Type::kF16: in.executor = add_half<Half>; break;
    case Type::kBf16: in.executor = add_half<Bfloat>; break;
    case Type::kF16x2: in.executor = add_half_pair<Half>; break;
    case Type::kBf16x2: in.executor = add_half_pair<Bfloat>; break;
    default: refuse(in, "type ." + std::string(name_of(type)) + " is not supported here");
  }
  if (!modifiers.take("noftz")) refuse(in, "requires .noftz");
}

}  // namespace

void decode_atomic(Instruction &in, Modifiers &modifiers) {
  in.flag = in.opcode == "red";
  take_ordering(in, modifiers);
  if (in.flag && in.is_acquire) refuse(in, "red does not support .acquire");
  take_space(in, modifiers);
  if (in.space != Space::kGeneric && in.space != Space::kGlobal && in.space != Space::kShared) {
    refuse(in, "the state space is not supported");
  }
  const std::optional<Operation> operation = modifiers.take_one<Operation>({{"add", kAdd},
                                                                            {"min", kMinimum},
                                                                            {"max", kMaximum},
                                                                            {"and", kAnd},
                                                                            {"or", kOr},
                                                                            {"xor", kXor},
                                                                            {"exch", kExchange},
                                                                            {"inc", kIncrement},
                                                                            {"dec", kDecrement},
                                                                            {"cas", kCompareSwap}});
  if (!operation || (in.flag && *operation >= kExchange && *operation != kIncrement && *operation != kDecrement)) {
    refuse(in, "the operation is not supported");
  }
  in.operation = *operation;
  const bool has_policy = modifiers.take("L2::cache_hint");
  const int operands = (in.flag ? 2 : 3) + (*operation == kCompareSwap) + has_policy;
  expect_operands(in, operands, operands);

  const Type type = in.type = modifiers.take_type();
  switch (*operation) {
    case kAdd: choose_add(in, modifiers, type); break;
    case kMinimum:
    case kMaximum:
      if (!is_signed(type) && !is_unsigned(type)) refuse(in, "requires an integer type");
      if (size_of(type) < 4) refuse(in, "requires 32 or 64 bits");
      in.executor = by_integer(in, type, [](auto x) -> Executor { return integer_atomic<decltype(x)>; });
      break;
    case kIncrement:
    case kDecrement:
      if (type != Type::kU32) refuse(in, "requires .u32");
      in.executor = integer_atomic<uint32_t>;
      break;
    case kCompareSwap:
      if (type == Type::kB16) in.executor = compare_and_swap<uint16_t>;
      if (type == Type::kB32) in.executor = compare_and_swap<uint32_t>;
      if (type == Type::kB64) in.executor = compare_and_swap<uint64_t>;
      break;
    default:
      if (type == Type::kB32) in.executor = integer_atomic<uint32_t>;
      if (type == Type::kB64) in.executor = integer_atomic<uint64_t>;
      break;
  }
  if (in.executor == nullptr) refuse(in, "type ." + std::string(name_of(type)) + " is not supported here");
}

}  // namespace lily::emulator
