// mma.sync.m16n8kK: D = A B + C for a 16 x K matrix A, a K x 8 matrix B and 16 x 8 matrices C and D, distributed over a
// warp.
//
// Each register of A and B holds `packed` elements that are adjacent in k. With g = lane / 4 and q = lane % 4:
//   A, register i, element e: row g + 8 (i % 2), k = packed (q + 4 (i / 2)) + e
//   B, register i, element e: column g,          k = packed (q + 4 i) + e
//   C and D, element i:       row g + 8 (i / 2), column 2 q + i % 2
//
// Products and sums are computed in double and rounded once. Tensor cores keep fewer bits between the additions, and
// how many is not documented, so their results differ in the last bits.
#include "core/instructions/families.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

constexpr int kRows = 16, kColumns = 8, kMaxDepth = 16;

// Layout of the elements in a register: number type for the sums, elements per register, conversion of one element.
struct HalfElements {
  static constexpr int kPacked = 2;
  static double get(uint64_t bits, int element) { return Half::widen(bits >> (16 * element)); }
};
struct BfloatElements {
  static constexpr int kPacked = 2;
  static double get(uint64_t bits, int element) { return Bfloat::widen(bits >> (16 * element)); }
};
struct Tf32Elements {
  static constexpr int kPacked = 1;
  static double get(uint64_t bits, int) { return float_of(bits & ~0x1fffull); }
};
template <class Elements>
struct Fragments {
  double a[kRows][kMaxDepth], b[kMaxDepth][kColumns], c[kRows][kColumns];
};

uint64_t register_of(const Thread &thread, const Operand &operand, int i) {
  return thread.registers[Thread::element(operand, i)];
}

template <class Elements>
void gather_factors(const WarpOperation &operation, const Instruction &in, Fragments<Elements> &fragments) {
  constexpr int kPacked = Elements::kPacked;
  const Operand &a = in.operands[1], &b = in.operands[2];
  operation.each([&](int lane, Thread &thread) {
    const int g = lane / 4, q = lane % 4;
    for (int i = 0; i < Thread::elements(a); ++i) {
      const uint64_t bits = register_of(thread, a, i);
      for (int e = 0; e < kPacked; ++e) {
        fragments.a[g + i % 2 * 8][kPacked * (q + i / 2 * 4) + e] = Elements::get(bits, e);
      }
    }
    for (int i = 0; i < Thread::elements(b); ++i) {
      const uint64_t bits = register_of(thread, b, i);
      for (int e = 0; e < kPacked; ++e) {
        fragments.b[kPacked * (q + i * 4) + e][g] = Elements::get(bits, e);
      }
    }
  });
}

// Visits the elements of C and D: visit(thread, index of the lane's element, element).
template <class Elements, class Visit>
void each_sum(const WarpOperation &operation, Fragments<Elements> &fragments, const Visit &visit) {
  operation.each([&](int lane, Thread &thread) {
    for (int i = 0; i < 4; ++i) visit(thread, i, fragments.c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
  });
}

template <class Elements>
void multiply_add(const Instruction &in, Fragments<Elements> &fragments) {
  for (int row = 0; row < kRows; ++row) {
    double sums[kColumns] = {};
    for (int k = 0; k < in.vector_width; ++k) {
      const double factor = fragments.a[row][k];
      for (int column = 0; column < kColumns; ++column) sums[column] += factor * fragments.b[k][column];
    }
    for (int column = 0; column < kColumns; ++column) fragments.c[row][column] += sums[column];
  }
}

template <class Elements>
void multiply_matrices(WarpOperation &operation, const Instruction &in) {
  Fragments<Elements> fragments;
  gather_factors(operation, in, fragments);
  each_sum(operation, fragments,
           [&](Thread &thread, int i, double &sum) { sum = float_of(register_of(thread, in.operands[3], i)); });
  multiply_add(in, fragments);
  each_sum(operation, fragments, [&](Thread &thread, int i, double &sum) {
    thread.set_register(Thread::element(in.operands[0], i), bits_of(static_cast<float>(sum)));
  });
}

void check_registers(const Instruction &in, int operand, int count) {
  if (Thread::elements(in.operands[operand]) != count) {
    refuse(in, "operand " + std::to_string(operand) + " requires " + std::to_string(count) + " registers");
  }
}

}  // namespace

void decode_matrix_product(Instruction &in, Modifiers &modifiers) {
  if (!modifiers.take("sync") || !modifiers.take("aligned")) refuse(in, "requires .sync.aligned");
  const std::optional<uint8_t> depth = modifiers.take_one<uint8_t>({{"m16n8k8", 8}, {"m16n8k16", 16}});
  if (!depth) refuse(in, "this shape is not supported");
  if (!modifiers.take("row") || !modifiers.take("col")) refuse(in, "requires .row.col");
  take_type(in, modifiers, {Type::kF32});
  const Type type = take_type(in, modifiers, {Type::kF16, Type::kBf16, Type::kTf32});
  if (modifiers.take_type() != type) refuse(in, "A and B must have the same type");
  take_type(in, modifiers, {Type::kF32});
  if (type == Type::kTf32 && *depth != 8) refuse(in, "this shape is not supported for .tf32");

  in.vector_width = *depth;
  expect_operands(in, 4, 4);
  const int packed = type == Type::kTf32 ? 1 : 2;
  check_registers(in, 0, 4);
  check_registers(in, 1, kRows * *depth / 32 / packed);
  check_registers(in, 2, kColumns * *depth / 32 / packed);
  check_registers(in, 3, 4);
  in.is_matrix = true;
  in.flow = Flow::kWarp;
  in.warp_executor = type == Type::kF16    ? multiply_matrices<HalfElements>
                     : type == Type::kBf16 ? multiply_matrices<BfloatElements>
                                           : multiply_matrices<Tf32Elements>;
}

}  // namespace lily::emulator
