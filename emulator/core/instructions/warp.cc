// Operations between the lanes of a warp: shfl.sync, vote.sync, match.sync, redux.sync, elect.sync. Each runs once for
// all lanes of the member mask. The forms without .sync, removed in newer architectures, are rejected.
#include "core/instructions/families.h"
#include "core/instructions/integer_arithmetic.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

enum ShuffleMode : uint8_t { kUp, kDown, kButterfly, kIndex };
enum VoteMode : uint8_t { kAll, kAny, kUniform, kBallot };
enum Reduction : uint8_t { kAdd, kMinimum, kMaximum, kAnd, kOr, kXor };

struct ShuffleSource {
  int lane;
  bool in_range;
};

// `clamp` is operand c: the segment mask in bits 8 to 12 and the clamp value in bits 0 to 4.
ShuffleSource shuffle_source(ShuffleMode mode, int lane, int offset, uint32_t clamp) {
  const int segment = static_cast<int>(clamp >> 8 & 31), last = static_cast<int>(clamp & 31);
  const int first_lane = lane & segment, limit = first_lane | (last & ~segment);
  offset &= 31;
  int from = 0;
  bool in_range = false;
  switch (mode) {
    case kUp: from = lane - offset, in_range = from >= limit; break;
    case kDown: from = lane + offset, in_range = from <= limit; break;
    case kButterfly: from = lane ^ offset, in_range = from <= limit; break;
    case kIndex: from = first_lane | (offset & ~segment), in_range = from <= limit; break;
  }
  return {in_range ? from : lane, in_range};
}

void shuffle(WarpOperation &operation, const Instruction &in) {
  uint32_t values[32] = {};
  operation.each([&](int lane, Thread &thread) { values[lane] = source<uint32_t>(thread, in, 1); });
  operation.each([&](int lane, Thread &thread) {
    ShuffleSource from = shuffle_source(static_cast<ShuffleMode>(in.operation), lane, source<int32_t>(thread, in, 2),
                                        source<uint32_t>(thread, in, 3));
    if (!(operation.mask >> from.lane & 1)) {
      thread.report(in, FindingKind::kAbsentLane,
                    "reads lane " + std::to_string(from.lane) + ", which does not take part");
      from.lane = lane;
    }
    thread.set(in.operands[0], values[from.lane]);
    thread.set_register(in.operands[0].second, from.in_range);
  });
}

void vote(WarpOperation &operation, const Instruction &in) {
  uint32_t ballot = 0;
  operation.each(
      [&](int lane, Thread &thread) { ballot |= static_cast<uint32_t>(thread.predicate(in.operands[1])) << lane; });
  uint32_t result = ballot;
  if (in.operation == kAll) result = ballot == operation.mask;
  if (in.operation == kAny) result = ballot != 0;
  if (in.operation == kUniform) result = ballot == 0 || ballot == operation.mask;
  operation.each([&](int, Thread &thread) { thread.set(in.operands[0], result); });
}

// match.any: mask of the lanes with the same value. match.all: all lanes if all values are equal, otherwise 0.
void match(WarpOperation &operation, const Instruction &in) {
  const int bytes = size_of(in.type);
  uint64_t values[32] = {};
  operation.each([&](int lane, Thread &thread) { values[lane] = zero_extend(thread.get(in.operands[1]), bytes); });
  operation.each([&](int lane, Thread &thread) {
    uint32_t same = 0;
    operation.each([&](int other, Thread &) { same |= static_cast<uint32_t>(values[other] == values[lane]) << other; });
    const bool all = same == operation.mask;
    thread.set(in.operands[0], in.flag && !all ? 0 : same);
    thread.set_register(in.operands[0].second, all);
  });
}

template <class Int>
void reduce(WarpOperation &operation, const Instruction &in) {
  bool first = true;
  Int result = 0;
  operation.each([&](int, Thread &thread) {
    const Int value = source<Int>(thread, in, 1);
    if (first) {
      result = value;
    } else {
      switch (in.operation) {
        case kAdd: result = add<Int>(result, value); break;
        case kMinimum: result = minimum<Int>(result, value); break;
        case kMaximum: result = maximum<Int>(result, value); break;
        case kAnd: result &= value; break;
        case kOr: result |= value; break;
        default: result ^= value; break;
      }
    }
    first = false;
  });
  operation.each([&](int, Thread &thread) { set_result<Int>(thread, in, result); });
}

// PTX does not specify which lane is elected; the emulator elects the first.
void elect(WarpOperation &operation, const Instruction &in) {
  const int leader = std::countr_zero(operation.mask);
  operation.each([&](int lane, Thread &thread) {
    thread.set(in.operands[0], static_cast<uint64_t>(leader));
    thread.set_register(in.operands[0].second, lane == leader);
  });
}

void decode_shuffle(Instruction &in, Modifiers &modifiers) {
  const std::optional<ShuffleMode> mode =
      modifiers.take_one<ShuffleMode>({{"up", kUp}, {"down", kDown}, {"bfly", kButterfly}, {"idx", kIndex}});
  if (!mode) refuse(in, "requires .up, .down, .bfly or .idx");
  in.operation = *mode;
  take_type(in, modifiers, {Type::kB32});
  expect_operands(in, 5, 5);
  in.mask_operand = 4;
  in.warp_executor = shuffle;
}

void decode_vote(Instruction &in, Modifiers &modifiers) {
  const std::optional<VoteMode> mode =
      modifiers.take_one<VoteMode>({{"all", kAll}, {"any", kAny}, {"uni", kUniform}, {"ballot", kBallot}});
  if (!mode) refuse(in, "requires .all, .any, .uni or .ballot");
  in.operation = *mode;
  take_type(in, modifiers, {*mode == kBallot ? Type::kB32 : Type::kPred});
  expect_operands(in, 3, 3);
  in.mask_operand = 2;
  in.warp_executor = vote;
}

void decode_match(Instruction &in, Modifiers &modifiers) {
  in.flag = modifiers.take("all");
  if (!in.flag && !modifiers.take("any")) refuse(in, "requires .any or .all");
  in.type = take_type(in, modifiers, {Type::kB32, Type::kB64});
  expect_operands(in, 3, 3);
  in.mask_operand = 2;
  in.warp_executor = match;
}

void decode_reduction(Instruction &in, Modifiers &modifiers) {
  const std::optional<Reduction> reduction = modifiers.take_one<Reduction>(
      {{"add", kAdd}, {"min", kMinimum}, {"max", kMaximum}, {"and", kAnd}, {"or", kOr}, {"xor", kXor}});
  if (!reduction) refuse(in, "the operation is not supported");
  in.operation = *reduction;
  if (*reduction >= kAnd) {
    take_type(in, modifiers, {Type::kB32});
    in.warp_executor = reduce<uint32_t>;
  } else {
    const Type type = take_type(in, modifiers, {Type::kU32, Type::kS32});
    in.warp_executor = type == Type::kS32 ? reduce<int32_t> : reduce<uint32_t>;
  }
  expect_operands(in, 3, 3);
  in.mask_operand = 2;
}

}  // namespace

void decode_warp(Instruction &in, Modifiers &modifiers) {
  if (!modifiers.take("sync")) refuse(in, "only the form with .sync is supported");
  in.flow = Flow::kWarp;
  if (in.opcode == "shfl") {
    decode_shuffle(in, modifiers);
  } else if (in.opcode == "vote") {
    decode_vote(in, modifiers);
  } else if (in.opcode == "match") {
    decode_match(in, modifiers);
  } else if (in.opcode == "redux") {
    decode_reduction(in, modifiers);
  } else {
    expect_operands(in, 2, 2);
    in.mask_operand = 1;
    in.warp_executor = elect;
  }
}

}  // namespace lily::emulator
