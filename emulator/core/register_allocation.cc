#include "core/register_allocation.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>
#include <utility>

#include "core/register_uses.h"

namespace lily::emulator {
namespace {

class RegisterSet {
 public:
  explicit RegisterSet(size_t registers) : words_((registers + 63) / 64) {}

  bool has(int32_t reg) const { return words_[reg / 64] >> reg % 64 & 1; }
  void add(int32_t reg) { words_[reg / 64] |= uint64_t{1} << reg % 64; }

  // Adds what `live` has and `written` lacks; true if that adds any.
  bool add_difference(const RegisterSet &live, const RegisterSet &written) {
    bool is_new = false;
    for (size_t i = 0; i < words_.size(); ++i) {
      const uint64_t word = words_[i] | (live.words_[i] & ~written.words_[i]);
      is_new |= word != words_[i];
      words_[i] = word;
    }
    return is_new;
  }

  template <class Visit>
  void each(const Visit &visit) const {
    for (size_t i = 0; i < words_.size(); ++i) {
      for (uint64_t rest = words_[i]; rest != 0; rest &= rest - 1)
        visit(static_cast<int32_t>(i * 64 + std::countr_zero(rest)));
    }
  }

 private:
  std::vector<uint64_t> words_;
};

struct BasicBlock {
  BasicBlock(int32_t start, size_t registers) : first(start), written(registers), live(registers) {}

  int32_t first, end = 0;
  std::vector<int32_t> successors;
  RegisterSet written;  // by all executions of the block
  RegisterSet live;     // at its start: read before they are written, here or later
};

bool ends_basic_block(const Instruction &in) {
  return in.target >= 0 || in.flow == Flow::kExit || in.flow == Flow::kTrap;
}

std::vector<BasicBlock> find_basic_blocks(const KernelCode &code) {
  const auto count = static_cast<int32_t>(code.instructions.size());
  std::vector<bool> begins(count, false);
  begins[0] = true;
  for (const Instruction &in : code.instructions) {
    if (!ends_basic_block(in)) continue;
    if (in.pc + 1 < count) begins[in.pc + 1] = true;
    if (in.target >= 0) begins[in.target] = true;
  }
  std::vector<BasicBlock> blocks;
  std::vector<int32_t> block_of(count);
  for (int32_t pc = 0; pc < count; ++pc) {
    if (begins[pc]) blocks.emplace_back(pc, code.initial_registers.size());
    block_of[pc] = static_cast<int32_t>(blocks.size()) - 1;
    blocks.back().end = pc + 1;
  }
  for (BasicBlock &block : blocks) {
    const Instruction &last = code.instructions[block.end - 1];
    if (last.target >= 0) block.successors.push_back(block_of[last.target]);
    const bool continues = !ends_basic_block(last) || last.guard >= 0;
    if (continues && block.end < count) block.successors.push_back(block_of[block.end]);
  }
  return blocks;
}

void find_live_registers(const KernelCode &code, std::vector<BasicBlock> &blocks) {
  for (BasicBlock &block : blocks) {
    const auto read = [&](int32_t reg) {
      if (!block.written.has(reg)) block.live.add(reg);
    };
    for (int32_t pc = block.first; pc < block.end; ++pc) {
      const Instruction &in = code.instructions[pc];
      each_register_read(in, read);
      if (in.guard >= 0) {
        // The old value of the result stays where the guard is false.
        read(in.guard);
        each_register_written(in, read);
      }
      each_register_written(in, [&](int32_t reg) { block.written.add(reg); });
    }
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = blocks.size(); i-- > 0;) {
      for (const int32_t successor : blocks[i].successors)
        changed |= blocks[i].live.add_difference(blocks[successor].live, blocks[i].written);
    }
  }
}

// The first and the last instruction between which a register holds a value that is needed.
struct Lifetime {
  int32_t first = INT32_MAX, last = -1;

  void add(int32_t pc) {
    first = std::min(first, pc);
    last = std::max(last, pc);
  }
};

std::vector<Lifetime> find_lifetimes(const KernelCode &code, const std::vector<BasicBlock> &blocks) {
  std::vector<Lifetime> lifetimes(code.initial_registers.size());
  const auto add_at = [&](int32_t pc) { return [&lifetimes, pc](int32_t reg) { lifetimes[reg].add(pc); }; };
  for (const BasicBlock &block : blocks) {
    block.live.each(add_at(block.first));
    for (const int32_t successor : block.successors) blocks[successor].live.each(add_at(block.end - 1));
  }
  for (const Instruction &in : code.instructions) {
    each_register_read(in, add_at(in.pc));
    each_register_written(in, add_at(in.pc));
    if (in.guard >= 0) lifetimes[in.guard].add(in.pc);
  }
  return lifetimes;
}

// The new number of each register; Operand::kNone for those that no instruction names. The numbers below `fixed` belong
// to the registers that no instruction writes: constants, addresses and special registers.
std::vector<int32_t> number_registers(const KernelCode &code, const std::vector<Lifetime> &lifetimes, int32_t &fixed) {
  std::vector<bool> is_written(lifetimes.size(), false);
  for (const Instruction &in : code.instructions)
    each_register_written(in, [&](int32_t reg) { is_written[reg] = true; });

  std::vector<int32_t> numbers(lifetimes.size(), Operand::kNone), shared;
  fixed = 0;
  for (size_t reg = 0; reg < lifetimes.size(); ++reg) {
    if (lifetimes[reg].last < 0) continue;
    if (is_written[reg])
      shared.push_back(static_cast<int32_t>(reg));
    else
      numbers[reg] = fixed++;
  }

  // A linear scan: in the order of their first instructions, registers take the lowest number that is free.
  std::sort(shared.begin(), shared.end(),
            [&](int32_t a, int32_t b) { return std::pair(lifetimes[a].first, a) < std::pair(lifetimes[b].first, b); });
  using Ending = std::pair<int32_t, int32_t>;  // the last instruction, and the number
  std::priority_queue<Ending, std::vector<Ending>, std::greater<>> in_use;
  std::priority_queue<int32_t, std::vector<int32_t>, std::greater<>> free;
  int32_t next = fixed;
  for (const int32_t reg : shared) {
    for (; !in_use.empty() && in_use.top().first < lifetimes[reg].first; in_use.pop()) free.push(in_use.top().second);
    if (free.empty()) free.push(next++);
    numbers[reg] = free.top();
    free.pop();
    in_use.emplace(lifetimes[reg].last, numbers[reg]);
  }
  return numbers;
}

}  // namespace

void allocate_registers(KernelCode &code) {
  std::vector<BasicBlock> blocks = find_basic_blocks(code);
  find_live_registers(code, blocks);
  const std::vector<Lifetime> lifetimes = find_lifetimes(code, blocks);
  int32_t fixed = 0;
  const std::vector<int32_t> numbers = number_registers(code, lifetimes, fixed);

  const auto renumber = [&](int32_t &reg) {
    if (reg >= 0) reg = numbers[reg];
  };
  for (std::vector<int32_t> &elements : code.vectors) std::for_each(elements.begin(), elements.end(), renumber);
  for (Instruction &in : code.instructions) {
    renumber(in.guard);
    for (Operand &operand : in.operands) {
      renumber(operand.reg);
      renumber(operand.second);
    }
    cache_registers(in);
  }
  std::erase_if(code.special_registers, [&](const KernelCode::Special &special) { return numbers[special.reg] < 0; });
  for (KernelCode::Special &special : code.special_registers) renumber(special.reg);

  // What a register holds before it is written: not 0, which would hide that a sum is not cleared, but NaN in every
  // floating-point type of up to 32 bits.
  constexpr uint64_t kUnwritten = 0xffffffff;
  std::vector<uint64_t> initial(static_cast<size_t>(fixed), kUnwritten);
  for (size_t reg = 0; reg < numbers.size(); ++reg) {
    if (numbers[reg] < 0) continue;
    if (numbers[reg] >= static_cast<int32_t>(initial.size())) initial.resize(numbers[reg] + 1, kUnwritten);
    if (numbers[reg] < fixed) initial[numbers[reg]] = code.initial_registers[reg];
  }
  code.initial_registers = std::move(initial);
}

}  // namespace lily::emulator
