// Findings of the core: kernels that do not end, deadlocks, and invalid operands.
#include <cstring>

#include "core/emulator.h"
#include "tests/harness.h"

namespace lily::emulator::tests {
namespace {

std::vector<Finding> findings_of(const std::string &body, unsigned threads, LaunchOptions options = {},
                                 unsigned blocks = 1) {
  auto *memory = static_cast<uint32_t *>(device_memory().allocate(256));
  std::memset(memory, 0, 256);
  device_memory().mark_initialised(memory, 256);
  const auto module = Module::parse(kernel_of(body));
  std::vector<Finding> findings = run(module->kernel("test"), {blocks}, {threads}, 0, options, memory, memory).findings;
  device_memory().release(memory);
  return findings;
}

void expect_finding(const std::string &body, unsigned threads, FindingKind kind, const std::string &text,
                    LaunchOptions options = {}, unsigned blocks = 1) {
  for (const uint64_t seed : {0, 1, 2, 3}) {
    options.seed = seed;
    const std::vector<Finding> findings = findings_of(body, threads, options, blocks);
    expect(findings.size() == 1, body + ": " + std::to_string(findings.size()) + " findings");
    if (findings.size() != 1) continue;
    expect(findings[0].kind == kind, body + ": " + findings[0].text());
    expect(findings[0].text().find(text) != std::string::npos, body + ", without " + text + ": " + findings[0].text());
  }
}

void expect_none(const std::string &body, unsigned threads, LaunchOptions options = {}, unsigned blocks = 1) {
  for (const uint64_t seed : {0, 1, 2, 3}) {
    options.seed = seed;
    for (const Finding &finding : findings_of(body, threads, options, blocks)) {
      expect(false, body + ": " + finding.text());
    }
    expect(true, body);
  }
}

// Loads whose cache is not coherent.
void test_constants() {
  const std::string text = "requires memory that nothing writes while the kernel runs";
  const std::string store = "mov.u32 w0, 1;\nst.global.u32 [out], w0;\n", load = "ld.global.nc.u32 w1, [in];\n";
  expect_finding(store + load, 1, FindingKind::kGlobalRace, text);
  expect_finding(load + store, 1, FindingKind::kGlobalRace, text);
  expect_finding(
      "mov.u32 w2, %tid.x;\nsetp.eq.u32 p0, w2, 40;\nmov.u32 w0, 1;\n@p0 st.global.u32 [out], w0;\n"
      "bar.sync 0;\n@!p0 " +
          load,
      64, FindingKind::kGlobalRace, text);
  expect_none(load + "mov.u32 w0, 1;\nst.global.u32 [out+4], w0;", 1);
  expect_none(store + "ld.global.u32 w1, [in];", 1);
}

void test_timeouts() {
  LaunchOptions options;
  options.max_instructions = 10'000'000;
  for (const bool checks : {true, false}) {
    options.checks = checks;
    expect_finding("NEXT:\nbra NEXT;", 1, FindingKind::kTimeout, "still running after ", options);
    // A flag that no thread sets.
    options.max_instructions = 100'000;
    expect_finding("AGAIN:\nld.volatile.global.u32 w1, [in];\nsetp.eq.u32 p1, w1, 0;\n@p1 bra AGAIN;", 32,
                   FindingKind::kTimeout, "still running after ", options);
  }
}

void test_deadlocks() {
  const std::string second_warp = "mov.u32 w0, %tid.x;\nsetp.ge.u32 p0, w0, 32;\n";
  for (const bool checks : {true, false}) {
    LaunchOptions options;
    options.checks = checks;
    // The warps wait at different barriers, each for 64 threads.
    expect_finding(second_warp + "@p0 bra OTHER;\nbar.sync 1, 64;\nbra DONE;\nOTHER:\nbar.sync 2, 64;\nDONE:", 64,
                   FindingKind::kDeadlock, "32 of 64 threads", options);
    expect_none(second_warp + "@p0 bra OTHER;\nbar.sync 1, 64;\nbra DONE;\nOTHER:\nbar.sync 1, 64;\nDONE:", 64,
                options);
    // A barrier for more threads than the block has.
    expect_finding("bar.sync 0, 96;", 64, FindingKind::kDeadlock, "64 of 96 threads", options);
  }
}

void test_operands() {
  expect_finding("mov.u32 w0, 16;\nbar.sync w0;", 32, FindingKind::kBadOperand, "barrier number 16 is above 15");
  expect_finding("bar.sync 0, 40;", 64, FindingKind::kBadOperand, "thread count 40 is not a multiple of the warp size");
  expect_finding(
      ".shared .align 16 .b8 tile[16];\nmov.u32 w0, tile;\nmov.u32 w1, 20;\n"
      "cp.async.cg.shared.global [w0], [in], 16, w1;\ncp.async.wait_all;",
      1, FindingKind::kBadOperand, "source size 20");
  expect_finding(".shared .align 16 .b8 tile[16];\nmov.u32 w0, tile;\ncp.async.cg.shared.global [w0], [in], 16;", 1,
                 FindingKind::kAsyncCopy, "exits with asynchronous copies");
  expect_finding("mov.u32 w0, 0xffff;\nbar.warp.sync w0;", 32, FindingKind::kDivergentOperation,
                 "not in its own member mask");
}

}  // namespace

void test_findings() {
  test_constants();
  test_timeouts();
  test_deadlocks();
  test_operands();
}

}  // namespace lily::emulator::tests
