// mma, ldmatrix, stmatrix and movmatrix. The models place elements according to the fragment layouts of the PTX ISA: by
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
  const char *type_a, *type_b, *type_c;
  int element_bits;
};

// Position of element i of a lane's fragment of A or B. All layouts follow from the number of elements per register.
Position position_a(const Shape &shape, int lane, int i) {
  const int group = lane / 4, index = lane % 4, packed = shape.element_bits == 19 ? 1 : 32 / shape.element_bits;
  const int reg = i / packed;
  return {group + reg % 2 * 8, index * packed + i % packed + reg / 2 * packed * 4};
}
Position position_b(const Shape &shape, int lane, int i) {
  const int group = lane / 4, index = lane % 4, packed = shape.element_bits == 19 ? 1 : 32 / shape.element_bits;
  return {index * packed + i % packed + i / packed * packed * 4, group};
}
Position position_c(int lane, int i) { return {lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2}; }

// Small integers, which every format represents, so that sums are exact.
int number_at(int matrix, int row, int column) { return (matrix * 7 + row * 5 + column * 3 + row * column) % 9 - 4; }

uint32_t element(const std::string &type, int value) {
  if (type == "f16") return static_cast<uint32_t>(encode(kHalf, value));
  if (type == "bf16") return static_cast<uint32_t>(encode(kBfloat, value));
  if (type == "s32" || type == "s8" || type == "u8") return static_cast<uint32_t>(value);
  return static_cast<uint32_t>(encode(kFloat, value));
}

int value_of(const std::string &type, int matrix, int row, int column) {
  const int value = number_at(matrix, row, column);
  if (type == "u8") return (value + 4) * 28 + 3;  // up to 227, above the range of a signed byte
  if (type == "s8") return value * 31;
  return value;
}

std::string vector_of(const char *const *names, int first, int count) {
  std::string text = "{";
  for (int i = 0; i < count; ++i) text += (i > 0 ? ", " : "") + std::string(names[first + i]);
  return text + "}";
}

void check_mma(const Shape &shape, bool satfinite) {
  const bool is_tf32 = shape.element_bits == 19, half_sums = std::string(shape.type_c) == "f16";
  const int packed = is_tf32 ? 1 : 32 / shape.element_bits;
  const int registers_a = 16 * shape.depth / 32 / packed, registers_b = 8 * shape.depth / 32 / packed;
  const int registers_c = half_sums ? 2 : 4, total = registers_a + registers_b + registers_c;
  Words in(32 * 10, 0);
  for (int lane = 0; lane < 32; ++lane) {
    uint32_t *words = &in[lane * 10];
    const uint32_t mask = shape.element_bits == 8 ? 0xff : shape.element_bits == 16 ? 0xffff : 0xffffffff;
    for (int i = 0; i < registers_a * packed; ++i) {
      const Position at = position_a(shape, lane, i);
      words[i / packed] |= (element(shape.type_a, value_of(shape.type_a, 0, at.row, at.column)) & mask)
                           << (i % packed * (32 / packed) % 32);
    }
    for (int i = 0; i < registers_b * packed; ++i) {
      const Position at = position_b(shape, lane, i);
      words[registers_a + i / packed] |= (element(shape.type_b, value_of(shape.type_b, 1, at.row, at.column)) & mask)
                                         << (i % packed * (32 / packed) % 32);
    }
    for (int i = 0; i < 4; ++i) {
      const Position at = position_c(lane, i);
      const int value = satfinite ? (at.row % 2 ? INT32_MAX : INT32_MIN) : number_at(2, at.row, at.column);
      if (half_sums)
        words[registers_a + registers_b + i / 2] |= element("f16", value) << (i % 2 * 16);
      else
        words[registers_a + registers_b + i] = element(shape.type_c, value);
    }
  }
  static const char *const names[] = {"w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "w9"};
  std::string body =
      ".reg .b32 lane;\nmov.u32 lane, %laneid;\nmad.wide.u32 in, lane, 40, in;\n"
      "mad.wide.u32 out, lane, 16, out;\n";
  for (int i = 0; i < total; ++i) {
    body += std::string("ld.global.u32 ") + names[i] + ", [in+" + std::to_string(4 * i) + "];\n";
  }
  const std::string sums = vector_of(names, registers_a + registers_b, registers_c);
  const auto operand = [&](int first, int count) { return "{" + vector_of(names, first, count).substr(1); };
  const std::string opcode = std::string("mma.sync.aligned.") + shape.name + ".row.col" +
                             (satfinite ? ".satfinite." : ".") + shape.type_c + "." + shape.type_a + "." +
                             shape.type_b + "." + shape.type_c;
  body += opcode + " " + sums + ", " + operand(0, registers_a) + ", " + operand(registers_a, registers_b) + ", " +
          sums + ";\n";
  for (int i = 0; i < registers_c; ++i) {
    body += "st.global.u32 [out+" + std::to_string(4 * i) + "], " + names[registers_a + registers_b + i] + ";\n";
  }
  Words out(32 * 4, 0);
  const std::string findings = run_body(body, in, out, 32);
  expect(findings.empty(), opcode + ": " + findings);
  int wrong = 0;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const Position at = position_c(lane, i);
      int64_t sum = satfinite ? (at.row % 2 ? INT32_MAX : INT32_MIN) : number_at(2, at.row, at.column);
      for (int k = 0; k < shape.depth; ++k) {
        sum += static_cast<int64_t>(value_of(shape.type_a, 0, at.row, k)) * value_of(shape.type_b, 1, k, at.column);
      }
      if (satfinite) sum = std::clamp<int64_t>(sum, INT32_MIN, INT32_MAX);
      const uint32_t got = half_sums ? out[lane * 4 + i / 2] >> (i % 2 * 16) & 0xffff : out[lane * 4 + i];
      wrong += got != element(shape.type_c, static_cast<int>(sum));
    }
  }
  expect(wrong == 0, opcode + ": " + std::to_string(wrong) + " of 128 elements differ");
}

void test_mma() {
  static constexpr Shape shapes[] = {
      {"m16n8k8", 8, "f16", "f16", "f32", 16},   {"m16n8k8", 8, "f16", "f16", "f16", 16},
      {"m16n8k16", 16, "f16", "f16", "f32", 16}, {"m16n8k16", 16, "f16", "f16", "f16", 16},
      {"m16n8k8", 8, "bf16", "bf16", "f32", 16}, {"m16n8k16", 16, "bf16", "bf16", "f32", 16},
      {"m16n8k4", 4, "tf32", "tf32", "f32", 19}, {"m16n8k8", 8, "tf32", "tf32", "f32", 19},
      {"m16n8k16", 16, "s8", "s8", "s32", 8},    {"m16n8k16", 16, "u8", "u8", "s32", 8},
      {"m16n8k16", 16, "s8", "u8", "s32", 8},    {"m16n8k16", 16, "u8", "s8", "s32", 8},
      {"m16n8k32", 32, "s8", "s8", "s32", 8},    {"m16n8k32", 32, "u8", "u8", "s32", 8},
      {"m16n8k32", 32, "s8", "u8", "s32", 8},    {"m16n8k32", 32, "u8", "s8", "s32", 8}};
  for (const Shape &shape : shapes) {
    check_mma(shape, false);
    if (shape.element_bits == 8) check_mma(shape, true);
  }
}

// The sums, including c, are computed in double and rounded once. All elements of A are equal, and so are those of B
// and C.
void check_sum(const std::string &types, uint32_t a, uint32_t b, uint32_t c, uint32_t want) {
  const auto number = [](uint32_t bits) { return std::to_string(bits); };
  const bool is_tf32 = types == "tf32", half_sums = types == "f16 sums";
  const std::string type = half_sums ? "f16" : types, sum = half_sums ? "f16" : "f32";
  const std::string sums = half_sums ? "{w6, w7}" : "{w6, w7, w8, w9}";
  std::string body;
  for (int i = 0; i < 4; ++i) body += "mov.b32 w" + std::to_string(i) + ", " + number(a) + ";\n";
  for (int i = 4; i < 6; ++i) body += "mov.b32 w" + std::to_string(i) + ", " + number(b) + ";\n";
  for (int i = 6; i < 10; ++i) body += "mov.b32 w" + std::to_string(i) + ", " + number(c) + ";\n";
  body += std::string("mma.sync.aligned.") + (is_tf32 ? "m16n8k8" : "m16n8k16") + ".row.col." + sum + "." + type + "." +
          type + "." + sum + " " + sums + ", {w0, w1, w2, w3}, {w4, w5}, " + sums +
          ";\nmov.u32 w0, %laneid;\nmad.wide.u32 l0, w0, 4, out;\nst.global.u32 [l0], w7;";
  Words out(32, 0);
  const std::string findings = run_body(body, {0}, out, 32);
  expect(findings.empty(), "sums of " + types + ": " + findings);
  for (const uint32_t got : out) {
    expect(got == want, "sums of " + types + ": " + std::to_string(got) + ", expected " + std::to_string(want));
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
  // f16 sums are not rounded in between either.
  check_sum("f16 sums", half(0x1p-7L), half(0x1p-7L), half(1), half(1 + 0x1p-10L));
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
      for (const bool generic : {false, true}) {
        const char *registers = count == 1 ? "{w0}" : count == 2 ? "{w0, w1}" : "{w0, w1, w2, w3}";
        const std::string opcode = "ldmatrix.sync.aligned.m8n8.x" + std::to_string(count) +
                                   (transposed ? ".trans" : "") + (generic ? ".b16 " : ".shared.b16 ");
        const std::string address = generic ? "cvt.u64.u32 l1, w8;\ncvta.shared.u64 l1, l1;\n" : "";
        Words out(128, 0);
        const std::string findings = run_body(
            fill + address + opcode + registers + (generic ? ", [l1];\n" : ", [w8];\n") + store, tile, out, 32);
        expect(findings.empty(), opcode + ": " + findings);
        int wrong = 0;
        for (int lane = 0; lane < 32; ++lane) {
          for (int i = 0; i < count; ++i) wrong += out[lane * 4 + i] != fragment(tile, i, lane, transposed);
        }
        expect(wrong == 0, opcode + ": " + std::to_string(wrong) + " registers differ");
      }
      // stmatrix must store what ldmatrix of the same form loaded.
      const char *registers = count == 1 ? "{w0}" : count == 2 ? "{w0, w1}" : "{w0, w1, w2, w3}";
      const std::string form =
          ".sync.aligned.m8n8.x" + std::to_string(count) + (transposed ? ".trans" : "") + ".shared.b16 ";
      Words out(128, 0);
      const std::string findings = run_body(
          fill + "ldmatrix" + form + registers + ", [w8];\nbar.warp.sync -1;\n" +
              "mov.u32 w9, 0;\nst.shared.v4.u32 [w8], {w9, w9, w9, w9};\nbar.warp.sync -1;\nstmatrix" + form +
              "[w8], " + registers + ";\nbar.warp.sync -1;\nld.shared.v4.u32 {w0, w1, w2, w3}, [w8];\n" + store,
          tile, out, 32);
      expect(findings.empty(), "stmatrix" + form + findings);
      int wrong = 0;
      for (int i = 0; i < 32 * count; ++i) wrong += out[i] != tile[i];
      expect(wrong == 0, "stmatrix" + form + std::to_string(wrong) + " words differ");
    }
  }
  Words out(128, 0);
  const std::string findings = run_body(fill +
                                            "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {w4}, [w8];\n"
                                            "movmatrix.sync.aligned.m8n8.trans.b16 w0, w4;\n" +
                                            store,
                                        tile, out, 32);
  expect(findings.empty(), "movmatrix: " + findings);
  int wrong = 0;
  for (int lane = 0; lane < 32; ++lane) wrong += out[lane * 4] != fragment(tile, 0, lane, true);
  expect(wrong == 0, "movmatrix: " + std::to_string(wrong) + " registers differ");
}

}  // namespace

void test_matrix() {
  test_mma();
  test_sums();
  test_moves();
}

}  // namespace lily::emulator::tests
