// Moves and addresses: mov, cvta, isspacep, and hints without effect (prefetch, createpolicy, ...).
#include <atomic>

#include "core/instructions/families.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

void move_predicate(Thread &thread, const Instruction &in) {
  thread.set(in.operands[0], thread.predicate(in.operands[1]));
}
// The source is a register, a constant, or the address of a variable with an offset.
template <class Int>
void move_value(Thread &thread, const Instruction &in) {
  set_result<Int>(thread, in, static_cast<Int>(thread.get(in.operands[1]) + in.operands[1].offset));
}
// Every read, by any thread, returns a later time than all reads before it. The step is large enough for loops that
// wait for a time to end.
void read_clock(Thread &thread, const Instruction &in) {
  static std::atomic<uint64_t> now{0};
  constexpr uint64_t kStep = 1000;
  thread.set(in.operands[0], zero_extend(now += kStep, size_of(in.type)));
}
// mov.b32 d, {a, b}: the first element is the least significant.
void pack(Thread &thread, const Instruction &in) {
  const Operand &from = in.operands[1];
  const int count = Thread::elements(from), bytes = size_of(in.type) / count;
  uint64_t value = 0;
  for (int i = 0; i < count; ++i) {
    value |= zero_extend(thread.registers[Thread::element(from, i)], bytes) << (8 * bytes * i);
  }
  thread.set(in.operands[0], value);
}
void unpack(Thread &thread, const Instruction &in) {
  const Operand &to = in.operands[0];
  const int count = Thread::elements(to), bytes = size_of(in.type) / count;
  const uint64_t value = thread.get(in.operands[1]);
  for (int i = 0; i < count; ++i) {
    thread.set_register(Thread::element(to, i), zero_extend(value >> (8 * bytes * i), bytes));
  }
}

uint64_t window_of(Space space) {
  return space == Space::kShared ? kSharedWindow : space == Space::kLocal ? kLocalWindow : 0;
}
void to_generic(Thread &thread, const Instruction &in) {
  thread.set(in.operands[0], thread.get(in.operands[1]) + in.operands[1].offset + window_of(in.space));
}
void from_generic(Thread &thread, const Instruction &in) {
  thread.set(in.operands[0], thread.get(in.operands[1]) + in.operands[1].offset - window_of(in.space));
}
void test_space(Thread &thread, const Instruction &in) {
  const uint64_t address = thread.get(in.operands[1]);
  const bool shared = address - kSharedWindow < kWindowBytes, local = address - kLocalWindow < kWindowBytes;
  thread.set(in.operands[0], in.space == Space::kShared  ? shared
                             : in.space == Space::kLocal ? local
                                                         : !shared && !local);
}

void do_nothing(Thread &, const Instruction &) {}
void set_zero(Thread &thread, const Instruction &in) { thread.set(in.operands[0], 0); }

void decode_mov(Instruction &in, Modifiers &modifiers) {
  const Type type = in.type = modifiers.take_type();
  expect_operands(in, 2, 2);
  const bool splits = in.operands[0].kind == Operand::Kind::kVector,
             joins = in.operands[1].kind == Operand::Kind::kVector;
  if (splits || joins) {
    if (splits && joins) refuse(in, "vectors on both sides are not supported");
    if (type != Type::kB16 && type != Type::kB32 && type != Type::kB64)
      refuse(in, "a vector requires .b16, .b32 or .b64");
    const int count = Thread::elements(in.operands[splits ? 0 : 1]);
    if ((count != 2 && count != 4) || size_of(type) % count != 0)
      refuse(in, "the vector must have 2 or 4 elements that fill the type");
    in.executor = splits ? unpack : pack;
    return;
  }
  if (in.operands[1].is_clock) {
    in.executor = read_clock;
    return;
  }
  if (type == Type::kPred) {
    in.executor = move_predicate;
    return;
  }
  // A move copies bits, NaNs included, so float types use the integer of their size.
  const Type bits = type == Type::kF32 ? Type::kB32 : type == Type::kF64 ? Type::kB64 : type;
  in.executor = by_integer(in, bits, [](auto x) -> Executor { return move_value<decltype(x)>; });
}

void decode_address_conversion(Instruction &in, Modifiers &modifiers) {
  const bool to_space = modifiers.take("to");
  const std::optional<Space> space = modifiers.take_one<Space>({{"global", Space::kGlobal},
                                                                {"shared", Space::kShared},
                                                                {"shared::cta", Space::kShared},
                                                                {"local", Space::kLocal},
                                                                {"const", Space::kConst}});
  // Parameters have no generic address in the emulator, so cvta.param is rejected.
  if (!space) refuse(in, "the state space is not supported");
  in.space = *space;
  if (in.opcode == "cvta") {
    take_type(in, modifiers, {Type::kU64});
    in.executor = to_space ? from_generic : to_generic;
  } else {
    if (in.space == Space::kConst) refuse(in, "isspacep.const is not supported");
    in.executor = test_space;
  }
  expect_operands(in, 2, 2);
}

}  // namespace

void decode_move(Instruction &in, Modifiers &modifiers) {
  if (in.opcode == "mov") {
    decode_mov(in, modifiers);
  } else {
    decode_address_conversion(in, modifiers);
  }
}

// Cache hints.
void decode_hint(Instruction &in, Modifiers &modifiers) {
  if (in.opcode == "createpolicy") {
    if (modifiers.take_any({"fractional", "range", "cvt"}) < 0) refuse(in, "requires .fractional, .range or .cvt");
    modifiers.take("global");
    modifiers.take("L2");
    for (int i = 0; i < 2; ++i) {
      modifiers.take_any({"L2::evict_last", "L2::evict_normal", "L2::evict_first", "L2::evict_unchanged"});
    }
    take_type(in, modifiers, {Type::kB64});
    in.executor = set_zero;
    return;
  }
  modifiers.take_any({"global", "local"});  // prefetch, prefetchu
  if (modifiers.take_any({"L1", "L2", "L2::evict_last", "L2::evict_normal"}) < 0)
    refuse(in, "the cache level is missing");
  in.executor = do_nothing;
}

}  // namespace lily::emulator
