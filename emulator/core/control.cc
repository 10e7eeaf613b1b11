// Decoders for control flow, barriers and fences.
#include "core/barriers.h"
#include "core/block.h"

namespace lily::emulator {
namespace {

void branch(Thread &thread, const Instruction &in) { thread.pc = in.target; }

void branch_indexed(Thread &thread, const Instruction &in) {
  const uint64_t index = static_cast<uint32_t>(thread.get(in.operands[0]));
  if (index >= in.targets.size()) {
    add_finding(thread, in, FindingKind::kBadOperand,
                "branch index " + std::to_string(index) + " of " + std::to_string(in.targets.size()), true);
  }
  thread.pc = in.targets[index];
}

void decode_branch(Instruction &in, Modifiers &modifiers) {
  modifiers.take("uni");
  in.executor = branch;
}

void decode_branch_indexed(Instruction &in, Modifiers &modifiers) {
  if (!modifiers.take("idx")) refuse(in, "only brx.idx is supported");
  modifiers.take("uni");
  in.executor = branch_indexed;
}

void decode_exit(Instruction &in, Modifiers &modifiers) {
  modifiers.take("uni");
  in.flow = Flow::kExit;
}

void decode_trap(Instruction &in, Modifiers &) { in.flow = Flow::kTrap; }

void do_nothing(Thread &, const Instruction &) {}

void decode_nanosleep(Instruction &in, Modifiers &modifiers) {
  modifiers.take("u32");
  in.executor = do_nothing;
  in.flow = Flow::kYield;
}

void fence_device(Thread &thread, const Instruction &) { thread.fence(true); }
void fence_block(Thread &thread, const Instruction &) { thread.fence(false); }

void fence_proxy(Thread &thread, const Instruction &) { thread.fence_proxy(); }

void decode_fence(Instruction &in, Modifiers &modifiers) {
  if (in.opcode == "fence" && modifiers.take("proxy")) {
    if (!modifiers.take("async")) refuse(in, "only the fence of the async proxy is supported");
    const bool global = modifiers.take("global");
    modifiers.take_any({"shared::cta", "shared::cluster"});
    in.executor = global ? do_nothing : fence_proxy;
    return;
  }
  if (in.opcode == "fence") modifiers.take_any({"sc", "acq_rel", "acquire", "release"});
  const int scope = modifiers.take_any({"gl", "sys", "gpu", "cta", "cluster"});
  if (scope < 0) refuse(in, "the scope is missing");
  in.executor = scope <= 2 ? fence_device : fence_block;
}

void synchronise_warp(WarpOperation &operation, const Instruction &in) {
  operation.synchronise();
  if (operation.block->traffic != nullptr) ++operation.block->traffic->at(in.pc).barriers;
}

void active_mask(WarpOperation &operation, const Instruction &in) {
  operation.each([&](int, Thread &thread) { thread.set(in.operands[0], operation.mask); });
}

void decode_active_mask(Instruction &in, Modifiers &modifiers) {
  in.type = modifiers.take_type();
  expect_operands(in, 1, 1);
  in.flow = Flow::kWarp;
  in.warp_executor = active_mask;
  in.mask_operand = kConverged;
}

void decode_barrier(Instruction &in, Modifiers &modifiers) {
  const bool aligned = modifiers.take("aligned");
  if (modifiers.take("warp")) {
    if (!modifiers.take("sync")) refuse(in, "bar.warp requires .sync");
    expect_operands(in, 1, 1);
    in.flow = Flow::kWarp;
    in.warp_executor = synchronise_warp;
    in.mask_operand = 0;
    return;
  }
  if (modifiers.has("cluster")) refuse(in, "clusters are not supported");
  modifiers.take("cta");
  in.flow = Flow::kBarrier;
  in.flag = aligned || in.opcode == "bar";
  const int variant = modifiers.take_any({"sync", "arrive", "red"});
  if (variant < 0) refuse(in, "unsupported barrier");
  in.variant = static_cast<uint8_t>(variant);
  if (in.variant != kBarrierReduce) {
    expect_operands(in, in.variant == kBarrierArrive ? 2 : 1, 2);
    return;
  }
  expect_operands(in, 3, 4);
  const int reduction = modifiers.take_any({"popc", "and", "or"});
  if (reduction < 0) refuse(in, "unsupported reduction");
  in.operation = static_cast<uint8_t>(reduction);
  in.type = modifiers.take_type();
}

constexpr OpcodeEntry kTable[] = {
    {"bra", decode_branch},   {"brx", decode_branch_indexed},  {"ret", decode_exit},
    {"exit", decode_exit},    {"trap", decode_trap},           {"brkpt", decode_trap},
    {"bar", decode_barrier},  {"barrier", decode_barrier},     {"fence", decode_fence},
    {"membar", decode_fence}, {"nanosleep", decode_nanosleep}, {"activemask", decode_active_mask},
};

}  // namespace

std::span<const OpcodeEntry> control_table() { return kTable; }

}  // namespace lily::emulator
