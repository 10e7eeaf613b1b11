// mma.sync.m16n8kK: D = A B + C for a 16 x K matrix A, a K x 8 matrix B and 16 x 8 matrices C and D, distributed over a
// warp.
//
// Each register of A and B holds `packed` elements that are adjacent in k. With g = lane / 4 and q = lane % 4:
//   A, register i, element e: row g + 8 (i % 2), k = packed (q + 4 (i / 2)) + e
//   B, register i, element e: column g,          k = packed (q + 4 i) + e
//   C and D, element i:       row g + 8 (i / 2), column 2 q + i % 2;  as f16, two elements share a register.
//
// Products and sums are computed in double and rounded once. Tensor cores keep fewer bits between the additions, and
// how many is not documented, so their results differ in the last bits. Integer results are exact: they wrap around or,
// with .satfinite, are clamped to the limits.
#include <algorithm>

#include "core/instructions/families.h"
#include "core/instructions/integer_arithmetic.h"
#include "core/instructions/operands.h"

namespace lily::emulator {
namespace {

constexpr int kRows = 16, kColumns = 8, kMaxDepth = 32;

// Layout of the elements in a register: number type for the sums, elements per register, conversion of one element.
struct HalfElements {
  using Number = double;
  static constexpr int kPacked = 2;
  static double get(uint64_t bits, int element, bool) { return Half::widen(bits >> (16 * element)); }
};
struct BfloatElements {
  using Number = double;
  static constexpr int kPacked = 2;
  static double get(uint64_t bits, int element, bool) { return Bfloat::widen(bits >> (16 * element)); }
};
struct Tf32Elements {
  using Number = double;
  static constexpr int kPacked = 1;
  static double get(uint64_t bits, int, bool) { return float_of(bits & ~0x1fffull); }
};
struct ByteElements {
  using Number = int64_t;
  static constexpr int kPacked = 4;
  static int64_t get(uint64_t bits, int element, bool is_signed) {
    return element_of(static_cast<uint32_t>(bits), element, 8, is_signed);
  }
};

template <class Elements>
struct Fragments {
  typename Elements::Number a[kRows][kMaxDepth], b[kMaxDepth][kColumns], c[kRows][kColumns];
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
        fragments.a[g + i % 2 * 8][kPacked * (q + i / 2 * 4) + e] = Elements::get(bits, e, in.flag);
      }
    }
    for (int i = 0; i < Thread::elements(b); ++i) {
      const uint64_t bits = register_of(thread, b, i);
      for (int e = 0; e < kPacked; ++e) {
        fragments.b[kPacked * (q + i * 4) + e][g] = Elements::get(bits, e, in.propagate_nan);
      }
    }
  });
}

template <class Elements>
void gather_sums(const WarpOperation &operation, const Instruction &in, Fragments<Elements> &fragments) {
  const Operand &c = in.operands[3];
  operation.each([&](int lane, Thread &thread) {
    for (int i = 0; i < 4; ++i) {
      auto &to = fragments.c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
      if (in.type == Type::kS32) {
        to = static_cast<int32_t>(register_of(thread, c, i));
      } else if (in.type == Type::kF16) {
        to = Half::widen(register_of(thread, c, i / 2) >> (16 * (i % 2)));
      } else {
        to = float_of(register_of(thread, c, i));
      }
    }
  });
}

template <class Elements>
void multiply_add(const Instruction &in, Fragments<Elements> &fragments) {
  using Number = typename Elements::Number;
  for (int row = 0; row < kRows; ++row) {
    Number sums[kColumns] = {};
    for (int k = 0; k < in.vector_width; ++k) {
      const Number factor = fragments.a[row][k];
      for (int column = 0; column < kColumns; ++column) sums[column] += factor * fragments.b[k][column];
    }
    for (int column = 0; column < kColumns; ++column) fragments.c[row][column] += sums[column];
  }
}

uint64_t integer_result(const Instruction &in, int64_t value) {
  if (in.saturate) value = std::clamp<int64_t>(value, INT32_MIN, INT32_MAX);
  return static_cast<uint32_t>(value);
}

template <class Elements>
void scatter(const WarpOperation &operation, const Instruction &in, const Fragments<Elements> &fragments) {
  const Operand &d = in.operands[0];
  operation.each([&](int lane, Thread &thread) {
    const auto &upper = fragments.c[lane / 4], &lower = fragments.c[lane / 4 + 8];
    const int column = lane % 4 * 2;
    const typename Elements::Number values[4] = {upper[column], upper[column + 1], lower[column], lower[column + 1]};
    if (in.type == Type::kF16) {
      for (int i = 0; i < 2; ++i) {
        const uint32_t high = Half::narrow(static_cast<double>(values[2 * i + 1]));
        thread.set_register(Thread::element(d, i), high << 16 | Half::narrow(static_cast<double>(values[2 * i])));
      }
      return;
    }
    for (int i = 0; i < 4; ++i) {
      const uint64_t bits = in.type == Type::kS32 ? integer_result(in, static_cast<int64_t>(values[i]))
                                                  : bits_of(static_cast<float>(values[i]));
      thread.set_register(Thread::element(d, i), bits);
    }
  });
}

template <class Elements>
void multiply_matrices(WarpOperation &operation, const Instruction &in) {
  Fragments<Elements> fragments;
  gather_factors(operation, in, fragments);
  gather_sums(operation, in, fragments);
  multiply_add(in, fragments);
  scatter(operation, in, fragments);
}

struct Form {
  WarpExecutor executor;
  int packed;
  int depth, double_depth;  // the two values of K for this element type
};

Form form_of(const Instruction &in, Type type) {
  switch (type) {
    case Type::kF16: return {multiply_matrices<HalfElements>, 2, 8, 16};
    case Type::kBf16: return {multiply_matrices<BfloatElements>, 2, 8, 16};
    case Type::kTf32: return {multiply_matrices<Tf32Elements>, 1, 4, 8};
    case Type::kS8:
    case Type::kU8: return {multiply_matrices<ByteElements>, 4, 16, 32};
    default: refuse(in, "element type ." + std::string(name_of(type)) + " is not supported");
  }
}

bool is_byte(Type type) { return type == Type::kS8 || type == Type::kU8; }

void check_registers(const Instruction &in, int operand, int count) {
  if (Thread::elements(in.operands[operand]) != count) {
    refuse(in, "operand " + std::to_string(operand) + " requires " + std::to_string(count) + " registers");
  }
}

}  // namespace

void decode_matrix_product(Instruction &in, Modifiers &modifiers) {
  if (!modifiers.take("sync") || !modifiers.take("aligned")) refuse(in, "requires .sync.aligned");
  const std::optional<uint8_t> depth =
      modifiers.take_one<uint8_t>({{"m16n8k4", 4}, {"m16n8k8", 8}, {"m16n8k16", 16}, {"m16n8k32", 32}});
  if (!depth) refuse(in, "this shape is not supported");
  if (!modifiers.take("row") || !modifiers.take("col")) refuse(in, "requires .row.col");
  in.type = take_type(in, modifiers, {Type::kF32, Type::kF16, Type::kS32});
  const Type a = modifiers.take_type(), b = modifiers.take_type();
  if (modifiers.take_type() != in.type) refuse(in, "C and D must have the same type");

  const Form form = form_of(in, a);
  if (a != b && !(is_byte(a) && is_byte(b))) refuse(in, "A and B must have the same type");
  if (*depth != form.depth && *depth != form.double_depth) refuse(in, "this shape does not exist for these types");
  const bool allowed =
      is_byte(a) ? in.type == Type::kS32 : in.type == Type::kF32 || (in.type == Type::kF16 && a == Type::kF16);
  if (!allowed) refuse(in, "the type of C and D does not exist for these types of A and B");
  in.saturate = is_byte(a) && modifiers.take("satfinite");
  // For bytes, these fields say whether A and B are signed.
  in.flag = is_signed(a);
  in.propagate_nan = is_signed(b);

  in.vector_width = *depth;
  expect_operands(in, 4, 4);
  const int sums = in.type == Type::kF16 ? 2 : 4;
  check_registers(in, 0, sums);
  check_registers(in, 1, kRows * *depth / 32 / form.packed);
  check_registers(in, 2, kColumns * *depth / 32 / form.packed);
  check_registers(in, 3, sums);
  in.is_matrix = true;
  in.flow = Flow::kWarp;
  in.warp_executor = form.executor;
}

}  // namespace lily::emulator
