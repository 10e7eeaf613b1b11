// f16 and bf16 arithmetic, scalar and packed: add, sub, mul, fma, min, max, abs, neg, ex2, tanh.
//
// Every operation rounds once, to nearest even. .ftz flushes subnormal operands and results, .sat clamps to [0, 1],
// .relu clamps negative results to 0.
#include "core/instructions/families.h"
#include "core/instructions/half_arithmetic.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

enum Operation : uint8_t { kAdd, kSubtract, kMultiply, kFma, kMinimum, kMaximum, kAbsolute, kNegate, kExp2, kTanh };

template <class Format, Operation kOperation>
uint16_t compute(const Instruction &in, uint16_t x, uint16_t y, uint16_t z) {
  if (in.flush_subnormals) {
    x = flush_subnormal_16<Format>(x);
    y = flush_subnormal_16<Format>(y);
    z = flush_subnormal_16<Format>(z);
  }
  uint16_t result = 0;
  switch (kOperation) {
    case kAdd: result = add_16<Format>(x, y); break;
    case kSubtract: result = subtract_16<Format>(x, y); break;
    case kMultiply: result = multiply_16<Format>(x, y); break;
    case kFma: result = fma_16<Format>(x, y, z); break;
    case kMinimum: result = minimum_16<Format>(x, y, in.propagate_nan, in.flag); break;
    case kMaximum: result = maximum_16<Format>(x, y, in.propagate_nan, in.flag); break;
    case kAbsolute: result = x & 0x7fff; break;
    case kNegate: result = x ^ 0x8000; break;
    case kExp2: result = Format::narrow(std::exp2(static_cast<double>(Format::widen(x)))); break;
    case kTanh: result = Format::narrow(std::tanh(static_cast<double>(Format::widen(x)))); break;
  }
  if (in.flush_subnormals) result = flush_subnormal_16<Format>(result);
  if (in.saturate) result = saturate_16<Format>(result);
  if (in.relu) result = clamp_negative_16<Format>(result);
  return result;
}

constexpr int sources_of(Operation operation) { return operation == kFma ? 3 : operation >= kAbsolute ? 1 : 2; }

template <class Format, int kLanes, Operation kOperation>
void execute(Thread &thread, const Instruction &in) {
  constexpr int kSources = sources_of(kOperation);
  const uint64_t x = source<uint64_t>(thread, in, 1);
  const uint64_t y = kSources > 1 ? source<uint64_t>(thread, in, 2) : 0;
  const uint64_t z = kSources > 2 ? source<uint64_t>(thread, in, 3) : 0;
  uint32_t result = 0;
  for (int shift = 0; shift < 16 * kLanes; shift += 16) {
    const uint16_t lane = compute<Format, kOperation>(
        in, static_cast<uint16_t>(x >> shift), static_cast<uint16_t>(y >> shift), static_cast<uint16_t>(z >> shift));
    result |= static_cast<uint32_t>(lane) << shift;
  }
  set_result<uint32_t>(thread, in, result);
}

template <Operation kOperation>
void choose(Instruction &in, Type type) {
  expect_operands(in, sources_of(kOperation) + 1, sources_of(kOperation) + 1);
  if (type == Type::kF16) in.executor = execute<Half, 1, kOperation>;
  if (type == Type::kF16x2) in.executor = execute<Half, 2, kOperation>;
  if (type == Type::kBf16) in.executor = execute<Bfloat, 1, kOperation>;
  if (type == Type::kBf16x2) in.executor = execute<Bfloat, 2, kOperation>;
}

}  // namespace

void decode_half(Instruction &in, Modifiers &modifiers) {
  const std::string &name = in.opcode;
  const Type type = take_type(in, modifiers, {Type::kF16, Type::kF16x2, Type::kBf16, Type::kBf16x2});
  const bool is_bfloat = type == Type::kBf16 || type == Type::kBf16x2;
  // bf16 supports .ftz only in ex2, where it is required.
  if (!is_bfloat && name != "tanh") in.flush_subnormals = modifiers.take("ftz");
  if (name == "add" || name == "sub" || name == "mul") {
    modifiers.take("rn");
    in.saturate = !is_bfloat && modifiers.take("sat");
    if (name == "add") choose<kAdd>(in, type);
    if (name == "sub") choose<kSubtract>(in, type);
    if (name == "mul") choose<kMultiply>(in, type);
  } else if (name == "fma") {
    if (!modifiers.take("rn")) refuse(in, "requires .rn");
    in.saturate = !is_bfloat && modifiers.take("sat");
    in.relu = !in.saturate && modifiers.take("relu");
    choose<kFma>(in, type);
  } else if (name == "min" || name == "max") {
    in.propagate_nan = modifiers.take("NaN");
    in.flag = modifiers.take("xorsign");
    if (in.flag && !modifiers.take("abs")) refuse(in, ".xorsign requires .abs");
    name == "min" ? choose<kMinimum>(in, type) : choose<kMaximum>(in, type);
  } else if (name == "abs") {
    choose<kAbsolute>(in, type);
  } else if (name == "neg") {
    choose<kNegate>(in, type);
  } else if (name == "ex2" || name == "tanh") {
    if (!modifiers.take("approx")) refuse(in, "requires .approx");
    if (name == "ex2" && is_bfloat) in.flush_subnormals = modifiers.take("ftz");
    if (name == "ex2" && is_bfloat && !in.flush_subnormals) refuse(in, "requires .ftz");
    name == "ex2" ? choose<kExp2>(in, type) : choose<kTanh>(in, type);
  } else {
    refuse(in, "not supported for 16-bit floats");
  }
}

}  // namespace lily::emulator
