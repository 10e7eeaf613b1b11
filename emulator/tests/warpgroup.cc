// wgmma. The models place A and B in shared memory atom by atom, as the figures of the PTX ISA show them: an atom has
// eight rows, whose pieces of 16 bytes are permuted in each row.
#include <algorithm>
#include <string>

#include "core/emulator.h"
#include "tests/soft_arithmetic.h"

namespace lily::emulator::tests {
namespace {

using Words = std::vector<uint32_t>;

constexpr int kRows = 64, kDepth = 64, kSteps = kDepth / 16;

enum Swizzle { kNone, k128, k64, k32 };  // as in a descriptor

int row_bytes(Swizzle swizzle) { return swizzle == k128 ? 128 : swizzle == k64 ? 64 : swizzle == k32 ? 32 : 16; }

// Where piece `piece` of row `row` of an atom is: the pictures show that with 128 bytes each row has a permutation of
// its own, with 64 bytes each pair of rows, and with 32 bytes each four of them.
int permuted(Swizzle swizzle, int row, int piece) {
  switch (swizzle) {
    case k128: return piece ^ row;
    case k64: return piece ^ row / 2;
    case k32: return piece ^ row / 4;
    default: return piece;
  }
}

// A matrix of `extent` rows (of A) or columns (of B) and 64 k in shared memory.
struct Tile {
  Swizzle swizzle;
  bool mn_major;
  int extent;
  int base;  // in shared memory
  int gap;   // bytes between atoms
  int base_offset = 0;

  int pieces() const { return row_bytes(swizzle) / 16; }
  int atom_bytes() const { return 8 * row_bytes(swizzle) + gap; }
  // Atoms along mn and along k. Those along mn are adjacent.
  int atoms_mn() const { return mn_major ? (extent / 8 + pieces() - 1) / pieces() : extent / 8; }
  int atoms_k() const { return mn_major ? kDepth / 8 : kDepth / 8 / pieces(); }
  int bytes() const { return atoms_mn() * atoms_k() * atom_bytes(); }
  int mn_step() const { return atom_bytes(); }
  int k_step() const { return atom_bytes() * atoms_mn(); }

  int offset(int mn, int k) const {
    const int across = mn_major ? mn : k, row = mn_major ? k % 8 : mn % 8;  // along the bytes of a row of the atom
    const int piece = across / 8 % pieces(), outer = across / 8 / pieces();
    const int atom = mn_major ? outer * mn_step() + k / 8 * k_step() : mn / 8 * mn_step() + outer * k_step();
    return base + atom + row * row_bytes(swizzle) + permuted(swizzle, row, piece) * 16 + across % 8 * 2;
  }

  // Of the 16 k from 16 step.
  uint64_t descriptor(int step) const {
    uint64_t leading = 1, stride = 0;  // in pieces
    int start = base;
    if (mn_major) {
      start += 2 * step * k_step();
      leading = (swizzle == kNone ? k_step() : mn_step()) / 16;
      stride = (swizzle == kNone ? mn_step() : k_step()) / 16;
    } else {
      const int piece = 2 * step;
      start += piece / pieces() * k_step() + piece % pieces() * 16;
      if (swizzle == kNone) leading = k_step() / 16;
      stride = mn_step() / 16;
    }
    return static_cast<uint64_t>(swizzle) << 62 | static_cast<uint64_t>(base_offset) << 49 | stride << 32 |
           leading << 16 | static_cast<uint64_t>(start / 16);
  }
};

// Small integers, so that sums are exact.
int number_at(int matrix, int mn, int k) { return (matrix * 7 + mn * 5 + k * 3 + mn * k) % 9 - 4; }

void place(const Tile &tile, int matrix, const Format &format, Words &image) {
  for (int mn = 0; mn < tile.extent; ++mn) {
    for (int k = 0; k < kDepth; ++k) {
      const int offset = tile.offset(mn, k);
      const auto bits = static_cast<uint32_t>(encode(format, number_at(matrix, mn, k)));
      image[offset / 4] |= bits << (offset % 4 * 8);
    }
  }
}

std::string list(const std::string &name, int count) {
  std::string text = "{";
  for (int i = 0; i < count; ++i) text += (i > 0 ? ", " : "") + name + std::to_string(i);
  return text + "}";
}

std::string number(uint64_t value) { return std::to_string(value); }

// Copies `bytes` from `in` to the shared array `tile`, and makes them visible to wgmma.
std::string fill(int bytes) {
  return ".reg .b32 index, at;\nmov.u32 index, %tid.x;\nmov.u32 w0, 0;\nFILL:\nmad.lo.u32 at, w0, 128, index;\n"
         "mul.lo.u32 at, at, 16;\nsetp.lt.u32 p0, at, " +
         number(bytes) +
         ";\ncvt.u64.u32 l0, at;\nadd.u64 l0, l0, in;\nmov.u32 w9, tile;\nadd.u32 w9, w9, at;\n"
         "@p0 ld.global.v4.u32 {w4, w5, w6, w7}, [l0];\n@p0 st.shared.v4.u32 [w9], {w4, w5, w6, w7};\n"
         "add.u32 w0, w0, 1;\n@p0 bra FILL;\nfence.proxy.async.shared::cta;\nbar.sync 0;\n";
}

struct Product {
  std::string type = "bf16";
  int columns = 8;
  Swizzle swizzle_a = k128, swizzle_b = k128;
  bool mn_major_a = false, mn_major_b = false;
  bool adds = true;  // the first product adds to D
  int gap = 0;
  int base_offset = 0;  // of both
};

int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

void check_product(const Product &product) {
  const Format &format = product.type == "f16" ? kHalf : kBfloat;
  const auto gap_of = [&](Swizzle swizzle) { return product.gap * (swizzle == kNone ? 16 : 8 * row_bytes(swizzle)); };
  const Tile a{product.swizzle_a,         product.mn_major_a, kRows, 1024 + 128 * product.base_offset,
               gap_of(product.swizzle_a), product.base_offset};
  const Tile b{product.swizzle_b,         product.mn_major_b,
               product.columns,           round_up(a.base + a.bytes(), 1024) + 128 * product.base_offset,
               gap_of(product.swizzle_b), product.base_offset};
  const int bytes = round_up(b.base + b.bytes(), 16), registers = product.columns / 2;
  Words image(bytes / 4, 0);
  place(a, 0, format, image);
  place(b, 1, format, image);
  const std::string opcode =
      "wgmma.mma_async.sync.aligned.m64n" + number(product.columns) + "k16.f32." + product.type + "." + product.type;
  const std::string what = opcode + ", A " + number(row_bytes(a.swizzle)) + (a.mn_major ? " MN" : " K") + ", B " +
                           number(row_bytes(b.swizzle)) + (b.mn_major ? " MN" : " K") + ", gap " + number(product.gap) +
                           ", base offset " + number(product.base_offset);

  std::string body = ".reg .f32 d<" + number(registers) + ">;\n" + fill(bytes) + "mad.wide.u32 out, index, " +
                     number(4 * registers) + ", out;\n";
  // D begins with 3 plus the number of the thread.
  body += "cvt.rn.f32.u32 d0, index;\nadd.f32 d0, d0, 0f40400000;\n";
  for (int i = 1; i < registers; ++i) body += "mov.f32 d" + number(i) + ", d0;\n";
  body += std::string("setp.ne.u32 p1, ") + (product.adds ? "1" : "0") + ", 0;\nsetp.ne.u32 p0, 1, 0;\n";
  for (int step = 0; step < kSteps; ++step) {
    if (step == 0) body += "wgmma.fence.sync.aligned;\n";
    body += opcode + " " + list("d", registers) + ", " + number(a.descriptor(step)) + ", " +
            number(b.descriptor(step)) + ", " + (step == 0 ? "p1" : "p0") + ", 1, 1, " + (a.mn_major ? "1, " : "0, ") +
            (b.mn_major ? "1" : "0") + ";\n";
  }
  body += "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
  for (int i = 0; i < registers; ++i) body += "st.global.f32 [out+" + number(4 * i) + "], d" + number(i) + ";\n";

  Words out(128 * registers, 0);
  const std::string findings =
      run_body(body, image, out, 128, ".shared .align 1024 .b8 tile[" + number(bytes) + "];\n");
  expect(findings.empty(), what + ": " + findings);
  int wrong = 0;
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < product.columns; ++column) {
      // The fragments of mma.m16n8 side by side, one row of them per warp.
      const int lane = row % 8 * 4 + column % 8 / 2, thread = row / 16 * 32 + lane;
      const int i = column / 8 * 4 + (row % 16 >= 8 ? 2 : 0) + column % 2;
      int sum = product.adds ? thread + 3 : 0;
      for (int k = 0; k < kDepth; ++k) sum += number_at(0, row, k) * number_at(1, column, k);
      wrong += out[thread * registers + i] != static_cast<uint32_t>(encode(kFloat, sum));
    }
  }
  expect(wrong == 0, what + ": " + number(wrong) + " elements differ");
}

void test_layouts() {
  for (const Swizzle swizzle : {kNone, k128, k64, k32}) {
    for (const bool mn_major : {false, true}) {
      for (const int gap : {0, 1}) {
        Product product;
        product.gap = gap;
        product.columns = 64;
        product.swizzle_a = swizzle;
        product.mn_major_a = mn_major;
        check_product(product);
        product.swizzle_a = k128;
        product.mn_major_a = false;
        product.swizzle_b = swizzle;
        product.mn_major_b = mn_major;
        for (const int columns : {8, 24, 72, 128, 256}) {
          product.columns = columns;
          check_product(product);
        }
      }
    }
  }
}

void test_base_offsets() {
  for (const Swizzle swizzle : {k128, k64, k32}) {
    for (const bool mn_major : {false, true}) {
      for (const int base_offset : {1, 3, 6}) {
        Product product;
        product.columns = 64;
        product.swizzle_a = product.swizzle_b = swizzle;
        product.mn_major_a = product.mn_major_b = mn_major;
        product.base_offset = base_offset;
        check_product(product);
      }
    }
  }
}

void test_forms() {
  for (int columns = 8; columns <= 256; columns += 8) {
    Product product;
    product.type = columns % 16 == 0 ? "f16" : "bf16";
    product.columns = columns;
    product.mn_major_b = columns % 64 == 0;
    check_product(product);
  }
  for (const char *type : {"bf16", "f16"}) {
    Product product;
    product.type = type;
    product.columns = 16;
    product.adds = false;
    check_product(product);
  }
}

// Extern shared arrays start at a multiple of their alignment, after the others.
void test_alignment() {
  const std::string declarations = ".extern .shared .align 1024 .b8 dynamic[];\n.shared .align 4 .b8 fixed[1028];\n";
  const auto module = Module::parse(kernel_of(
      "mov.u32 w0, dynamic;\nmov.u32 w1, fixed;\nst.global.u32 [out], w0;\nst.shared.u32 [w0+60], w1;", declarations));
  auto *out = static_cast<uint32_t *>(device_memory().allocate(4));
  const LaunchResult result = run(module->kernel("test"), {1}, {1}, 64, LaunchOptions{}, out, out);
  expect(result.ok() && *out == 2048, "an extern shared array is at " + number(*out));
  device_memory().release(out);
}

}  // namespace

void test_warpgroup() {
  test_alignment();
  test_layouts();
  test_base_offsets();
  test_forms();
}

}  // namespace lily::emulator::tests
