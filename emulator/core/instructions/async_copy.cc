// cp.async: copies 4, 8 or 16 bytes from global to shared memory. The data arrives at the wait for the copy's group.
#include "core/instructions/families.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

// The optional operand is src-size, the number of bytes to read before zero fill.
void copy(Thread &thread, const Instruction &in) {
  const uint32_t bytes = source<uint32_t>(thread, in, 2);
  uint32_t source_bytes = in.operand_count == 4 ? source<uint32_t>(thread, in, 3) : bytes;
  if (source_bytes > bytes) {
    thread.report(in, FindingKind::kBadOperand,
                  "source size " + std::to_string(source_bytes) + " exceeds cp-size " + std::to_string(bytes));
  }
  thread.copy_async(in, thread.address(in.operands[0]), thread.address(in.operands[1]), bytes, source_bytes);
}

void commit_group(Thread &thread, const Instruction &) { thread.commit_async(); }
void wait_group(Thread &thread, const Instruction &in) { thread.wait_async(in, source<uint32_t>(thread, in, 0)); }
void wait_all(Thread &thread, const Instruction &in) { thread.wait_all_async(in); }

}  // namespace

void decode_async_copy(Instruction &in, Modifiers &modifiers) {
  if (!modifiers.take("async")) refuse(in, "only cp.async is supported");
  if (modifiers.has("bulk") || modifiers.has("mbarrier")) refuse(in, "bulk copies and mbarriers are not supported");
  if (modifiers.take("commit_group")) {
    expect_operands(in, 0, 0);
    in.executor = commit_group;
  } else if (modifiers.take("wait_group")) {
    expect_operands(in, 1, 1);
    in.executor = wait_group;
  } else if (modifiers.take("wait_all")) {
    expect_operands(in, 0, 0);
    in.executor = wait_all;
  } else {
    const bool bypasses_l1 = modifiers.take("cg");
    if (!bypasses_l1 && !modifiers.take("ca")) refuse(in, "requires .ca or .cg");
    if (modifiers.take_any({"shared", "shared::cta"}) < 0) refuse(in, "the destination must be .shared");
    if (!modifiers.take("global")) refuse(in, "the source must be .global");
    in.space = Space::kShared;
    expect_operands(in, 3, 4);
    const Operand &size = in.operands[2];
    const bool allowed = size.kind == Operand::Kind::kConstant &&
                         (size.constant == 16 || (!bypasses_l1 && (size.constant == 4 || size.constant == 8)));
    if (!allowed) refuse(in, bypasses_l1 ? ".cg copies 16 bytes" : "the size must be 4, 8 or 16");
    in.executor = copy;
  }
}

}  // namespace lily::emulator
