// cvt: conversions between integers and floats of all sizes, packing of two f32 into f16x2 or bf16x2, and f32 to tf32.
//
// Every other float type converts exactly to double, so a conversion goes through double and rounds once, to the
// destination.
#include "core/instructions/conversion.h"
#include "core/instructions/families.h"
#include "core/instructions/half_arithmetic.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

template <Type kFrom>
double widened(const Instruction &in, uint64_t bits) {
  if constexpr (kFrom == Type::kF16) return Half::widen(bits);
  if constexpr (kFrom == Type::kBf16) return Bfloat::widen(bits);
  if constexpr (kFrom == Type::kF64) return double_of(bits);
  const float value = float_of(bits);
  return in.flush_subnormals ? flush_subnormal(value) : value;
}

// .satfinite: infinity becomes the largest finite number. .relu: negative numbers become 0.
template <class Format>
uint16_t finish_16(const Instruction &in, uint16_t bits) {
  if (in.flag && (bits & 0x7fff) == Format::kLargest + 1) bits = (bits & 0x8000) | Format::kLargest;
  return in.relu ? clamp_negative_16<Format>(bits) : bits;
}

template <Type kTo>
uint64_t narrowed(const Instruction &in, double value) {
  if (in.saturate) value = saturate(value);
  if constexpr (kTo == Type::kF16) return finish_16<Half>(in, Half::narrow(value, in.rounding));
  if constexpr (kTo == Type::kBf16) return finish_16<Bfloat>(in, Bfloat::narrow(value, in.rounding));
  if constexpr (kTo == Type::kF64) return bits_of(value);
  const float result = double_to_float(value, in.rounding);
  return bits_of(in.flush_subnormals ? flush_subnormal(result) : result);
}

template <Type kTo, Type kFrom>
void float_to_float(Thread &thread, const Instruction &in) {
  thread.set(in.operands[0], narrowed<kTo>(in, widened<kFrom>(in, thread.get(in.operands[1]))));
}
// .rni, .rzi, .rmi, .rpi between floats of the same size.
template <Type kType>
void float_to_whole_float(Thread &thread, const Instruction &in) {
  const double value = round_to_integer(widened<kType>(in, thread.get(in.operands[1])), in.rounding);
  thread.set(in.operands[0], narrowed<kType>(in, value));
}

template <Type kFrom>
void float_to_int(Thread &thread, const Instruction &in) {
  const double value = widened<kFrom>(in, thread.get(in.operands[1]));
  thread.set(in.operands[0],
             float_to_integer(value, is_signed(in.type), size_of(in.type), kFrom == Type::kF64, in.rounding));
}

template <Type kTo>
void int_to_float(Thread &thread, const Instruction &in) {
  const uint64_t bits = thread.get(in.operands[1]);
  const bool from_signed = is_signed(in.source_type);
  const int bytes = size_of(in.source_type);
  if constexpr (kTo == Type::kF16 || kTo == Type::kBf16) {
    thread.set(in.operands[0], narrowed<kTo>(in, integer_to_odd(bits, from_signed, bytes)));
  } else {
    using Number = std::conditional_t<kTo == Type::kF64, double, float>;
    const Number value = integer_to_float<Number>(bits, from_signed, bytes, in.rounding);
    set_result<Number>(thread, in, in.saturate ? saturate(value) : value);
  }
}

void int_to_int(Thread &thread, const Instruction &in) {
  thread.set(in.operands[0],
             integer_to_integer(thread.get(in.operands[1]), is_signed(in.source_type), size_of(in.source_type),
                                is_signed(in.type), size_of(in.type), in.saturate));
}

// The first source is the upper half.
template <Type kTo>
void pack(Thread &thread, const Instruction &in) {
  const uint64_t upper = narrowed<kTo>(in, widened<Type::kF32>(in, thread.get(in.operands[1])));
  const uint64_t lower = narrowed<kTo>(in, widened<Type::kF32>(in, thread.get(in.operands[2])));
  thread.set(in.operands[0], upper << 16 | lower);
}

void to_tf32(Thread &thread, const Instruction &in) {
  uint32_t result = narrow_to_tf32(source<float>(thread, in, 1), in.rounding);
  if (in.flag && (result & 0x7fffffff) == 0x7f800000) result = (result & 0x80000000) | 0x7f7fe000;
  if (in.relu && (result & 0x80000000)) result = 0;
  set_result<uint32_t>(thread, in, result);
}

template <Type kFrom>
Executor float_to(const Instruction &in, Type to) {
  switch (to) {
    case Type::kF16: return float_to_float<Type::kF16, kFrom>;
    case Type::kBf16: return float_to_float<Type::kBf16, kFrom>;
    case Type::kF32: return float_to_float<Type::kF32, kFrom>;
    case Type::kF64: return float_to_float<Type::kF64, kFrom>;
    default: refuse(in, "this pair of types is not supported");
  }
}

// Chooses an executor by float type: make(std::integral_constant<Type, ...>).
template <class Make>
Executor by_float(const Instruction &in, Type type, Make make) {
  switch (type) {
    case Type::kF16: return make(std::integral_constant<Type, Type::kF16>{});
    case Type::kBf16: return make(std::integral_constant<Type, Type::kBf16>{});
    case Type::kF32: return make(std::integral_constant<Type, Type::kF32>{});
    case Type::kF64: return make(std::integral_constant<Type, Type::kF64>{});
    default: refuse(in, "this pair of types is not supported");
  }
}

void decode_tf32(Instruction &in, Modifiers &modifiers) {
  const std::optional<Rounding> rounding = modifiers.take_one<Rounding>(
      {{"rna", Rounding::kNearestAway}, {"rn", Rounding::kNearestEven}, {"rz", Rounding::kZero}});
  if (!rounding) refuse(in, "requires .rna, .rn or .rz");
  if (in.source_type != Type::kF32) refuse(in, "the source must be .f32");
  in.rounding = *rounding;
  in.flag = modifiers.take("satfinite");
  in.relu = *rounding != Rounding::kNearestAway && modifiers.take("relu");
  expect_operands(in, 2, 2);
  in.executor = to_tf32;
}

void decode_pack(Instruction &in, Modifiers &modifiers) {
  if (in.source_type != Type::kF32) refuse(in, "the sources must be .f32");
  take_rounding(in, modifiers, true);
  if (in.rounding != Rounding::kNearestEven && in.rounding != Rounding::kZero) refuse(in, "requires .rn or .rz");
  in.relu = modifiers.take("relu");
  in.flag = modifiers.take("satfinite");
  expect_operands(in, 3, 3);
  in.executor = in.type == Type::kF16x2 ? pack<Type::kF16> : pack<Type::kBf16>;
}

void decode_between_floats(Instruction &in, Modifiers &modifiers, std::optional<Rounding> to_whole) {
  if (to_whole) {
    if (in.type != in.source_type) refuse(in, "rounding to an integer requires equal types");
    in.rounding = *to_whole;
    in.executor = by_float(in, in.type, [](auto type) -> Executor { return float_to_whole_float<type()>; });
    return;
  }
  const bool to_half = in.type == Type::kF16 || in.type == Type::kBf16;
  const bool narrows = size_of(in.type) < size_of(in.source_type) || (to_half && in.type != in.source_type);
  if (narrows) take_rounding(in, modifiers, true);
  if (to_half && in.source_type == Type::kF32) {
    in.relu = modifiers.take("relu");
    in.flag = modifiers.take("satfinite");
  }
  in.executor = by_float(in, in.source_type, [&](auto from) -> Executor { return float_to<from()>(in, in.type); });
}

}  // namespace

void decode_convert(Instruction &in, Modifiers &modifiers) {
  if (modifiers.has("pack")) refuse(in, "cvt.pack is not supported");
  in.type = modifiers.take_type();
  in.source_type = modifiers.take_type();
  if (is_bits(in.type) || is_bits(in.source_type)) refuse(in, ".b types are not supported");
  if (in.type == Type::kTf32) return decode_tf32(in, modifiers);
  if (in.type == Type::kF16x2 || in.type == Type::kBf16x2) return decode_pack(in, modifiers);

  expect_operands(in, 2, 2);
  const bool to_float = is_float(in.type), from_float = is_float(in.source_type);
  const std::optional<Rounding> to_whole = modifiers.take_one<Rounding>(
      {{"rni", Rounding::kNearestEven}, {"rzi", Rounding::kZero}, {"rmi", Rounding::kDown}, {"rpi", Rounding::kUp}});
  if (to_whole && !from_float) refuse(in, "an integer source does not support rounding to an integer");
  if (in.type == Type::kF32 || in.source_type == Type::kF32) in.flush_subnormals = modifiers.take("ftz");
  in.saturate = modifiers.take("sat");
  if (to_float && from_float) {
    decode_between_floats(in, modifiers, to_whole);
  } else if (from_float) {
    if (!to_whole) refuse(in, "requires .rni, .rzi, .rmi or .rpi");
    in.rounding = *to_whole;
    in.executor = by_float(in, in.source_type, [](auto from) -> Executor { return float_to_int<from()>; });
  } else if (to_float) {
    take_rounding(in, modifiers, true);
    in.executor = by_float(in, in.type, [](auto to) -> Executor { return int_to_float<to()>; });
  } else {
    in.executor = int_to_int;
  }
}

}  // namespace lily::emulator
