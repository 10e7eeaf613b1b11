// Counts requests, sectors and wavefronts.
#include "core/traffic.h"

#include <algorithm>

#include "core/block.h"

namespace lily::emulator {

void SectorSet::add(uint64_t address, uint32_t bytes) {
  for (uint64_t sector = address / kSectorBytes; sector <= (address + bytes - 1) / kSectorBytes; ++sector) {
    pages_[sector / kSectorsPerPage].set(sector % kSectorsPerPage);
  }
}

void SectorSet::merge(const SectorSet &other) {
  for (const auto &[page, sectors] : other.pages_) pages_[page] |= sectors;
}

uint64_t SectorSet::count() const {
  uint64_t total = 0;
  for (const auto &[page, sectors] : pages_) total += sectors.count();
  return total;
}

uint64_t wavefronts(const uint64_t *addresses, const uint8_t *bytes, int lanes) {
  // Accesses of 8 or 16 bytes per lane are served in two or four phases, so that each phase can use every bank once.
  uint8_t widest = 4;
  for (int i = 0; i < lanes; ++i) widest = std::max(widest, bytes[i]);
  const int lanes_per_phase = 32 * 4 / std::max<int>(widest, 4);
  uint64_t total = 0;
  for (int start = 0; start < lanes; start += lanes_per_phase) {
    std::array<std::array<uint64_t, 128>, 32> words;
    std::array<int, 32> used{};
    int most = 0;
    for (int i = start; i < std::min(lanes, start + lanes_per_phase); ++i) {
      if (bytes[i] == 0) continue;
      for (uint64_t word = addresses[i] / 4; word <= (addresses[i] + bytes[i] - 1) / 4; ++word) {
        auto &bank = words[word % 32];
        int &count = used[word % 32];
        if (std::find(bank.begin(), bank.begin() + count, word) != bank.begin() + count) continue;
        bank[count++] = word;
        most = std::max(most, count);
      }
    }
    total += most;
  }
  return total;
}

void Traffic::record(const Thread &thread, const Instruction &in, bool shared, bool write, uint64_t address,
                     uint32_t bytes) {
  if (!shared) (write ? totals_.written : totals_.read).add(address, bytes);
  // cp.async has one request in global and one in shared memory.
  const uint64_t key = static_cast<uint64_t>(in.pc) << 33 | uint64_t{thread.executions[in.pc]} << 1 | shared;
  auto &open = open_[thread.index / 32];
  Request &request = open[key];
  request.shared = shared;
  request.addresses[thread.lane] = address;
  request.bytes[thread.lane] = static_cast<uint8_t>(bytes);
  if (++request.lanes < thread.warp->count) return;
  close(in.pc, request);
  open.erase(key);
}

void Traffic::close(int32_t pc, const Request &request) {
  Counters &counters = at(pc);
  if (request.shared) {
    ++counters.shared_requests;
    counters.shared_wavefronts += wavefronts(request.addresses.data(), request.bytes.data(), 32);
    std::vector<uint64_t> starts;
    for (int i = 0; i < 32; ++i) {
      if (request.bytes[i] > 0) starts.push_back(request.addresses[i]);
    }
    std::sort(starts.begin(), starts.end());
    const uint64_t distinct = std::unique(starts.begin(), starts.end()) - starts.begin();
    const uint64_t bytes = distinct * *std::max_element(request.bytes.begin(), request.bytes.end());
    counters.shared_wavefronts_ideal += std::max<uint64_t>(1, (bytes + 127) / 128);
    return;
  }
  std::vector<uint64_t> sectors;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (int i = 0; i < 32; ++i) {
    if (request.bytes[i] == 0) continue;
    const uint64_t first = request.addresses[i], last = first + request.bytes[i] - 1;
    for (uint64_t sector = first / kSectorBytes; sector <= last / kSectorBytes; ++sector) sectors.push_back(sector);
    ranges.emplace_back(first, last + 1);
  }
  std::sort(sectors.begin(), sectors.end());
  sectors.erase(std::unique(sectors.begin(), sectors.end()), sectors.end());
  // Bytes that several lanes access count once.
  std::sort(ranges.begin(), ranges.end());
  uint64_t bytes = 0, end = 0;
  for (const auto &[from, to] : ranges) {
    bytes += to > std::max(from, end) ? to - std::max(from, end) : 0;
    end = std::max(end, to);
  }
  ++counters.global_requests;
  counters.global_sectors += sectors.size();
  counters.global_sectors_ideal += (bytes + kSectorBytes - 1) / kSectorBytes;
}

void Traffic::matrix_rows(const Instruction &in, const uint64_t *addresses, int rows) {
  Counters &counters = at(in.pc);
  constexpr std::array<uint8_t, 8> kRowBytes = {16, 16, 16, 16, 16, 16, 16, 16};
  ++counters.shared_requests;
  for (int first = 0; first < rows; first += 8) {
    counters.shared_wavefronts += wavefronts(addresses + first, kRowBytes.data(), std::min(8, rows - first));
    ++counters.shared_wavefronts_ideal;
  }
}

void WarpOperation::count_matrix_rows(const Instruction &in, const uint64_t *addresses, int rows) {
  if (block->traffic != nullptr) block->traffic->matrix_rows(in, addresses, rows);
}

void Traffic::merge_into(TrafficTotals &totals, std::mutex &mutex) {
  for (const auto &open : open_) {
    for (const auto &[key, request] : open) close(static_cast<int32_t>(key >> 33), request);
  }
  loads.add_to(totals_.instructions);
  const std::lock_guard lock(mutex);
  totals.instructions.resize(totals_.instructions.size());
  for (size_t i = 0; i < totals_.instructions.size(); ++i) totals.instructions[i] += totals_.instructions[i];
  totals.read.merge(totals_.read);
  totals.written.merge(totals_.written);
}

KernelCounters summarise(const KernelCode &code, const TrafficTotals &totals) {
  KernelCounters counters;
  counters.launches = 1;
  counters.distinct_sectors_read = totals.read.count();
  counters.distinct_sectors_written = totals.written.count();
  for (size_t pc = 0; pc < totals.instructions.size(); ++pc) {
    const Counters &here = totals.instructions[pc];
    if (here.thread_instructions == 0) continue;
    const SourceLine source = source_line(code, code.instructions[pc]),
                     inlined = inlined_at(code, code.instructions[pc]);
    counters.total += here;
    counters.lines[{source.file, source.line, inlined.file, inlined.line}] += here;
  }
  return counters;
}

}  // namespace lily::emulator
