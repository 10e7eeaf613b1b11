// Loads and stores: ld, st; scalars and vectors of up to 16 bytes in all state spaces. The cache hint .cg has no
// effect.
#include "core/instructions/families.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

constexpr uint32_t kMaxBytes = 16;  // of one access

uint64_t address_of(const Thread &thread, const Instruction &in, int operand) {
  return thread.registers[in.registers[operand]] + in.offset;
}

// Signed values are extended to the register's width.
template <class Value>
uint64_t extended(Value value) {
  if constexpr (std::is_signed_v<Value>) return static_cast<uint64_t>(static_cast<int64_t>(value));
  return value;
}

template <class Value>
void load_scalar(Thread &thread, const Instruction &in) {
  Value value;
  thread.load(in, in.space, address_of(thread, in, 1), &value, sizeof value);
  thread.set_register(in.registers[0], extended(value));
}

template <class Value>
void load_vector(Thread &thread, const Instruction &in) {
  Value values[kMaxBytes / sizeof(Value)];
  const int count = in.vector_width;
  thread.load(in, in.space, address_of(thread, in, 1), values,
              static_cast<uint32_t>(sizeof(Value)) * static_cast<uint32_t>(count));
  for (int i = 0; i < count; ++i) thread.set_register(Thread::element(in.operands[0], i), extended(values[i]));
}

template <class Value>
void store_scalar(Thread &thread, const Instruction &in) {
  const Value value = static_cast<Value>(thread.registers[in.registers[1]]);
  thread.store(in, in.space, address_of(thread, in, 0), &value, sizeof value);
}

template <class Value>
void store_vector(Thread &thread, const Instruction &in) {
  Value values[kMaxBytes / sizeof(Value)];
  const int count = in.vector_width;
  for (int i = 0; i < count; ++i) {
    values[i] = static_cast<Value>(thread.registers[Thread::element(in.operands[1], i)]);
  }
  thread.store(in, in.space, address_of(thread, in, 0), values,
               static_cast<uint32_t>(sizeof(Value)) * static_cast<uint32_t>(count));
}

// Signedness matters for loads only.
template <class Make>
Executor by_element(const Instruction &in, Make make) {
  switch (in.type) {
    case Type::kB8:
    case Type::kU8: return make(uint8_t{});
    case Type::kS8: return make(int8_t{});
    case Type::kB16:
    case Type::kU16: return make(uint16_t{});
    case Type::kS16: return make(int16_t{});
    case Type::kB32:
    case Type::kU32:
    case Type::kF32: return make(uint32_t{});
    case Type::kS32: return make(int32_t{});
    case Type::kB64:
    case Type::kU64:
    case Type::kS64:
    case Type::kF64: return make(uint64_t{});
    default: refuse(in, "type ." + std::string(name_of(in.type)) + " is not supported here");
  }
}

}  // namespace

void decode_memory(Instruction &in, Modifiers &modifiers) {
  const bool is_store = in.opcode == "st";
  in.is_strong = modifiers.take("volatile");
  in.space = modifiers
                 .take_one<Space>({{"global", Space::kGlobal},
                                   {"shared", Space::kShared},
                                   {"shared::cta", Space::kShared},
                                   {"local", Space::kLocal},
                                   {"param", Space::kParam}})
                 .value_or(Space::kGeneric);
  in.is_constant = !is_store && in.space == Space::kGlobal && modifiers.take("nc");
  modifiers.take("cg");
  const std::optional<uint8_t> width = modifiers.take_one<uint8_t>({{"v2", 2}, {"v4", 4}});
  in.vector_width = width.value_or(1);
  in.type = modifiers.take_type();
  expect_operands(in, 2, 2);
  if (is_store && in.space == Space::kParam) refuse(in, "the state space is read-only");
  if (static_cast<uint32_t>(size_of(in.type)) * in.vector_width > kMaxBytes) {
    refuse(in, "accesses of more than 16 bytes are not supported");
  }
  if (Thread::elements(in.operands[is_store ? 1 : 0]) != in.vector_width)
    refuse(in, "the number of elements does not match the vector width");
  in.executor = by_element(in, [&](auto x) -> Executor {
    using Value = decltype(x);
    if (is_store) return width ? store_vector<Value> : store_scalar<Value>;
    return width ? load_vector<Value> : load_scalar<Value>;
  });
}

}  // namespace lily::emulator
