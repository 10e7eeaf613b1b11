// Decoders for control flow, barriers and fences.
#include "core/block.h"

namespace lily::emulator {
namespace {

void branch(Thread &thread, const Instruction &in) { thread.pc = in.target; }

void decode_branch(Instruction &in, Modifiers &modifiers) {
  modifiers.take("uni");
  in.executor = branch;
}

void decode_exit(Instruction &in, Modifiers &modifiers) {
  modifiers.take("uni");
  in.flow = Flow::kExit;
}

void decode_trap(Instruction &in, Modifiers &) { in.flow = Flow::kTrap; }

void fence_proxy(Thread &thread, const Instruction &) { thread.fence_proxy(); }

void do_nothing(Thread &, const Instruction &) {}

void decode_fence(Instruction &in, Modifiers &modifiers) {
  if (!modifiers.take("proxy") || !modifiers.take("async"))
    refuse(in, "only the fence of the async proxy is supported");
  const bool global = modifiers.take("global");
  modifiers.take("shared::cta");
  in.executor = global ? do_nothing : fence_proxy;
}

void synchronise_warp(WarpOperation &operation, const Instruction &in) {
  operation.synchronise();
  if (operation.block->traffic != nullptr) ++operation.block->traffic->at(in.pc).barriers;
}

void decode_barrier(Instruction &in, Modifiers &modifiers) {
  const bool warp = modifiers.take("warp");
  if (!modifiers.take("sync")) refuse(in, "requires .sync");
  expect_operands(in, 1, warp ? 1 : 2);
  if (!warp) {
    in.flow = Flow::kBarrier;
    return;
  }
  in.flow = Flow::kWarp;
  in.warp_executor = synchronise_warp;
  in.mask_operand = 0;
}

constexpr OpcodeEntry kTable[] = {
    {"bra", decode_branch}, {"ret", decode_exit},    {"exit", decode_exit},
    {"trap", decode_trap},  {"bar", decode_barrier}, {"fence", decode_fence},
};

}  // namespace

std::span<const OpcodeEntry> control_table() { return kTable; }

}  // namespace lily::emulator
