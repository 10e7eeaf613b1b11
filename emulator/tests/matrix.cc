// mma and ldmatrix. The models place elements according to the fragment layouts of the PTX ISA: by
// the lane's group (lane / 4) and its index in the group (lane % 4).
#include <algorithm>
#include <utility>

#include "tests/soft_arithmetic.h"

namespace lily::emulator::tests {
namespace {

using Words = std::vector<uint32_t>;

struct Position {
  int row, column;
};

struct Shape {
  const char *name;
  int depth;
  const char *type;
  int packed;  // elements per register
};

// Position of element i of a lane's fragment of A or B. All layouts follow from the number of elements per register.
Position position_a(const Shape &shape, int lane, int i) {
  const int group = lane / 4, index = lane % 4, packed = shape.packed;
  const int reg = i / packed;
  return {group + reg % 2 * 8, index * packed + i % packed + reg / 2 * packed * 4};
}
Position position_b(const Shape &shape, int lane, int i) {
  const int group = lane / 4, index = lane % 4, packed = shape.packed;
  return {index * packed + i % packed + i / packed * packed * 4, group};
}
Position position_c(int lane, int i) { return {lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2}; }

// Small integers, which every format represents, so that sums are exact.
int number_at(int matrix, int row, int column) { return (matrix * 7 + row * 5 + column * 3 + row * column) % 9 - 4; }

uint32_t element(const std::string &type, int value) {
  if (type == "f16") return static_cast<uint32_t>(encode(kHalf, value));
  if (type == "bf16") return static_cast<uint32_t>(encode(kBfloat, value));
  return static_cast<uint32_t>(encode(kFloat, value));
}

std::string vector_of(const char *const *names, int first, int count) {
  std::string text = "{";
  for (int i = 0; i < count; ++i) text += (i > 0 ? ", " : "") + std::string(names[first + i]);
  return text + "}";
}

void check_mma(const Shape &shape) {
  const int packed = shape.packed, bits = 32 / packed;
  const int registers_a = 16 * shape.depth / 32 / packed, registers_b = 8 * shape.depth / 32 / packed;
  const int before_c = registers_a + registers_b;
  Words in(32 * 10, 0);
  for (int lane = 0; lane < 32; ++lane) {
    uint32_t *words = &in[lane * 10];
    for (int i = 0; i < registers_a * packed; ++i) {
      const Position at = position_a(shape, lane, i);
      words[i / packed] |= element(shape.type, number_at(0, at.row, at.column)) << (i % packed * bits % 32);
    }
    for (int i = 0; i < registers_b * packed; ++i) {
      const Position at = position_b(shape, lane, i);
      words[registers_a + i / packed] |= element(shape.type, number_at(1, at.row, at.column))
                                         << (i % packed * bits % 32);
    }
    for (int i = 0; i < 4; ++i) {
      const Position at = position_c(lane, i);
      words[before_c + i] = element("f32", number_at(2, at.row, at.column));
    }
  }
  static const char *const names[] = {"w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "w9"};
  std::string body =
      ".reg .b32 lane;\nmov.u32 lane, %laneid;\nmad.wide.u32 in, lane, 40, in;\n"
      "mad.wide.u32 out, lane, 16, out;\n";
  for (int i = 0; i < before_c + 4; ++i) {
    body += std::string("ld.global.u32 ") + names[i] + ", [in+" + std::to_string(4 * i) + "];\n";
  }
  const std::string type = shape.type, sums = vector_of(names, before_c, 4);
  const std::string opcode =
      std::string("mma.sync.aligned.") + shape.name + ".row.col.f32." + type + "." + type + ".f32";
  body += opcode + " " + sums + ", " + vector_of(names, 0, registers_a) + ", " +
          vector_of(names, registers_a, registers_b) + ", " + sums + ";\nst.global.v4.u32 [out], " + sums + ";\n";
  Words out(32 * 4, 0);
  const std::string findings = run_body(body, in, out, 32);
  expect(findings.empty(), opcode + ": " + findings);
  int wrong = 0;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const Position at = position_c(lane, i);
      int sum = number_at(2, at.row, at.column);
      for (int k = 0; k < shape.depth; ++k) sum += number_at(0, at.row, k) * number_at(1, k, at.column);
      wrong += out[lane * 4 + i] != element("f32", sum);
    }
  }
  expect(wrong == 0, opcode + ": " + std::to_string(wrong) + " of 128 elements differ");
}

void test_mma() {
  for (const Shape &shape :
       {Shape{"m16n8k8", 8, "f16", 2}, Shape{"m16n8k16", 16, "f16", 2}, Shape{"m16n8k8", 8, "bf16", 2},
        Shape{"m16n8k16", 16, "bf16", 2}, Shape{"m16n8k8", 8, "tf32", 1}})
    check_mma(shape);
}

// The sums, including c, are computed in double and rounded once. All elements of A are equal, and so are those of B
// and C.
void check_sum(const std::string &type, uint32_t a, uint32_t b, uint32_t c, uint32_t want) {
  const auto number = [](uint32_t bits) { return std::to_string(bits); };
  const std::string shape = type == "tf32" ? "m16n8k8" : "m16n8k16", sums = "{w6, w7, w8, w9}";
  std::string body;
  for (int i = 0; i < 4; ++i) body += "mov.b32 w" + std::to_string(i) + ", " + number(a) + ";\n";
  for (int i = 4; i < 6; ++i) body += "mov.b32 w" + std::to_string(i) + ", " + number(b) + ";\n";
  for (int i = 6; i < 10; ++i) body += "mov.b32 w" + std::to_string(i) + ", " + number(c) + ";\n";
  body += "mma.sync.aligned." + shape + ".row.col.f32." + type + "." + type + ".f32 " + sums +
          ", {w0, w1, w2, w3}, {w4, w5}, " + sums +
          ";\nmov.u32 w0, %laneid;\nmad.wide.u32 l0, w0, 4, out;\nst.global.u32 [l0], w7;";
  Words out(32, 0);
  const std::string findings = run_body(body, {0}, out, 32);
  expect(findings.empty(), "sums of " + type + ": " + findings);
  for (const uint32_t got : out) {
    expect(got == want, "sums of " + type + ": " + std::to_string(got) + ", expected " + std::to_string(want));
  }
}

void test_sums() {
  const auto half = [](Real x) { return static_cast<uint32_t>(encode(kHalf, x)) * 0x10001; };
  const auto bfloat = [](Real x) { return static_cast<uint32_t>(encode(kBfloat, x)) * 0x10001; };
  const auto single = [](Real x) { return static_cast<uint32_t>(encode(kFloat, x)); };
  // Each of the sixteen addends alone would be lost in an f32 sum with 1; together they are not.
  check_sum("f16", half(0x1p-13L), half(0x1p-12L), single(1), single(1 + 0x1p-21L));
  check_sum("bf16", bfloat(0x1p-13L), bfloat(0x1p-12L), single(1), single(1 + 0x1p-21L));
  // Half an ulp above 1 + 1 ulp rounds to even.
  check_sum("f16", half(0x1p-14L), half(0x1p-14L), single(1 + 0x1p-23L), single(1 + 0x1p-22L));
  // The low 13 bits of tf32 operands are ignored.
  check_sum("tf32", single(1 + 0x1p-11L), single(2 + 0x1p-11L), single(0.5L), single(16.5L));
  check_sum("tf32", single(1 + 0x1p-10L), single(1), single(0), single(8 + 0x1p-7L));
}

// An 8 x 8 matrix of 16-bit elements: lane l holds elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4, or of that column
// with .trans.
uint32_t fragment(const Words &tile, int matrix, int lane, bool transposed) {
  uint32_t word = 0;
  for (int i = 0; i < 2; ++i) {
    int row = lane / 4, column = lane % 4 * 2 + i;
    if (transposed) std::swap(row, column);
    const uint32_t pair = tile[matrix * 32 + row * 4 + column / 2];
    word |= (pair >> (column % 2 * 16) & 0xffff) << (16 * i);
  }
  return word;
}

Words tile_of(int matrices) {
  Words tile(matrices * 32);
  for (size_t i = 0; i < tile.size(); ++i) tile[i] = static_cast<uint32_t>((2 * i + 1) << 16 | 2 * i);
  return tile;
}

void test_moves() {
  // Row r of the tile is 16 bytes at offset 16 r in shared memory.
  const std::string fill =
      ".shared .align 16 .b8 tile[512];\n.reg .b32 lane;\nmov.u32 lane, %laneid;\nmov.u32 w8, tile;\n"
      "mad.lo.u32 w8, lane, 16, w8;\nmad.wide.u32 l0, lane, 16, in;\nmad.wide.u32 out, lane, 16, out;\n"
      "ld.global.v4.u32 {w0, w1, w2, w3}, [l0];\nst.shared.v4.u32 [w8], {w0, w1, w2, w3};\nbar.warp.sync -1;\n";
  const std::string store = "st.global.v4.u32 [out], {w0, w1, w2, w3};\n";
  const Words tile = tile_of(4);
  for (const bool transposed : {false, true}) {
    for (const int count : {1, 2, 4}) {
      const char *registers = count == 1 ? "{w0}" : count == 2 ? "{w0, w1}" : "{w0, w1, w2, w3}";
      const std::string opcode =
          "ldmatrix.sync.aligned.m8n8.x" + std::to_string(count) + (transposed ? ".trans" : "") + ".shared.b16 ";
      Words out(128, 0);
      const std::string findings = run_body(fill + opcode + registers + ", [w8];\n" + store, tile, out, 32);
      expect(findings.empty(), opcode + ": " + findings);
      int wrong = 0;
      for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < count; ++i) wrong += out[lane * 4 + i] != fragment(tile, i, lane, transposed);
      }
      expect(wrong == 0, opcode + ": " + std::to_string(wrong) + " registers differ");
    }
  }
}

}  // namespace

void test_matrix() {
  test_mma();
  test_sums();
  test_moves();
}

}  // namespace lily::emulator::tests
