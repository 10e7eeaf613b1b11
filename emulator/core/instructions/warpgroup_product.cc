// wgmma: D = A B + D for a 64 x 16 matrix A, a 16 x N matrix B and a 64 x N matrix D of f32, of a warpgroup.
//
// D is distributed over the threads. With warp w of the group, g = lane / 4 and q = lane % 4:
//   D, register i:  row 16 w + g + 8 (i / 2 % 2), column 8 (i / 4) + 2 q + i % 2
//
// A and B are in shared memory where their descriptors say, in pieces of 16 bytes: eight elements that are adjacent in
// k (K-major), or in the row of A or the column of B (MN-major). With the leading byte offset LBO, the stride byte
// offset SBO, and W pieces (1, 2, 4 or 8) in a row of the swizzle pattern, the pieces are at the start address plus
//   K-major:  piece j in k of row r:       W = 1:      16 (r % 8) + SBO (r / 8) + LBO j
//                                          otherwise:  16 W (r % 8) + SBO (r / 8) + 16 j
//   MN-major: row k of piece u:            W = 1:      16 (k % 8) + LBO (k / 8) + SBO u
//                                          otherwise:  16 W (k % 8) + SBO (k / 8) + LBO (u / W) + 16 (u % W)
// and the swizzle inverts bits of the number of the piece within its 128 bytes: those of the number of these 128 bytes,
// both taken from the address in shared memory. A pattern has eight rows and begins at a multiple of its size. If it
// begins elsewhere, at another multiple of 128, the base offset says how many times 128 bytes above one.
//
// As in mma, products and sums are computed in double and rounded once per instruction.
#include <algorithm>
#include <bit>
#include <cstring>

#include "core/block.h"
#include "core/instructions/families.h"
#include "core/instructions/operands.h"
#include "core/memory.h"
#include "core/warpgroup.h"

namespace lily::emulator {
namespace {

constexpr int kPieceElements = 8;
constexpr uint32_t kPatternRows = 8;

enum Variant : uint8_t { kTransposeA = 1, kTransposeB = 2 };

struct Matrices {
  double a[kProductRows][kProductDepth];
  double b[kProductDepth][kMostProductColumns];
};

// A or B, where it is read to.
struct Factor {
  const char *name;
  bool is_a;
  int extent;  // rows of A, columns of B
  bool mn_major;
  double *to;
  int mn_stride, k_stride;  // in `to`
};

struct Descriptor {
  uint32_t start, leading, stride, base_offset, row_bytes;

  explicit Descriptor(uint64_t bits)
      : start(field(bits, 0)), leading(field(bits, 16)), stride(field(bits, 32)), base_offset(bits >> 49 & 7) {
    constexpr uint32_t kRowBytes[] = {16, 128, 64, 32};
    row_bytes = kRowBytes[bits >> 62];
  }
  static bool is_valid(uint64_t bits) { return (bits & 0x3ff1c000c000c000) == 0; }

  bool has_swizzle() const { return row_bytes > kPieceBytes; }
  uint32_t pattern_bytes() const { return row_bytes * kPatternRows; }

  // Before the swizzle: `index` of the eight elements (in k or mn) and number `row` along the other dimension.
  uint32_t offset_of(bool mn_major, uint32_t index, uint32_t row) const {
    const uint32_t inner = row % kPatternRows * row_bytes, outer = row / kPatternRows;
    if (!mn_major) return inner + outer * stride + index * (has_swizzle() ? kPieceBytes : leading);
    if (!has_swizzle()) return inner + outer * leading + index * stride;
    const uint32_t pieces = row_bytes / kPieceBytes;
    return inner + outer * stride + index / pieces * leading + index % pieces * kPieceBytes;
  }
  uint32_t address_of(bool mn_major, uint32_t index, uint32_t row) const {
    const uint32_t address = start + offset_of(mn_major, index, row);
    const uint32_t line = (address >> 7) - base_offset;
    return address ^ (line & (row_bytes / kPieceBytes - 1)) * kPieceBytes;
  }

 private:
  static uint32_t field(uint64_t bits, int shift) { return static_cast<uint32_t>(bits >> shift & 0x3fff) * 16; }
};

template <class Format>
void widen_piece(const uint8_t *from, double *to, int step) {
  uint16_t elements[kPieceElements];
  std::memcpy(elements, from, sizeof elements);
  for (int i = 0; i < kPieceElements; ++i) to[i * step] = Format::widen(elements[i]);
}

std::string of(const Factor &factor) { return std::string("the descriptor of ") + factor.name; }

void check_descriptor(Thread &thread, const Instruction &in, uint64_t bits, const Factor &factor) {
  const Descriptor descriptor(bits);
  const auto report = [&](FindingKind kind, const std::string &text) {
    thread.report(in, kind, of(factor) + ", " + hexadecimal(bits) + ", " + text);
  };
  if (!Descriptor::is_valid(bits)) report(FindingKind::kBadOperand, "has bits that are not defined");
  if (!descriptor.has_swizzle()) {
    if (descriptor.base_offset != 0) report(FindingKind::kBadOperand, "has a base offset but no swizzle");
    return;
  }
  const uint32_t pattern = descriptor.pattern_bytes(), row = descriptor.row_bytes;
  const uint32_t from_pattern = (descriptor.start - descriptor.base_offset * 128) % pattern;
  if (from_pattern >= row) {
    report(FindingKind::kMisaligned, "begins " + std::to_string(from_pattern) + " bytes into a swizzle pattern of " +
                                         std::to_string(pattern) + " bytes, behind its first row");
  }
  const uint32_t pieces = factor.mn_major ? factor.extent / kPieceElements : kProductDepth / kPieceElements;
  if (from_pattern + std::min(pieces * kPieceBytes, row) > row)
    report(FindingKind::kMisaligned, "begins in a row of the swizzle pattern that ends before the matrix does");
  const bool uses_stride = factor.mn_major || factor.extent > kPieceElements;
  const bool uses_leading = factor.mn_major && pieces * kPieceBytes > row;
  if ((uses_stride && descriptor.stride % pattern != 0) || (uses_leading && descriptor.leading % pattern != 0)) {
    report(FindingKind::kMisaligned,
           "has an offset that is not a multiple of the swizzle pattern, " + std::to_string(pattern) + " bytes");
  }
}

void check_piece(Warpgroup &group, const Instruction &in, const Factor &factor, uint32_t offset) {
  Thread &thread = *group.threads[0];
  Block &block = *thread.block;
  const auto report = [&](FindingKind kind, const std::string &text) {
    thread.report(in, kind,
                  describe_access(kPieceBytes, false) + "shared offset " + std::to_string(offset) + " by " +
                      of(factor) + ", " + text);
  };
  if (offset + kPieceBytes > block.shared.size())
    report(FindingKind::kOutOfBounds, "but the size is " + std::to_string(block.shared.size()));
  if (!block.launch->options.checks) return;
  uint8_t *state = block.shared_state.data() + offset;
  bool in_flight = false, written = true;
  for (uint32_t i = 0; i < kPieceBytes; ++i) {
    in_flight |= stage_of(state[i]) == ByteState::kInFlight;
    written &= stage_of(state[i]) == ByteState::kWritten;
  }
  if (in_flight) {
    report(FindingKind::kAsyncCopy,
           "the destination of an asynchronous copy in flight: its wait is missing or too weak");
  }
  if (!written) report(FindingKind::kUninitialised, "which has not been written");
  for (uint32_t i = 0; i < kPieceBytes; ++i) {
    if (state[i] / kProductReader < kMostProductReaders) state[i] += kProductReader;
  }
}

template <class Format>
void read_factor(Warpgroup &group, const Instruction &in, uint64_t bits, const Factor &factor, ProductReads &reads) {
  const Block &block = *group.threads[0]->block;
  const bool checks = block.launch->options.checks;
  const Descriptor descriptor(bits);
  check_descriptor(*group.threads[0], in, bits, factor);
  const int indices = factor.mn_major ? factor.extent / kPieceElements : kProductDepth / kPieceElements;
  const int rows = factor.mn_major ? kProductDepth : factor.extent;
  Thread *const firsts[] = {group.threads[0], group.threads[32], group.threads[64], group.threads[96]};
  AccessRecord known;
  uint32_t known_fence = 0;
  int32_t known_warp = ProductReads::kAllWarps;
  for (int index = 0; index < indices; ++index) {
    for (int row = 0; row < rows; ++row) {
      const uint32_t offset = descriptor.address_of(factor.mn_major, index, row);
      check_piece(group, in, factor, offset);
      const int mn = factor.mn_major ? index * kPieceElements : row, k = factor.mn_major ? row : index * kPieceElements;
      if (checks) {
        // A warp reads only its own rows of A.
        const int32_t warp = factor.is_a ? mn / 16 : ProductReads::kAllWarps;
        if (warp != known_warp) known_fence = 0;
        known_warp = warp;
        std::span<Thread *const> readers(firsts);
        if (factor.is_a) readers = readers.subspan(warp, 1);
        check_product_read(readers, in, offset, known, known_fence);
        reads.pieces.push_back({offset, warp});
      }
      widen_piece<Format>(block.shared.data() + offset, factor.to + mn * factor.mn_stride + k * factor.k_stride,
                          factor.mn_major ? factor.mn_stride : factor.k_stride);
    }
  }
}

// Registers that another instruction has written since the last wgmma.fence, or that hold tokens where none may be.
void check_registers(const Warpgroup &group, const Instruction &in, const Operand &operand) {
  const uint32_t unfenced = static_cast<uint32_t>(written_after(group.fences) >> 32);
  for (Thread *thread : group.threads) {
    for (const int32_t reg : operand.elements) {
      const uint64_t value = thread->registers[reg];
      if (value >> 32 == unfenced)
        thread->report(in, FindingKind::kAsyncProduct,
                       "a register of the product was written after the last wgmma.fence");
      if (is_token(value))
        thread->report(in, FindingKind::kAsyncProduct,
                       "a register of the product is a result of another wgmma.mma_async in flight");
    }
  }
}

Accumulator &new_accumulator(Warpgroup &group, const Instruction &in) {
  const Operand &d = in.operands[0];
  if (group.threads[0]->block->launch->options.checks) check_registers(group, in, d);
  Accumulator &accumulator = group.accumulators.emplace_back();
  group.last_id = group.last_id % kMostAccumulators + 1;
  accumulator.id = group.last_id;
  accumulator.registers = static_cast<int>(d.elements.size());
  accumulator.values.resize(static_cast<size_t>(kWarpgroupThreads) * accumulator.registers);
  float *value = accumulator.values.data();
  for (const Thread *thread : group.threads) {
    for (int i = 0; i < accumulator.registers; ++i) {
      uint64_t &reg = thread->registers[d.elements[i]];
      *value++ = float_of(reg);
      reg = token_of(accumulator.id, i);
    }
  }
  return accumulator;
}

void check_tokens(const Warpgroup &group, const Instruction &in, const Accumulator &accumulator) {
  const std::span<const int32_t> d = in.operands[0].elements;
  if (static_cast<size_t>(accumulator.registers) != d.size()) {
    group.threads[0]->report(in, FindingKind::kAsyncProduct,
                             "D is the result of a wgmma.mma_async of another shape that is in flight");
  }
  for (Thread *thread : group.threads) {
    for (size_t i = 0; i < d.size(); ++i) {
      if (thread->registers[d[i]] == token_of(accumulator.id, static_cast<int>(i))) continue;
      thread->report(in, FindingKind::kAsyncProduct,
                     "a register of D was written while a wgmma.mma_async to D was in flight");
    }
  }
}

// The accumulator in flight that D stands for, or a new one with the values of D.
Accumulator &accumulator_of(Warpgroup &group, const Instruction &in) {
  const uint64_t first = group.threads[0]->registers[in.operands[0].elements[0]];
  for (Accumulator &each : group.accumulators) {
    if (!is_token(first) || each.id != token_id(first)) continue;
    if (group.threads[0]->block->launch->options.checks) check_tokens(group, in, each);
    if (static_cast<size_t>(each.registers) == in.operands[0].elements.size()) return each;
  }
  return new_accumulator(group, in);
}

void add_product(const Matrices &matrices, int columns, bool adds, Accumulator &accumulator) {
  for (int row = 0; row < kProductRows; ++row) {
    double sums[kMostProductColumns] = {};
    for (int k = 0; k < kProductDepth; ++k) {
      const double factor = matrices.a[row][k];
      const double *b = matrices.b[k];
      for (int column = 0; column < columns; ++column) sums[column] += factor * b[column];
    }
    const int first_thread = row / 16 * 32 + row % 8 * 4, first_register = row % 16 / 8 * 2;
    for (int column = 0; column < columns; ++column) {
      const int thread = first_thread + column % 8 / 2, i = column / 8 * 4 + first_register + column % 2;
      float &value = accumulator.values[static_cast<size_t>(thread) * accumulator.registers + i];
      value = static_cast<float>(adds ? value + sums[column] : sums[column]);
    }
  }
}

void check_operands(const Warpgroup &group, const Instruction &in) {
  Thread &first = *group.threads[0];
  if (group.fences == 0)
    first.report(in, FindingKind::kAsyncProduct, "the warpgroup has not executed a wgmma.fence before");
  for (Thread *thread : group.threads) {
    const bool same = thread->get(in.operands[1]) == first.get(in.operands[1]) &&
                      thread->get(in.operands[2]) == first.get(in.operands[2]) &&
                      thread->predicate(in.operands[3]) == first.predicate(in.operands[3]);
    if (!same) {
      thread->report(in, FindingKind::kBadOperand,
                     "a descriptor or scale-d differs from that of the warpgroup's first thread");
    }
  }
}

// A and B are read once for the warpgroup, 128 bytes per wavefront: bank conflicts are not documented.
void count(const Warpgroup &group, const Instruction &in) {
  Traffic *traffic = group.threads[0]->block->traffic.get();
  if (traffic == nullptr) return;
  const uint64_t rows = kProductRows + kPieceElements * in.vector_width;
  Counters &counters = traffic->at(in.pc);
  counters.matrix_instructions += uint64_t{kProductRows} / 16 * in.vector_width;
  counters.shared_requests += 2;
  counters.shared_wavefronts += rows * kProductDepth * 2 / 128;
  counters.shared_wavefronts_ideal += rows * kProductDepth * 2 / 128;
}

template <class Format>
void multiply(Warpgroup &group, const Instruction &in) {
  const int columns = kPieceElements * in.vector_width;
  const Operand &a = in.operands[1], &b = in.operands[2], &scale_d = in.operands[3];
  const Thread &first = *group.threads[0];
  if (first.block->launch->options.checks) check_operands(group, in);
  count(group, in);
  Matrices matrices{};
  ProductReads &reads = group.reads.emplace_back();
  reads.in = &in;
  reads.group = group.committed;
  read_factor<Format>(group, in, first.get(a),
                      {"A", true, kProductRows, (in.variant & kTransposeA) != 0, matrices.a[0], kProductDepth, 1},
                      reads);
  read_factor<Format>(group, in, first.get(b),
                      {"B", false, columns, (in.variant & kTransposeB) != 0, matrices.b[0], 1, kMostProductColumns},
                      reads);
  Accumulator &accumulator = accumulator_of(group, in);
  accumulator.group = group.committed;
  add_product(matrices, columns, first.predicate(scale_d), accumulator);
}

void fence(Warpgroup &group, const Instruction &) { ++group.fences; }
void commit_group(Warpgroup &group, const Instruction &) { ++group.committed; }
void wait_group(Warpgroup &group, const Instruction &in) {
  complete_products(group, static_cast<uint32_t>(in.operands[0].constant));
}

// A constant that must be one of two values; true for the second.
bool choice(const Instruction &in, int operand, uint32_t first, uint32_t second) {
  const Operand &from = in.operands[operand];
  const uint32_t value = static_cast<uint32_t>(from.constant);
  if (from.kind != Operand::Kind::kConstant || (value != first && value != second))
    refuse(in, "operand " + std::to_string(operand) + " is not a constant that the instruction allows");
  return value == second;
}

void decode_product(Instruction &in, Modifiers &modifiers) {
  for (int columns = 8; columns <= kMostProductColumns; columns += 8) {
    if (modifiers.take("m64n" + std::to_string(columns) + "k16")) in.vector_width = static_cast<uint8_t>(columns / 8);
  }
  if (in.vector_width == 0) refuse(in, "this shape is not supported");
  take_type(in, modifiers, {Type::kF32});
  in.type = take_type(in, modifiers, {Type::kBf16, Type::kF16});
  if (modifiers.take_type() != in.type) refuse(in, "A and B must have the same type");
  expect_operands(in, 8, 8);
  if (in.operands[1].kind == Operand::Kind::kVector) refuse(in, "A in registers is not supported");
  if (Thread::elements(in.operands[0]) != 4 * in.vector_width)
    refuse(in, "the number of registers does not match the shape");
  for (const int32_t reg : in.operands[0].elements) {
    if (reg < 0) refuse(in, "every element of D requires a register");
  }
  for (const int i : {4, 5}) choice(in, i, 1, 1);
  in.variant = 0;
  if (choice(in, 6, 0, 1)) in.variant |= kTransposeA;
  if (choice(in, 7, 0, 1)) in.variant |= kTransposeB;
  in.warpgroup_executor = in.type == Type::kF16 ? multiply<Half> : multiply<Bfloat>;
}

}  // namespace

void decode_warpgroup(Instruction &in, Modifiers &modifiers) {
  in.flow = Flow::kWarpgroup;
  const int which = modifiers.take_any({"fence", "commit_group", "wait_group", "mma_async"});
  if (which < 0) refuse(in, "this operation is not supported");
  if (!modifiers.take("sync") || !modifiers.take("aligned")) refuse(in, "requires .sync.aligned");
  if (which == 3) {
    in.vector_width = 0;
    return decode_product(in, modifiers);
  }
  expect_operands(in, which == 2 ? 1 : 0, which == 2 ? 1 : 0);
  if (which == 2 && in.operands[0].kind != Operand::Kind::kConstant) refuse(in, "requires a constant");
  in.warpgroup_executor = which == 0 ? fence : which == 1 ? commit_group : wait_group;
}

}  // namespace lily::emulator
