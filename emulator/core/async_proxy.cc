// The products of warpgroups read shared memory through the async proxy. A write by another instruction, cp.async
// included, is visible to them only after a fence.proxy.async. The PTX ISA requires the fence somewhere on the path
// from the write to the read; the emulator requires it of the thread that wrote, before the barrier that orders the
// read after the write.
#include <algorithm>

#include "core/block.h"

namespace lily::emulator {

void note_shared_write(Thread &thread, uint32_t offset, uint32_t bytes) {
  std::vector<uint32_t> &epochs = thread.block->proxy_epochs;
  if (epochs.empty()) return;
  std::fill(epochs.begin() + offset / 2, epochs.begin() + (offset + bytes + 1) / 2, 0);
  thread.unfenced.emplace_back(offset, bytes);
}

void Thread::fence_proxy() {
  for (const auto &[offset, bytes] : unfenced) {
    for (uint32_t cell = offset / 2; cell < (offset + bytes + 1) / 2; ++cell) {
      // Another thread may have written since.
      if (block->shared_cells.empty() || block->shared_cells[cell].write.thread() == index)
        block->proxy_epochs[cell] = epoch;
    }
  }
  unfenced.clear();
}

}  // namespace lily::emulator
