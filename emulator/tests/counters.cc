// Counters of kernels whose values can be computed by hand: instructions per thread, 32-byte sectors, and wavefronts of
// 32 banks of 4 bytes.
#include <cstring>

#include "core/emulator.h"
#include "core/traffic.h"
#include "tests/harness.h"

namespace lily::emulator::tests {
namespace {

// kernel_of() adds four instructions before the body and a ret after it.
constexpr uint64_t kFrame = 5;

// Three instructions: l0 = in + lane * step bytes; w1 = an address in shared memory + lane * step bytes.
std::string addresses(int step) {
  const std::string text = std::to_string(step);
  return "mov.u32 w0, %tid.x;\nmad.wide.u32 l0, w0, " + text + ", in;\nmad.lo.u32 w1, w0, " + text + ", tile;\n";
}
constexpr uint64_t kAddresses = 3;
const std::string kTile = ".shared .align 1024 .b8 tile[8192];\n";

KernelCounters count(const std::string &body, unsigned threads = 32) {
  constexpr size_t kBytes = 16384;
  void *in = device_memory().allocate(kBytes), *out = device_memory().allocate(kBytes);
  for (void *each : {in, out}) {
    std::memset(each, 0, kBytes);
    device_memory().mark_initialised(each, kBytes);
  }
  LaunchOptions options;
  options.counters = true;
  KernelCounters counters;
  try {
    const auto module = Module::parse(kernel_of(body, kTile));
    const LaunchResult result = run(module->kernel("test"), {1}, {threads}, 0, options, in, out);
    for (const Finding &finding : result.findings) expect(false, body + finding.text());
    counters = result.counters;
  } catch (const Error &error) {
    expect(false, body + error.what());
  }
  for (void *each : {in, out}) device_memory().release(each);
  return counters;
}

void expect_number(const std::string &what, uint64_t got, uint64_t want) {
  expect(got == want, what + ": " + std::to_string(got) + ", expected " + std::to_string(want));
}

struct Sectors {
  const char *name, *access;
  int step;
  uint64_t touched, ideal, distinct;
};

void test_global() {
  static constexpr Sectors cases[] = {
      {"words side by side", "ld.global.u32 w2, [l0];", 4, 4, 4, 4},
      {"one word for all", "ld.global.u32 w2, [l0];", 0, 1, 1, 1},
      {"a word of every sector", "ld.global.u32 w2, [l0];", 32, 32, 4, 32},
      {"every second word", "ld.global.u32 w2, [l0];", 8, 8, 4, 8},
      {"words that start in a sector", "ld.global.u32 w2, [l0+4];", 4, 5, 4, 5},
      {"16 bytes side by side", "ld.global.v4.u32 {w2, w3, w4, w5}, [l0];", 16, 16, 16, 16},
      {"16 bytes of every sector", "ld.global.v4.u32 {w2, w3, w4, w5}, [l0];", 32, 32, 16, 32},
      {"bytes side by side", "ld.global.u8 w2, [l0];", 1, 1, 1, 1},
  };
  for (const Sectors &each : cases) {
    const KernelCounters counters = count(addresses(each.step) + each.access);
    const std::string name = each.name;
    expect_number(name + ", instructions", counters.total.thread_instructions, 32 * (kFrame + kAddresses + 1));
    expect_number(name + ", requests", counters.total.global_requests, 1);
    expect_number(name + ", sectors", counters.total.global_sectors, each.touched);
    expect_number(name + ", ideal", counters.total.global_sectors_ideal, each.ideal);
    expect_number(name + ", distinct", counters.distinct_sectors_read, each.distinct);
    expect_number(name + ", distinct written", counters.distinct_sectors_written, 0);
  }
  const KernelCounters store = count(addresses(4) + "st.global.u32 [l0], w0;\nst.global.u32 [l0], w0;");
  expect_number("two stores, sectors", store.total.global_sectors, 8);
  expect_number("two stores, distinct", store.distinct_sectors_written, 4);
  // Half a warp accesses 16 words; so does a warp with a guard that half of the lanes fail, whose instruction does not
  // count.
  const KernelCounters small = count(addresses(4) + "ld.global.u32 w2, [l0];", 16);
  expect_number("half a warp, instructions", small.total.thread_instructions, 16 * (kFrame + kAddresses + 1));
  expect_number("half a warp, sectors", small.total.global_sectors, 2);
  const KernelCounters guarded = count(addresses(4) + "setp.lt.u32 p0, w0, 16;\n@p0 ld.global.u32 w2, [l0];");
  expect_number("a guard, instructions", guarded.total.thread_instructions, 32 * (kFrame + kAddresses + 1) + 16);
  expect_number("a guard, requests", guarded.total.global_requests, 1);
  expect_number("a guard, sectors", guarded.total.global_sectors, 2);
}

struct Wavefronts {
  const char *name, *access;
  int step;
  uint64_t wavefronts, ideal;
};

void test_shared() {
  static constexpr Wavefronts cases[] = {
      {"words side by side", "st.shared.u32 [w1], w0;", 4, 1, 1},
      {"every second word", "st.shared.u32 [w1], w0;", 8, 2, 1},
      {"one bank", "st.shared.u32 [w1], w0;", 128, 32, 1},
      {"33 words apart", "st.shared.u32 [w1], w0;", 132, 1, 1},
      {"halves side by side", "st.shared.u16 [w1], w0;", 2, 1, 1},
      {"8 bytes side by side", "st.shared.v2.u32 [w1], {w0, w0};", 8, 2, 2},
      {"16 bytes side by side", "st.shared.v4.u32 [w1], {w0, w0, w0, w0};", 16, 4, 4},
      {"16 bytes of every 32", "st.shared.v4.u32 [w1], {w0, w0, w0, w0};", 32, 8, 4},
      {"16 bytes of every 128", "st.shared.v4.u32 [w1], {w0, w0, w0, w0};", 128, 32, 4},
      {"16 bytes of every 80", "st.shared.v4.u32 [w1], {w0, w0, w0, w0};", 80, 4, 4},
  };
  for (const Wavefronts &each : cases) {
    const KernelCounters counters = count(addresses(each.step) + each.access);
    const std::string name = std::string("shared: ") + each.name;
    expect_number(name + ", requests", counters.total.shared_requests, 1);
    expect_number(name + ", wavefronts", counters.total.shared_wavefronts, each.wavefronts);
    expect_number(name + ", ideal", counters.total.shared_wavefronts_ideal, each.ideal);
    expect_number(name + ", global", counters.total.global_requests, 0);
  }
  const KernelCounters broadcast = count(
      "mov.u32 w0, %tid.x;\nsetp.eq.u32 p0, w0, 0;\n@p0 st.shared.u32 [tile], 1;\nbar.sync 0;\n"
      "ld.shared.u32 w1, [tile];");
  expect_number("one word for all, wavefronts", broadcast.total.shared_wavefronts, 2);  // one of them is the store
}

// Eight rows of 16 bytes form one wavefront if they are in different banks: with pitches of 16 and 80 bytes, not with
// 128.
void test_matrix_rows() {
  for (const auto &[pitch, conflicts] : {std::pair{16, 1}, {80, 1}, {64, 4}, {128, 8}}) {
    const std::string fill = addresses(pitch) + "st.shared.v4.u32 [w1], {w0, w0, w0, w0};\nbar.warp.sync -1;\n";
    const uint64_t store = count(fill).total.shared_wavefronts;
    for (const auto &[form, registers, matrices] :
         {std::tuple{"x1", "{w2}", 1}, {"x2", "{w2, w3}", 2}, {"x4", "{w2, w3, w4, w5}", 4}}) {
      const KernelCounters counters =
          count(fill + "ldmatrix.sync.aligned.m8n8." + form + ".shared.b16 " + registers + ", [w1];");
      const std::string name = std::string("ldmatrix ") + form + " of pitch " + std::to_string(pitch);
      expect_number(name + ", wavefronts", counters.total.shared_wavefronts - store, matrices * conflicts);
      expect_number(name + ", ideal", counters.total.shared_wavefronts_ideal, 4 + matrices);
      expect_number(name + ", matrix instructions", counters.total.matrix_instructions, 0);
    }
  }
}

// The write to shared memory counts like a store of the same size.
void test_async_copies() {
  const std::string wait = "cp.async.wait_all;";
  for (const auto &[size, step, wavefronts, ideal, sectors] : {std::tuple{16, 16, 4, 4, 16},
                                                               {16, 32, 8, 4, 32},
                                                               {16, 128, 32, 4, 32},
                                                               {8, 8, 2, 2, 8},
                                                               {4, 4, 1, 1, 4},
                                                               {4, 128, 32, 1, 32}}) {
    const KernelCounters counters =
        count(addresses(step) + "cp.async.ca.shared.global [w1], [l0], " + std::to_string(size) + ";\n" + wait);
    const std::string name = "cp.async of " + std::to_string(size) + " bytes, " + std::to_string(step) + " apart";
    expect_number(name + ", instructions", counters.total.thread_instructions, 32 * (kFrame + kAddresses + 2));
    expect_number(name + ", shared requests", counters.total.shared_requests, 1);
    expect_number(name + ", wavefronts", counters.total.shared_wavefronts, wavefronts);
    expect_number(name + ", ideal wavefronts", counters.total.shared_wavefronts_ideal, ideal);
    expect_number(name + ", global requests", counters.total.global_requests, 1);
    expect_number(name + ", sectors", counters.total.global_sectors, sectors);
  }
  // Bytes filled with zeros are written but not read.
  const KernelCounters zeros = count(addresses(16) + "cp.async.cg.shared.global [w1], [l0], 16, 0;\n" + wait);
  expect_number("cp.async of zeros, wavefronts", zeros.total.shared_wavefronts, 4);
  expect_number("cp.async of zeros, global requests", zeros.total.global_requests, 0);
  const KernelCounters half = count(addresses(16) + "cp.async.cg.shared.global [w1], [l0], 16, 8;\n" + wait);
  expect_number("cp.async of half, wavefronts", half.total.shared_wavefronts, 4);
  expect_number("cp.async of half, sectors", half.total.global_sectors, 16);
  expect_number("cp.async of half, ideal sectors", half.total.global_sectors_ideal, 8);
}

// All loads of these kernels are at one place.
void test_loads_in_flight() {
  // Each lane has two sectors of its own in each of eight iterations.
  const std::string next = "add.u64 l0, l0, 2048;\nadd.u32 w9, w9, 1;\nsetp.lt.u32 p0, w9, 8;\n@p0 bra NEXT;";
  const auto loop = [&](const std::string &body) {
    return count(addresses(64) + "mov.u32 w9, 0;\nmov.u32 w8, 0;\nNEXT:\n" + body + next).total;
  };
  const auto add = [](int i) { return "add.u32 w8, w8, w" + std::to_string(i) + ";\n"; };
  const auto loads = [&](int n, bool adds_each) {
    std::string text, sums;
    for (int i = 0; i < n; ++i) {
      text += "ld.global.u32 w" + std::to_string(i) + ", [l0+" + std::to_string(4 * i) + "];\n";
      (adds_each ? text : sums) += add(i);
    }
    return text + sums;
  };
  const auto expect_bytes = [](const std::string &what, const Counters &counters, uint64_t repeated,
                               uint64_t in_short) {
    expect_number(what + ", repeated", counters.repeated_load_bytes, 32 * repeated);
    expect_number(what + ", short", counters.short_wait_bytes, 32 * in_short);
  };
  constexpr uint64_t kAll = 8 * kSectorBytes;
  expect_bytes("a load at a time", loop(loads(1, true)), kAll, kAll);
  expect_bytes("seven loads at a time", loop(loads(7, false)), kAll, kAll);
  expect_bytes("eight loads at a time", loop(loads(8, false)), kAll, 0);
  expect_bytes("eight loads and additions in one basic block", loop(loads(8, true)), kAll, 0);
  expect_bytes("a barrier", loop(loads(4, true) + "bar.sync 0;\n" + loads(4, true)), kAll, kAll);
  expect_bytes("a store to global memory", loop(loads(4, true) + "st.global.u32 [l0+60], w8;\n" + loads(4, true)), kAll,
               kAll);
  expect_bytes("a loaded address",
               loop("ld.global.u32 w0, [l0];\ncvt.u64.u32 l1, w0;\nadd.u64 l1, l1, in;\n"
                    "ld.global.u32 w1, [l1];\n" +
                    add(1) + loads(6, false)),
               kAll, kAll);
  expect_bytes("seven loads in all", count(addresses(64) + loads(7, false)).total, 0, 0);
  expect_bytes("vectors of 8 bytes", loop("ld.global.v2.u32 {w2, w3}, [l0];\n" + add(3)), kAll, kAll);
  const std::string vector = "ld.global.v4.u32 {w0, w1, w2, w3}, [l0+";
  expect_bytes("64 bytes", loop(vector + "0];\n" + vector + "16];\n" + vector + "32];\n" + vector + "48];\n" + add(3)),
               2 * kAll, 0);
  std::string moves = "mov.u32 w8, 0;\n";
  for (int i = 0; i < 8; ++i) moves += "ld.global.u32 w9, [l0];\nmov.u32 w" + std::to_string(i) + ", w9;\n";
  expect_bytes("moves", count(addresses(64) + moves + add(7)).total, kSectorBytes, 0);
  expect_bytes("a value that is overwritten", loop("ld.global.u32 w0, [l0];\nmov.u32 w0, 1;\n" + add(0)), kAll, 0);
  expect_bytes("a store of a loaded value", loop("ld.global.u32 w0, [l0];\nst.shared.u32 [w1], w0;\n"), kAll, kAll);
  // One sector, of all lanes.
  expect_bytes("what the block has loaded before", loop("ld.global.u32 w0, [in];\n" + add(0)), 1, 1);
  const std::string copies = "cp.async.ca.shared.global [w1], [l0], 4;\ncp.async.wait_all;\n";
  expect_bytes("asynchronous copies", loop(copies + "ld.shared.u32 w0, [w1];\n" + add(0)), 0, 0);
}

void test_others() {
  const KernelCounters barriers = count("bar.sync 0;\nbar.warp.sync -1;\nbar.sync 1;", 64);
  expect_number("barriers", barriers.total.barriers, 2 + 2);  // two block barriers, one warp barrier per warp
  const std::string zeros =
      "mov.u32 w0, 0;\nmov.u32 w1, 0;\nmov.u32 w2, 0;\nmov.u32 w3, 0;\nmov.u32 w4, 0;\nmov.u32 w5, 0;\n";
  const KernelCounters products =
      count(zeros +
                "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {w0, w1, w2, w3}, {w0, w1, w2, w3}, {w4, w5}, "
                "{w0, w1, w2, w3};\n",
            96);
  expect_number("products", products.total.matrix_instructions, 3);
  expect_number("products, instructions", products.total.thread_instructions, 96 * (kFrame + 6 + 1));
  // 64 x 24 with k = 16 for a warpgroup: as many as 4 x 3 products of m16n8k16. A has 2048 bytes and B 768.
  const std::string fill =
      "mov.u32 w9, 0;\nmov.u32 w8, %tid.x;\nmad.lo.u32 w8, w8, 64, tile;\n"
      "st.shared.u32 [w8], w9;\n";
  std::string all;
  for (int i = 0; i < 16; ++i) all += "st.shared.u32 [w8+" + std::to_string(4 * i) + "], w9;\n";
  const std::string before = ".reg .f32 d<12>;\n" + fill + all +
                             "fence.proxy.async.shared::cta;\nbar.sync 0;\nsetp.eq.u32 p0, 0, 1;\n"
                             "wgmma.fence.sync.aligned;\n";
  const KernelCounters filled = count(before, 128);
  const KernelCounters group = count(
      before +
          "wgmma.mma_async.sync.aligned.m64n24k16.f32.bf16.bf16 {d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11}, "
          "4611686293305294848, 4611686293305294848, p0, 1, 1, 0, 0;\n"
          "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;",
      128);
  expect_number("a warpgroup's product", group.total.matrix_instructions, 4 * 3);
  expect_number("a warpgroup's product, instructions", group.total.thread_instructions,
                filled.total.thread_instructions + 128 * 3);
  expect_number("a warpgroup's product, requests", group.total.shared_requests - filled.total.shared_requests, 2);
  for (const auto counter : {&Counters::shared_wavefronts, &Counters::shared_wavefronts_ideal})
    expect_number("a warpgroup's product, wavefronts", group.total.*counter - filled.total.*counter, 16 + 6);
  // Lane i executes i + 1 iterations of 3 instructions.
  const KernelCounters loop =
      count("mov.u32 w0, %tid.x;\nmov.u32 w1, 0;\nNEXT:\nadd.u32 w1, w1, 1;\nsetp.le.u32 p0, w1, w0;\n@p0 bra NEXT;");
  // A branch whose guard is false does not execute: 32 of them.
  expect_number("a loop", loop.total.thread_instructions, 32 * (kFrame + 2) + 3 * (32 * 33 / 2) - 32);
}

}  // namespace

void test_counters() {
  test_global();
  test_shared();
  test_matrix_rows();
  test_async_copies();
  test_loads_in_flight();
  test_others();
}

}  // namespace lily::emulator::tests
