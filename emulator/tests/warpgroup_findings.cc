// Findings at wgmma: a program without mistakes, and what each change of it must be reported as.
#include <cstring>

#include "core/emulator.h"
#include "tests/harness.h"

namespace lily::emulator::tests {
namespace {

// A of 64 rows and B of 16 columns by 64 k, K-major with the swizzle of 128 bytes, zeros in an array of 10240 bytes.
constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
constexpr uint64_t kStride = uint64_t{1024 / 16} << 32;
constexpr uint64_t kA = kSwizzle128 | kStride, kB = kSwizzle128 | kStride | 8192 / 16;

std::string number(uint64_t value) { return std::to_string(value); }

std::string product(uint64_t a = kA, uint64_t b = kB, const std::string &d = "{d0, d1, d2, d3}",
                    const std::string &columns = "8") {
  return "wgmma.mma_async.sync.aligned.m64n" + columns + "k16.f32.bf16.bf16 " + d + ", " + number(a) + ", " +
         number(b) + ", p1, 1, 1, 0, 0;\n";
}

const std::string kRegisters =
    ".shared .align 1024 .b8 tile[10240];\n.reg .b32 index, at;\n.reg .f32 d<8>;\n.reg .pred first;\nmov.u32 index, "
    "%tid.x;\n"
    "and.b32 at, index, 127;\nmad.lo.u32 at, at, 16, tile;\nmov.u32 w0, 0;\nsetp.eq.u32 p1, 0, 0;\n"
    "setp.eq.u32 p0, index, 5;\nsetp.lt.u32 first, index, 128;\nmov.f32 d0, 0f00000000;\nmov.f32 d1, d0;\nmov.f32 d2, "
    "d0;\nmov.f32 d3, d0;\n"
    "mov.f32 d4, d0;\nmov.f32 d5, d0;\nmov.f32 d6, d0;\nmov.f32 d7, d0;\n";
const std::string kProxyFence = "fence.proxy.async.shared::cta;\n", kBarrier = "bar.sync 0;\n",
                  kFence = "wgmma.fence.sync.aligned;\n", kCommit = "wgmma.commit_group.sync.aligned;\n",
                  kWait = "wgmma.wait_group.sync.aligned 0;\n";
const std::string kStore = "st.volatile.global.f32 [out], d0;\nst.volatile.global.f32 [out], d3;\n";

std::string stores(int rounds) {
  std::string text;
  for (int i = 0; i < rounds; ++i) text += "@first st.shared.v4.u32 [at+" + number(2048 * i) + "], {w0, w0, w0, w0};\n";
  return text;
}
std::string copies() {
  std::string text;
  for (int i = 0; i < 5; ++i) text += "cp.async.cg.shared.global [at+" + number(2048 * i) + "], [in], 16;\n";
  return text;
}
const std::string kFill = stores(5) + kProxyFence + kBarrier;

std::vector<Finding> findings_of(const std::string &body, unsigned threads, const LaunchOptions &options) {
  auto *memory = static_cast<uint32_t *>(device_memory().allocate(1024));
  std::memset(memory, 0, 1024);
  device_memory().mark_initialised(memory, 1024);
  std::vector<Finding> findings;
  try {
    const auto module = Module::parse(kernel_of(kRegisters + body));
    findings = run(module->kernel("test"), {1}, {threads}, 0, options, memory, memory + 128).findings;
  } catch (const Error &error) {
    expect(false, body + error.what());
  }
  device_memory().release(memory);
  return findings;
}

void expect_none(const std::string &body, unsigned threads = 128) {
  LaunchOptions options;
  for (options.seed = 0; options.seed < 4; ++options.seed) {
    const std::vector<Finding> findings = findings_of(body, threads, options);
    expect(findings.empty(), body + (findings.empty() ? "" : findings[0].text()));
  }
}

void expect_finding(const std::string &body, FindingKind kind, const std::string &text, unsigned threads = 128) {
  LaunchOptions options;
  for (options.seed = 0; options.seed < 4; ++options.seed) {
    const std::vector<Finding> findings = findings_of(body, threads, options);
    expect(findings.size() == 1, body + ": " + number(findings.size()) + " findings instead of " + name_of(kind));
    if (findings.size() != 1) continue;
    expect(findings[0].kind == kind, body + findings[0].text());
    expect(findings[0].text().find(text) != std::string::npos, body + "without " + text + ": " + findings[0].text());
  }
}

void test_registers() {
  const std::string add = "add.f32 d0, d0, d0;\n";
  expect_none(kFill + kFence + product() + kCommit + kWait + kStore);
  expect_finding(kFill + product() + kCommit + kWait + kStore, FindingKind::kAsyncProduct,
                 "has not executed a wgmma.fence");
  // A value that is computed after the fence, and a constant or a copy, for which the machine code needs no
  // instruction.
  expect_finding(kFill + kFence + add + product() + kCommit + kWait + kStore, FindingKind::kAsyncProduct,
                 "written after the last wgmma.fence");
  expect_finding(kFill + kFence + "ld.global.f32 d2, [in];\n" + product() + kCommit + kWait + kStore,
                 FindingKind::kAsyncProduct, "written after the last wgmma.fence");
  expect_none(kFill + add + kFence + "mov.f32 d1, d0;\nmov.f32 d2, 0f3f800000;\n" + product() + kCommit + kWait +
              kStore);
  expect_finding(
      kFill + kFence + add + "mov.f32 d1, d0;\n" + product(kA, kB, "{d1, d2, d3, d4}") + kCommit + kWait + kStore,
      FindingKind::kAsyncProduct, "written after the last wgmma.fence");
  const std::string first = kFill + kFence + product() + kCommit + kWait;
  expect_finding(first + add + product() + kCommit + kWait + kStore, FindingKind::kAsyncProduct,
                 "written after the last wgmma.fence");
  expect_none(first + add + kFence + product() + kCommit + kWait + kStore);
  expect_none(first + product() + kCommit + kWait + kStore);

  // Before the wait.
  const std::string started = kFill + kFence + product() + kCommit;
  const std::string early = "result of wgmma.mma_async in flight";
  expect_finding(started + add + kWait + kStore, FindingKind::kAsyncProduct, early);
  expect_finding(started + kStore + kWait, FindingKind::kAsyncProduct, early);
  expect_finding(started + "shfl.sync.bfly.b32 d4, d3, 1, 31, -1;\n" + kWait + kStore, FindingKind::kAsyncProduct,
                 early);
  expect_finding(started + "wgmma.wait_group.sync.aligned 1;\n" + kStore, FindingKind::kAsyncProduct, early);
  expect_finding(kFill + kFence + product() + kWait + kStore, FindingKind::kAsyncProduct, early);
  expect_none(started + "mov.f32 d5, d3;\n" + kWait + "st.volatile.global.f32 [out], d5;\n" + kStore);
  expect_finding(started, FindingKind::kAsyncProduct, "exits with a product");
  // Two groups in flight, of which the first is waited for.
  const std::string two =
      started + product(kA, kB, "{d4, d5, d6, d7}") + kCommit + "wgmma.wait_group.sync.aligned 1;\n";
  expect_none(two + kStore + kWait + "st.volatile.global.f32 [out], d7;\n");
  expect_finding(two + "st.volatile.global.f32 [out], d7;\n" + kWait, FindingKind::kAsyncProduct, early);

  // D of several products.
  expect_none(started + product() + kCommit + kWait + kStore);
  expect_finding(started + product() + kCommit + "wgmma.wait_group.sync.aligned 1;\n" + kStore,
                 FindingKind::kAsyncProduct, early);
  expect_finding(started + "mov.f32 d3, 0f00000000;\n" + product() + kCommit + kWait + kStore,
                 FindingKind::kAsyncProduct, "was written while a wgmma.mma_async to D was in flight");
  expect_finding(started + product(kA, kB, "{d4, d5, d6, d0}") + kCommit + kWait + kStore, FindingKind::kAsyncProduct,
                 "result of another wgmma.mma_async in flight");
  expect_finding(started + product(kA, kB, "{d0, d1, d2, d3, d4, d5, d6, d7}", "16") + kCommit + kWait + kStore,
                 FindingKind::kAsyncProduct, "of another shape");
}

void test_shared_memory() {
  const std::string rest = kFence + product() + kCommit + kWait + kStore;
  const std::string no_fence = "no fence.proxy.async";
  expect_finding(stores(5) + kBarrier + rest, FindingKind::kProxyFence, no_fence);
  expect_finding(stores(5) + kBarrier + kProxyFence + rest, FindingKind::kProxyFence, no_fence);
  expect_finding(kProxyFence + stores(5) + kBarrier + rest, FindingKind::kProxyFence, no_fence);
  expect_finding(stores(5) + "fence.proxy.async.global;\n" + kBarrier + rest, FindingKind::kProxyFence, no_fence);
  // One thread only.
  expect_finding(kFill + "@p0 st.shared.u32 [tile+128], w0;\n" + kBarrier + rest, FindingKind::kProxyFence,
                 "by thread 5 at st.shared.u32");
  expect_none(stores(5) + "fence.proxy.async;\n" + kBarrier + rest);
  expect_finding(stores(5) + kProxyFence + rest, FindingKind::kSharedRace, "not ordered after the write");
  // Thread 6 writes after thread 5, whose fence is not for that.
  expect_finding(kFill + "@p0 st.shared.u32 [tile+128], w0;\n" + kBarrier + "setp.eq.u32 p0, index, 6;\n" +
                     "@p0 st.shared.u32 [tile+128], w0;\n" + kBarrier + "setp.eq.u32 p0, index, 5;\n@p0 " +
                     kProxyFence + kBarrier + rest,
                 FindingKind::kProxyFence, "by thread 6 at st.shared.u32");
  // Rows 32 to 47 of A belong to the warp of thread 70, so no other warp has to know of the write.
  const auto by_70 = [&](const std::string &at) {
    return kFill + "setp.eq.u32 p0, index, 70;\n@p0 st.shared.u32 [tile+" + at + "], w0;\n" + kProxyFence +
           "bar.warp.sync -1;\n" + rest;
  };
  expect_none(by_70("4096"));
  expect_finding(by_70("128"), FindingKind::kSharedRace, "not ordered after the write by thread 70");
  expect_finding(by_70("8192"), FindingKind::kSharedRace, "not ordered after the write by thread 70");
  // One instruction of thread 5 writes the last row of A that its own warp reads, and the next row.
  expect_finding(kFill +
                     "mov.u32 w1, tile;\nadd.u32 w1, w1, 2032;\nmov.u32 w2, 0;\nNEXT:\n"
                     "@p0 st.shared.v4.u32 [w1], {w0, w0, w0, w0};\nadd.u32 w1, w1, 16;\nadd.u32 w2, w2, 1;\n"
                     "setp.lt.u32 p1, w2, 2;\n@p1 bra NEXT;\nsetp.eq.u32 p1, 0, 0;\n" +
                     kProxyFence + "bar.warp.sync -1;\n" + rest,
                 FindingKind::kSharedRace, "read of shared byte 2048, not ordered after the write by thread 5");
  // Not the tile that is read.
  expect_none(kFill + "@p0 st.shared.u32 [tile+9216], w0;\n" + kBarrier + rest);

  const std::string wait = "cp.async.wait_all;\n";
  expect_none(copies() + wait + kProxyFence + kBarrier + rest);
  expect_finding(copies() + wait + kBarrier + rest, FindingKind::kProxyFence, no_fence);
  expect_finding(copies() + kProxyFence + wait + kBarrier + rest, FindingKind::kProxyFence, no_fence);
  expect_finding(copies() + kProxyFence + kBarrier + rest + wait, FindingKind::kAsyncCopy,
                 "asynchronous copy in flight");
  expect_finding(copies() + wait + kProxyFence + rest, FindingKind::kSharedRace, "not ordered after the write");
  expect_finding(stores(4) + kProxyFence + kBarrier + rest, FindingKind::kUninitialised, "by the descriptor of B");

  // Writes while the product reads.
  const std::string started = kFill + kFence + product() + kCommit, write = "@p0 st.shared.u32 [tile+128], w0;\n";
  const std::string in_flight = "wgmma.mma_async in flight reads";
  expect_finding(started + write + kWait + kStore, FindingKind::kAsyncProduct, in_flight);
  expect_finding(started + kBarrier + write + kWait + kStore, FindingKind::kAsyncProduct, in_flight);
  expect_finding(started + "@p0 cp.async.cg.shared.global [tile+128], [in], 16;\n" + kWait + wait + kStore,
                 FindingKind::kAsyncProduct, in_flight);
  expect_finding(started + kWait + "setp.eq.u32 p0, index, 70;\n@p0 st.shared.u32 [tile+128], w0;\n" + kStore,
                 FindingKind::kSharedRace, "not ordered after the read");
  // Thread 5 writes what only its own warp has read, and thread 70 what no other has.
  expect_none(started + kWait + write + kStore);
  expect_none(started + kWait + "setp.eq.u32 p0, index, 70;\n@p0 st.shared.u32 [tile+4096], w0;\n" + kStore);
  expect_none(started + kWait + kBarrier + write + kStore);
  expect_none(started + "@p0 st.shared.u32 [tile+9216], w0;\n@p0 ld.shared.u32 w1, [tile+128];\n" + kWait + kStore);
  // The second of two products still reads A.
  const std::string second = product(kA, kB, "{d4, d5, d6, d7}") + kCommit + "wgmma.wait_group.sync.aligned 1;\n";
  expect_finding(started + second + kBarrier + write + kWait + kStore, FindingKind::kAsyncProduct, in_flight);
}

void test_descriptors() {
  const auto run_with = [](uint64_t a, uint64_t b) {
    return kFill + kFence + product(a, b) + kCommit + kWait + kStore;
  };
  expect_finding(run_with(kA + 256, kB), FindingKind::kOutOfBounds, "by the descriptor of A, but the size is 10240");
  expect_finding(run_with(kA, kB + 128), FindingKind::kOutOfBounds, "by the descriptor of B");
  expect_none(run_with(kA + 2, kB + 6));
  expect_finding(run_with(kA, kB + 7), FindingKind::kMisaligned, "a row of the swizzle pattern that ends");
  expect_finding(run_with(kA + 8, kB), FindingKind::kMisaligned, "begins 128 bytes into a swizzle pattern");
  expect_none(run_with((kA + 8) | uint64_t{1} << 49, kB));
  expect_finding(run_with(kA | uint64_t{1} << 49, kB), FindingKind::kMisaligned, "begins 896 bytes");
  expect_finding(run_with(kA - (uint64_t{1} << 32), kB), FindingKind::kMisaligned, "not a multiple of the swizzle");
  expect_none(run_with(kA, kB - (uint64_t{1} << 32)));  // B has eight columns, so its stride is not used
  expect_finding(run_with(kA | uint64_t{1} << 52, kB), FindingKind::kBadOperand, "bits that are not defined");
  expect_finding(run_with(kA, (kB & ~kSwizzle128) | uint64_t{1} << 49), FindingKind::kBadOperand,
                 "a base offset but no swizzle");
  // A different descriptor, or predicate, in one thread.
  const std::string own = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {d0, d1, d2, d3}, l0, " + number(kB) +
                          ", p1, 1, 1, 0, 0;\n" + kCommit + kWait + kStore;
  const std::string set = "mov.u64 l0, " + number(kA) + ";\n";
  expect_none(kFill + set + kFence + own);
  expect_finding(kFill + set + "@p0 add.u64 l0, l0, 2;\n" + kFence + own, FindingKind::kBadOperand,
                 "differs from that");
  expect_finding(kFill + set + "setp.ne.u32 p1, index, 77;\n" + kFence + own, FindingKind::kBadOperand,
                 "differs from that");
}

void test_convergence() {
  const std::string all = kFence + product() + kCommit + kWait + kStore;
  expect_finding(kFill + all, FindingKind::kDivergentOperation, "requires all 128 threads", 96);
  expect_finding(kFill + "@p0 ret;\n" + all, FindingKind::kDivergentOperation, "requires all 128 threads");
  expect_finding(
      kFill + "setp.gt.u32 p0, index, 63;\n@p0 bra OTHER;\n" + kFence + "bra DONE;\nOTHER:\n" + kFence + "DONE:\n",
      FindingKind::kDivergentOperation, "other threads of the warpgroup wait at");
  expect_finding(kFill + kFence + "setp.gt.u32 p0, index, 63;\n@p0 bra DONE;\n" + product() + kCommit + kWait +
                     "DONE:\n" + kBarrier + kStore,
                 FindingKind::kDeadlock, "64 of the 128 threads of its warpgroup have arrived");
  expect_none(kFill + all, 256);
  // The second warpgroup alone, while the other waits at a barrier.
  expect_none(kFill + "setp.lt.u32 p0, index, 128;\n@p0 bra DONE;\n" + all + "DONE:\n" + kBarrier, 256);
  // It writes what the other reads.
  expect_finding(kFill + "setp.lt.u32 p0, index, 128;\n@p0 bra READ;\nst.shared.u32 [at], w0;\nbra DONE;\nREAD:\n" +
                     all + "DONE:\n",
                 FindingKind::kSharedRace, "not ordered after the", 256);
}

}  // namespace

void test_warpgroup_findings() {
  test_registers();
  test_shared_memory();
  test_descriptors();
  test_convergence();
}

}  // namespace lily::emulator::tests
