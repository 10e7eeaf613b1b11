// cvt: conversions between integers, from 32-bit integers to f32, from f32 to integers, between floats, packing of two
// f32 into f16x2 or bf16x2, and f32 to tf32.
//
// Every other float type converts exactly to double, so a conversion goes through double and rounds once, to the
// destination.
#include "core/instructions/families.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

template <Type kFrom>
double widened(uint64_t bits) {
  if constexpr (kFrom == Type::kF16) return Half::widen(bits);
  if constexpr (kFrom == Type::kBf16) return Bfloat::widen(bits);
  if constexpr (kFrom == Type::kF64) return double_of(bits);
  return float_of(bits);
}

template <Type kTo>
uint64_t narrowed(double value) {
  if constexpr (kTo == Type::kF16) return Half::narrow(value);
  if constexpr (kTo == Type::kBf16) return Bfloat::narrow(value);
  if constexpr (kTo == Type::kF64) return bits_of(value);
  return bits_of(static_cast<float>(value));
}

template <Type kTo, Type kFrom>
void float_to_float(Thread &thread, const Instruction &in) {
  thread.set(in.operands[0], narrowed<kTo>(widened<kFrom>(thread.get(in.operands[1]))));
}

// .sat: clamps to [0, 1]; a NaN becomes +0.
float saturate(float value) { return !(value > 0) ? 0 : value > 1 ? 1 : value; }

// A value out of range becomes the nearest limit. A NaN becomes 0, except with a 64-bit destination: then only the top
// bit of the result is set.
void float_to_int(Thread &thread, const Instruction &in) {
  const float value = source<float>(thread, in, 1);
  const int bits = size_of(in.type) * 8;
  const double integer = std::trunc(value), limit = std::ldexp(1.0, bits - 1);
  int64_t result = 0;
  if (value != value) {
    result = bits == 64 ? INT64_MIN : 0;
  } else if (integer >= limit) {
    result = static_cast<int64_t>((uint64_t{1} << (bits - 1)) - 1);
  } else {
    result = static_cast<int64_t>(std::max(integer, -limit));
  }
  thread.set(in.operands[0], static_cast<uint64_t>(result));
}

template <class Int>
void int_to_float(Thread &thread, const Instruction &in) {
  set_result<float>(thread, in, static_cast<float>(source<Int>(thread, in, 1)));
}

// The low bits, extended according to the source's sign and then to the destination's.
void int_to_int(Thread &thread, const Instruction &in) {
  const auto extend = [](uint64_t value, Type type) {
    return is_signed(type) ? static_cast<uint64_t>(sign_extend(value, size_of(type)))
                           : zero_extend(value, size_of(type));
  };
  thread.set(in.operands[0], extend(extend(thread.get(in.operands[1]), in.source_type), in.type));
}

// The first source is the upper half.
template <Type kTo>
void pack(Thread &thread, const Instruction &in) {
  const uint64_t upper = narrowed<kTo>(widened<Type::kF32>(thread.get(in.operands[1])));
  const uint64_t lower = narrowed<kTo>(widened<Type::kF32>(thread.get(in.operands[2])));
  thread.set(in.operands[0], upper << 16 | lower);
}

void to_tf32(Thread &thread, const Instruction &in) {
  set_result<uint32_t>(thread, in, narrow_to_tf32(source<float>(thread, in, 1)));
}

// f32 to and from each of the others.
Executor between_floats(const Instruction &in) {
  switch (in.source_type) {
    case Type::kF16: return float_to_float<Type::kF32, Type::kF16>;
    case Type::kBf16: return float_to_float<Type::kF32, Type::kBf16>;
    case Type::kF64: return float_to_float<Type::kF32, Type::kF64>;
    default: break;
  }
  switch (in.type) {
    case Type::kF16: return float_to_float<Type::kF16, Type::kF32>;
    case Type::kBf16: return float_to_float<Type::kBf16, Type::kF32>;
    default: return float_to_float<Type::kF64, Type::kF32>;
  }
}

}  // namespace

void decode_convert(Instruction &in, Modifiers &modifiers) {
  const Type to = in.type = modifiers.take_type(), from = in.source_type = modifiers.take_type();
  const bool packs = to == Type::kF16x2 || to == Type::kBf16x2;
  expect_operands(in, packs ? 3 : 2, packs ? 3 : 2);
  const auto require = [&](const char *modifier) {
    if (!modifiers.take(modifier)) refuse(in, std::string("requires .") + modifier);
  };
  if (is_bits(to) || is_bits(from)) refuse(in, ".b types are not supported");
  if (is_integer(to) && is_integer(from)) {
    in.executor = int_to_int;
  } else if (is_integer(to) && is_signed(to) && from == Type::kF32) {
    require("rzi");
    in.executor = float_to_int;
  } else if (to == Type::kF32 && (from == Type::kS32 || from == Type::kU32)) {
    require("rn");
    in.executor = from == Type::kS32 ? int_to_float<int32_t> : int_to_float<uint32_t>;
  } else if (to == Type::kTf32 && from == Type::kF32) {
    require("rna");
    in.executor = to_tf32;
  } else if (packs && from == Type::kF32) {
    require("rn");
    in.executor = to == Type::kF16x2 ? pack<Type::kF16> : pack<Type::kBf16>;
  } else if (to == Type::kF32 && from == Type::kF32) {
    require("sat");
    in.executor = unary<float, saturate>;
  } else if (is_float(to) && is_float(from) && (to == Type::kF32) != (from == Type::kF32)) {
    if (size_of(to) < size_of(from)) require("rn");
    in.executor = between_floats(in);
  } else {
    refuse(in, "this pair of types is not supported");
  }
}

}  // namespace lily::emulator
