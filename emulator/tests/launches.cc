// Blocks on several host threads, and launches from several host threads, with and without checks.
#include <cstring>
#include <thread>

#include "core/emulator.h"
#include "tests/harness.h"

namespace lily::emulator::tests {

namespace {

// Each of two blocks sets its own flag and waits for the other's, so the launch ends only if both run concurrently.
void test_blocks_at_a_time() {
  const auto module = Module::parse(kernel_of(
      "mov.u32 w0, %ctaid.x;\nmov.u32 w1, 1;\nxor.b32 w2, w0, 1;\nmad.wide.u32 l0, w0, 4, in;\n"
      "mad.wide.u32 l1, w2, 4, in;\nst.volatile.global.u32 [l0], w1;\nAGAIN:\nld.volatile.global.u32 w3, [l1];\n"
      "setp.eq.u32 p0, w3, 0;\n@p0 bra AGAIN;"));
  auto *flags = static_cast<uint32_t *>(device_memory().allocate(8));
  LaunchOptions options;
  options.checks = false;
  for (const int threads : {2, 1}) {
    options.threads = threads;
    options.max_instructions = threads == 2 ? uint64_t{4} << 30 : 1'000'000;
    flags[0] = flags[1] = 0;
    device_memory().mark_initialised(flags, 8);
    const std::vector<Finding> findings = run(module->kernel("test"), {2}, {1}, 0, options, flags, flags).findings;
    const bool timed_out = findings.size() == 1 && findings[0].kind == FindingKind::kTimeout;
    expect(threads == 2 ? findings.empty() : timed_out,
           "blocks that wait for each other, " + std::to_string(threads) + " threads");
  }
  device_memory().release(flags);
}

// Launches from several host threads.
void test_launches_at_a_time() {
  constexpr unsigned kThreads = 4, kRounds = 12, kBlocks = 16, kBlock = 64;
  // out[i] = in[i] + 1, through shared memory.
  const auto module = Module::parse(kernel_of(
      ".shared .align 4 .b8 tile[256];\nmov.u32 w0, %tid.x;\nmov.u32 w1, %ctaid.x;\nmad.lo.u32 w1, w1, 64, w0;\n"
      "mad.wide.u32 in, w1, 4, in;\nmad.wide.u32 out, w1, 4, out;\nmov.u32 w3, tile;\nmad.lo.u32 w2, w0, 4, w3;\n"
      "ld.global.u32 w4, [in];\nst.shared.u32 [w2], w4;\nbar.sync 0;\nxor.b32 w5, w0, 33;\n"
      "mad.lo.u32 w2, w5, 4, w3;\nld.shared.u32 w6, [w2];\nxor.b32 w6, w6, 33;\nadd.u32 w6, w6, 1;\n"
      "st.global.u32 [out], w6;"));
  constexpr size_t kWords = kBlocks * kBlock;
  for (const bool checks : {true, false}) {
    for (unsigned round = 0; round < kRounds; ++round) {
      // New memory in each round, so that the race records are created while all threads launch.
      auto *const in = static_cast<uint32_t *>(device_memory().allocate(kWords * 4));
      std::vector<uint32_t *> outs(kThreads);
      for (uint32_t *&out : outs) out = static_cast<uint32_t *>(device_memory().allocate(kWords * 4));
      for (uint32_t i = 0; i < kWords; ++i) in[i] = i;
      device_memory().mark_initialised(in, kWords * 4);
      std::vector<size_t> findings(kThreads, 0);
      std::vector<std::thread> threads;
      for (unsigned t = 0; t < kThreads; ++t) {
        threads.emplace_back([&, t] {
          LaunchOptions options;
          options.checks = checks;
          options.seed = round * kThreads + t;
          findings[t] = run(module->kernel("test"), {kBlocks}, {kBlock}, 0, options, in, outs[t]).findings.size();
        });
      }
      for (std::thread &thread : threads) thread.join();
      size_t wrong = 0;
      for (const uint32_t *out : outs) {
        for (uint32_t i = 0; i < kWords; ++i) wrong += out[i] != i + 1;
      }
      for (const size_t each : findings) wrong += each;
      expect(wrong == 0, std::string("launches at a time ") + (checks ? "with" : "without") +
                             " checks: " + std::to_string(wrong) + " wrong words or findings");
      device_memory().release(in);
      for (uint32_t *out : outs) device_memory().release(out);
    }
  }
}

// Kernels are separated from a module's text and parsed on first use.
void test_kernels_are_read_late() {
  const std::string text =
      "// .entry none(\n.version 8.8\n.target sm_100\n.address_size 64\n"
      ".visible .entry first()\n{\n// }\n.pragma \"}\"; /* } */\n{\nret;\n}\n}\n"
      ".visible .entry second()\n{\nnonsense;\n}\n.visible .entry third()\n{\nret;\n}\n";
  const auto module = Module::parse(text);
  expect(module->kernel_names() == std::vector<std::string>{"first", "second", "third"}, "kernel names");
  for (const char *name : {"first", "third"}) {
    expect(run(module->kernel(name), {1}, {1}, 0, LaunchOptions{}).ok(), std::string("the kernel ") + name);
  }
  for (int attempt = 0; attempt < 2; ++attempt) {
    try {
      module->kernel("second");
      expect(false, "an invalid kernel was accepted");
    } catch (const Error &error) {
      expect(std::string(error.what()).starts_with("PTX line 15: "), error.what());
    }
  }
}

}  // namespace

void test_launches() {
  test_kernels_are_read_late();
  test_blocks_at_a_time();
  test_launches_at_a_time();
}

}  // namespace lily::emulator::tests
