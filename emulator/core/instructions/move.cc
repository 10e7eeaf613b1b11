// Moves and addresses: mov, cvta.
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
  if (type == Type::kPred) {
    in.executor = move_predicate;
    return;
  }
  // A move copies bits, NaNs included, so float types use the integer of their size.
  const Type bits = type == Type::kF32 ? Type::kB32 : type == Type::kF64 ? Type::kB64 : type;
  in.executor = by_integer(in, bits, [](auto x) -> Executor { return move_value<decltype(x)>; });
}

void decode_cvta(Instruction &in, Modifiers &modifiers) {
  const bool to_space = modifiers.take("to");
  const std::optional<Space> space = modifiers.take_one<Space>({{"global", Space::kGlobal},
                                                                {"shared", Space::kShared},
                                                                {"shared::cta", Space::kShared},
                                                                {"local", Space::kLocal}});
  // Parameters have no generic address in the emulator, so cvta.param is rejected.
  if (!space) refuse(in, "the state space is not supported");
  in.space = *space;
  take_type(in, modifiers, {Type::kU64});
  in.executor = to_space ? from_generic : to_generic;
  expect_operands(in, 2, 2);
}

}  // namespace

void decode_move(Instruction &in, Modifiers &modifiers) {
  in.opcode == "mov" ? decode_mov(in, modifiers) : decode_cvta(in, modifiers);
}

}  // namespace lily::emulator
