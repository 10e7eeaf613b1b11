// Helpers for all families of instructions: operands as C++ values, executors built from functions, checks in decoders.
#pragma once

#include <initializer_list>
#include <type_traits>

#include "core/instruction.h"
#include "core/instructions/numbers.h"
#include "core/thread.h"

namespace lily::emulator {

// The low bits of a register, as a value of the given type.
template <class Value>
Value value_of(uint64_t bits) {
  if constexpr (std::is_same_v<Value, float>) {
    return float_of(bits);
  } else if constexpr (std::is_same_v<Value, double>) {
    return double_of(bits);
  } else {
    return static_cast<Value>(bits);
  }
}
template <class Value>
uint64_t register_bits(Value value) {
  if constexpr (std::is_floating_point_v<Value>) {
    return bits_of(value);
  } else {
    return static_cast<std::make_unsigned_t<Value>>(value);
  }
}

template <class Value>
Value source(const Thread &thread, const Instruction &in, int operand) {
  return value_of<Value>(thread.registers[in.register_of(operand)]);
}
template <class Value>
void set_result(Thread &thread, const Instruction &in, Value value) {
  thread.set_register(in.registers[0], register_bits(value));
}

template <class Value, Value (*kFunction)(Value)>
void unary(Thread &thread, const Instruction &in) {
  set_result<Value>(thread, in, kFunction(source<Value>(thread, in, 1)));
}
template <class Value, Value (*kFunction)(Value, Value)>
void binary(Thread &thread, const Instruction &in) {
  set_result<Value>(thread, in, kFunction(source<Value>(thread, in, 1), source<Value>(thread, in, 2)));
}
template <class Value, Value (*kFunction)(Value, Value, Value)>
void ternary(Thread &thread, const Instruction &in) {
  set_result<Value>(
      thread, in, kFunction(source<Value>(thread, in, 1), source<Value>(thread, in, 2), source<Value>(thread, in, 3)));
}

// Takes the next type among the modifiers and throws unless it is in `allowed`.
inline Type take_type(const Instruction &in, Modifiers &modifiers, std::initializer_list<Type> allowed) {
  const Type type = modifiers.take_type();
  for (Type other : allowed) {
    if (other == type) return type;
  }
  refuse(in, "type ." + std::string(name_of(type)) + " is not supported here");
}

// If the rounding mode is optional, the default is .rn.
inline void take_rounding(Instruction &in, Modifiers &modifiers, bool required) {
  const std::optional<Rounding> rounding = modifiers.take_one<Rounding>(
      {{"rn", Rounding::kNearestEven}, {"rz", Rounding::kZero}, {"rm", Rounding::kDown}, {"rp", Rounding::kUp}});
  if (!rounding && required) refuse(in, "the rounding mode is missing");
  in.rounding = rounding.value_or(Rounding::kNearestEven);
}

// Chooses an executor by C++ type: make(Int{}) with the integer type that PTX names (.bN is unsigned).
template <class Make>
Executor by_integer(const Instruction &in, Type type, Make make) {
  switch (type) {
    case Type::kS16: return make(int16_t{});
    case Type::kB16:
    case Type::kU16: return make(uint16_t{});
    case Type::kS32: return make(int32_t{});
    case Type::kB32:
    case Type::kU32: return make(uint32_t{});
    case Type::kS64: return make(int64_t{});
    case Type::kB64:
    case Type::kU64: return make(uint64_t{});
    default: refuse(in, "type ." + std::string(name_of(type)) + " is not supported here");
  }
}

}  // namespace lily::emulator
