// griddepcontrol: accesses before the wait to what an earlier launch uses, blocks without a wait, and early dependents.
#include <cstring>
#include <memory>

#include "core/emulator.h"
#include "tests/harness.h"

namespace lily::emulator::tests {
namespace {

constexpr size_t kBytes = 256;

uint32_t *zeros() {
  auto *const memory = static_cast<uint32_t *>(device_memory().allocate(kBytes));
  std::memset(memory, 0, kBytes);
  device_memory().mark_initialised(memory, kBytes);
  return memory;
}

// An earlier launch reads the first word of `in` and writes the first word of `out`. Returns the messages of a
// dependent launch of `blocks` blocks of 64 threads with the same arguments.
std::string findings_after(const std::string &body, unsigned blocks = 1) {
  std::string text;
  for (const uint64_t seed : {0, 1, 2, 3}) {
    LaunchOptions options;
    options.seed = seed;
    options.touched = true;
    uint32_t *const in = zeros(), *const out = zeros();
    const auto first = Module::parse(kernel_of("ld.global.u32 w0, [in];\nst.global.u32 [out], w0;"));
    LaunchResult earlier = run(first->kernel("test"), {1}, {1}, 0, options, in, out);
    expect(earlier.ok(), "the earlier launch");
    options.dependent = true;
    options.earlier.push_back(
        std::make_shared<EarlierLaunch>(EarlierLaunch{"the first kernel", std::move(earlier.touched)}));
    const auto second = Module::parse(kernel_of(body));
    std::string found;
    for (const Finding &finding : run(second->kernel("test"), {blocks}, {64}, 0, options, in, out).findings) {
      expect(finding.kind == FindingKind::kNoWait, body + ": " + finding.text());
      found += finding.message;
    }
    expect(seed == 0 || text.empty() == found.empty(), body + ": the finding depends on the schedule");
    text = found;
    device_memory().release(in);
    device_memory().release(out);
  }
  return text;
}

void expect_after(const std::string &body, const std::string &text, unsigned blocks = 1) {
  const std::string found = findings_after(body, blocks);
  expect(text.empty() ? found.empty() : found.find(text) != std::string::npos, body + ": " + found);
}

void test_accesses() {
  const std::string wait = "griddepcontrol.wait;\n", first_thread = "mov.u32 w2, %tid.x;\nsetp.eq.u32 p0, w2, 0;\n";
  expect_after("ld.global.u32 w0, [out];\n" + wait, "read of 4 bytes at global offset 0");
  expect_after("ld.global.u32 w0, [out];\n" + wait, "the first kernel, which writes it");
  expect_after("mov.u32 w0, 1;\n" + first_thread + "@p0 st.global.u32 [in], w0;\n" + wait,
               "the first kernel, which reads it");
  expect_after(".shared .align 16 .b8 tile[16];\nmov.u32 w0, tile;\n" + first_thread +
                   "@p0 cp.async.ca.shared.global [w0], [out], 4;\ncp.async.wait_all;\n" + wait,
               "which writes it");
  // What no earlier launch writes may be read, and what none uses may be written.
  expect_after("ld.global.u32 w0, [in];\n" + first_thread + "@p0 st.global.u32 [out+4], w0;\n" + wait, "");
  expect_after(wait + "ld.global.u32 w0, [out];\n" + first_thread + "@p0 st.global.u32 [in], w0;", "");
  // The cache of this load is not coherent, also after the wait.
  expect_after(wait + "ld.global.nc.u32 w0, [out];", "may still have been running when the kernel began");
  expect_after(wait + "ld.global.nc.u32 w0, [in];", "");
  // A thread may wait for others that a barrier orders after it: of its warp, or of its block.
  const std::string last_thread = "mov.u32 w2, %tid.x;\nsetp.eq.u32 p0, w2, 63;\n@p0 griddepcontrol.wait;\n";
  expect_after(last_thread + "bar.sync 0;\nld.global.u32 w0, [out];", "");
  expect_after(last_thread + "bar.warp.sync 0xffffffff;\nld.global.u32 w0, [out];", "before griddepcontrol.wait");
  expect_after(last_thread + "bar.warp.sync 0xffffffff;\nsetp.ge.u32 p1, w2, 32;\n@p1 ld.global.u32 w0, [out];", "");
  expect_after(last_thread + "ld.global.u32 w0, [out];\nbar.sync 0;", "before griddepcontrol.wait");
}

void test_blocks() {
  expect_after("ret;", "ends without griddepcontrol.wait");
  const std::string first_block = "mov.u32 w2, %ctaid.x;\nsetp.eq.u32 p0, w2, 0;\n";
  expect_after(first_block + "@p0 griddepcontrol.wait;", "ends without griddepcontrol.wait", 3);
  expect_after("mov.u32 w2, %tid.x;\nsetp.eq.u32 p0, w2, 5;\n@p0 griddepcontrol.wait;", "", 3);
}

bool start_early(const std::string &body) {
  uint32_t *const memory = zeros();
  const auto module = Module::parse(kernel_of(body));
  const LaunchResult result = run(module->kernel("test"), {2}, {32}, 0, LaunchOptions{}, memory, memory);
  expect(result.ok(), body);
  device_memory().release(memory);
  return result.dependents_start_early;
}

void test_dependents() {
  const std::string start = "griddepcontrol.launch_dependents;\n", wait = "griddepcontrol.wait;\n";
  expect(start_early(start + wait), "dependents before the wait");
  expect(start_early(start), "dependents without a wait");
  expect(!start_early(wait + start), "dependents after the wait");
  expect(!start_early(wait), "dependents at the end");
  expect(!start_early("mov.u32 w2, %ctaid.x;\nsetp.eq.u32 p0, w2, 0;\n@p0 " + start + wait + start),
         "dependents before the wait of one of two blocks");
}

}  // namespace

void test_dependent_launch() {
  test_accesses();
  test_blocks();
  test_dependents();
}

}  // namespace lily::emulator::tests
