// Operations between the lanes of a warp: shfl.sync, vote.sync.ballot. Each runs once for all lanes of the member mask.
// The forms without .sync, removed in newer architectures, are rejected.
#include "core/instructions/families.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

enum ShuffleMode : uint8_t { kUp, kDown, kButterfly, kIndex };

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
    const ShuffleSource from = shuffle_source(static_cast<ShuffleMode>(in.operation), lane,
                                              source<int32_t>(thread, in, 2), source<uint32_t>(thread, in, 3));
    if (!(operation.mask >> from.lane & 1)) {
      thread.report(in, FindingKind::kAbsentLane,
                    "reads lane " + std::to_string(from.lane) + ", which does not take part");
    }
    thread.set(in.operands[0], values[from.lane]);
    thread.set_register(in.operands[0].second, from.in_range);
  });
}

void ballot(WarpOperation &operation, const Instruction &in) {
  uint32_t result = 0;
  operation.each(
      [&](int lane, Thread &thread) { result |= static_cast<uint32_t>(thread.predicate(in.operands[1])) << lane; });
  operation.each([&](int, Thread &thread) { thread.set(in.operands[0], result); });
}

void decode_shuffle(Instruction &in, Modifiers &modifiers) {
  const std::optional<ShuffleMode> mode =
      modifiers.take_one<ShuffleMode>({{"up", kUp}, {"down", kDown}, {"bfly", kButterfly}, {"idx", kIndex}});
  if (!mode) refuse(in, "requires .up, .down, .bfly or .idx");
  in.operation = *mode;
  expect_operands(in, 5, 5);
  in.mask_operand = 4;
  in.warp_executor = shuffle;
}

void decode_vote(Instruction &in, Modifiers &modifiers) {
  if (!modifiers.take("ballot")) refuse(in, "requires .ballot");
  expect_operands(in, 3, 3);
  in.mask_operand = 2;
  in.warp_executor = ballot;
}

}  // namespace

void decode_warp(Instruction &in, Modifiers &modifiers) {
  if (!modifiers.take("sync")) refuse(in, "only the form with .sync is supported");
  in.flow = Flow::kWarp;
  take_type(in, modifiers, {Type::kB32});
  in.opcode == "shfl" ? decode_shuffle(in, modifiers) : decode_vote(in, modifiers);
}

}  // namespace lily::emulator
