// Detects races: two accesses to the same bytes, at least one of them a write, by threads that are not ordered.
#include <cstring>

#include "core/block.h"

namespace lily::emulator {
namespace {

struct Checker {
  Thread &thread;
  const Instruction &in;
  RaceAccess access;
  FindingKind kind;

  bool ordered(const AccessRecord &record) const {
    if (!record.exists()) return true;
    const Block &block = *thread.block;
    if (record.block != block.linear) return false;
    if (record.thread() == thread.index) return true;
    const uint32_t warp = record.thread() / 32;
    if (warp != thread.index / 32u) return record.epoch() < thread.warp->vector_clock[warp];
    return record.epoch() < thread.epoch || is_product(record);
  }

  // The whole warp has waited for a product of which a read is recorded.
  bool is_product(const AccessRecord &record) const {
    return thread.block->launch->code->instructions[record.pc()].flow == Flow::kWarpgroup;
  }

  // A read of global memory by an instruction whose cache is not coherent.
  bool is_constant(const AccessRecord &read) const {
    return kind == FindingKind::kGlobalRace && read.exists() &&
           thread.block->launch->code->instructions[read.pc()].is_constant;
  }

  bool conflicts(const AccessRecord &record) const { return !(access.strong && record.strong()) && !ordered(record); }

  AccessRecord record() const {
    return {thread.block->linear, thread.index | static_cast<uint32_t>(in.pc) << AccessRecord::kThreadBits,
            thread.epoch << 1 | (access.strong ? 1 : 0)};
  }

  [[noreturn]] void report(const AccessRecord &other, bool other_writes, uint64_t offset) const {
    const char *space = kind == FindingKind::kSharedRace ? "shared" : "global";
    std::string text = std::string(access.write ? "write" : "read") + " of " + space + " byte " +
                       std::to_string(offset) + (kind == FindingKind::kGlobalRace ? " of the allocation" : "") +
                       ", not ordered after the " + (other_writes ? "write" : "read") + " by thread " +
                       std::to_string(other.thread());
    if (other.block != thread.block->linear) text += " of block " + std::to_string(other.block);
    text += " at " + describe(*thread.block->launch->code, other.pc());
    thread.report(in, kind, text);
  }

  // Whatever orders the two accesses.
  [[noreturn]] void report_constant(const AccessRecord &other, uint64_t offset) const {
    thread.report(in, kind,
                  std::string(access.write ? "write" : "read") + " of global byte " + std::to_string(offset) +
                      " of the allocation, which the same kernel " + (access.write ? "reads" : "writes") + " at " +
                      describe(*thread.block->launch->code, other.pc()) +
                      ": ld.global.nc requires memory that nothing writes while the kernel runs");
  }

  bool same_warp(const AccessRecord &other) const {
    return other.block == thread.block->linear && other.thread() / 32 == thread.index / 32u;
  }

  void check(AccessCell &cell, uint8_t bytes, uint64_t offset) const {
    if ((cell.write_bytes & bytes) && conflicts(cell.write)) report(cell.write, true, offset);
    if (in.is_constant && (cell.write_bytes & bytes) && cell.write.exists()) report_constant(cell.write, offset);
    if (access.write && (cell.read_bytes & bytes) && is_constant(cell.read)) report_constant(cell.read, offset);
    if (!access.write) {
      if (cell.read.exists() && !same_warp(cell.read)) {
        cell.other_read = cell.read;
        cell.other_read_bytes = cell.read_bytes;
      }
      cell.read = record();
      cell.read_bytes = bytes;
      return;
    }
    if ((cell.read_bytes & bytes) && conflicts(cell.read)) report(cell.read, false, offset);
    if ((cell.other_read_bytes & bytes) && conflicts(cell.other_read)) report(cell.other_read, false, offset);
    cell.write = record();
    cell.write_bytes = bytes;
    cell.read.block = cell.other_read.block = AccessRecord::kNoBlock;
  }
};

// Mask of the two bytes of cell `index` that [offset, offset + bytes) covers.
uint8_t covered(uint64_t index, uint64_t offset, uint32_t bytes) {
  const uint8_t low = 2 * index >= offset ? 1 : 0, high = 2 * index + 1 < offset + bytes ? 2 : 0;
  return low | high;
}

}  // namespace

void check_shared_race(Thread &thread, const Instruction &in, uint32_t offset, uint32_t bytes, RaceAccess access) {
  const Checker checker{thread, in, access, FindingKind::kSharedRace};
  AccessCell *cells = thread.block->shared_cells.data();
  for (uint32_t i = offset / 2; i <= (offset + bytes - 1) / 2; ++i) {
    checker.check(cells[i], covered(i, offset, bytes), 2 * i);
  }
}

void check_product_read(std::span<Thread *const> readers, const Instruction &in, uint32_t offset, AccessRecord &known,
                        uint32_t &known_fence) {
  const Block &block = *readers[0]->block;
  for (uint32_t cell = offset / 2; cell < (offset + 16) / 2; ++cell) {
    const uint32_t fence = block.proxy_epochs[cell];
    const AccessRecord write = block.shared_cells.empty() ? AccessRecord{} : block.shared_cells[cell].write;
    if (fence != 0 && fence == known_fence && write == known) continue;
    AccessRecord fenced = write;
    fenced.epoch_and_strength = fence << 1;
    for (Thread *reader : readers) {
      const Checker checker{*reader, in, {false, false}, FindingKind::kSharedRace};
      if (checker.conflicts(write)) checker.report(write, true, 2 * cell);
      if (fence != 0 && checker.ordered(fenced)) continue;
      std::string text = "read of shared byte " + std::to_string(2 * cell);
      if (write.exists())
        text += ", written by thread " + std::to_string(write.thread()) + " at " +
                describe(*block.launch->code, write.pc());
      reader->report(in, FindingKind::kProxyFence,
                     text + ": the writing thread has executed no fence.proxy.async between its write and the barrier");
    }
    known = write;
    known_fence = fence;
  }
}

void check_global_race(Thread &thread, const Instruction &in, Allocation &allocation, uint64_t offset, uint32_t bytes,
                       RaceAccess access) {
  constexpr size_t kCells = Allocation::kRacePageBytes / 2;
  const Checker checker{thread, in, access, FindingKind::kGlobalRace};
  if (allocation.race_pages.empty()) {
    allocation.race_pages.resize(allocation.size / Allocation::kRacePageBytes + 1);
  }
  for (uint64_t i = offset / 2; i <= (offset + bytes - 1) / 2; ++i) {
    Allocation::RacePage &page = allocation.race_pages[i / kCells];
    if (page.cells == nullptr) page.cells = std::make_unique<AccessCell[]>(kCells);
    if (page.launch != thread.block->launch->id) {
      page.launch = thread.block->launch->id;
      thread.block->launch->race_pages.emplace_back(&allocation, i / kCells);
      std::fill_n(page.cells.get(), kCells, AccessCell{});
    }
    checker.check(page.cells[i % kCells], covered(i, offset, bytes), 2 * i);
  }
}

std::vector<TouchedPage> touched_pages(const LaunchState &launch) {
  static_assert(TouchedPage::kBytes == Allocation::kRacePageBytes);
  constexpr uint8_t kBoth = 3;
  std::vector<TouchedPage> pages;
  for (const auto &[allocation, index] : launch.race_pages) {
    TouchedPage &page = pages.emplace_back();
    page.allocation = allocation->id;
    page.page = index;
    const AccessCell *cells = allocation->race_pages[index].cells.get();
    const auto add = [&](size_t unit, const AccessRecord &record, uint8_t bytes, bool write) {
      if (!record.exists() || bytes != kBoth) return;
      (write ? page.written : page.read).set(unit);
    };
    for (size_t unit = 0; unit < TouchedPage::kUnits; ++unit) {
      const AccessCell &cell = cells[unit];
      add(unit, cell.write, cell.write_bytes, true);
      add(unit, cell.read, cell.read_bytes, false);
      add(unit, cell.other_read, cell.other_read_bytes, false);
    }
  }
  return pages;
}

}  // namespace lily::emulator
