// Branches, exits, traps and barriers.
#include "tests/harness.h"

namespace lily::emulator::tests {
namespace {

using Words = std::vector<uint32_t>;

void check_threads(const std::string &name, const std::string &body, const Words &want,
                   const std::string &declarations = {}) {
  Words out(want.size(), 0);
  const std::string findings = run_body("mov.u32 w0, %tid.x;\nmad.wide.u32 l0, w0, 4, out;\n" + body, {0}, out,
                                        static_cast<unsigned>(want.size()), declarations);
  expect(findings.empty(), name + ": " + findings);
  expect(out == want, name + ": wrong results");
}

}  // namespace

void test_control() {
  Words loop(64), early(64), neighbours(64);
  for (uint32_t i = 0; i < 64; ++i) {
    loop[i] = i * (i + 1) / 2;
    early[i] = i < 20 ? 0 : i;
    neighbours[i] = (i + 33) % 64;
  }
  check_threads("a loop",
                "mov.u32 w1, 0;\nmov.u32 w2, 0;\nNEXT:\nadd.u32 w2, w2, w1;\nadd.u32 w1, w1, 1;\n"
                "setp.le.u32 p0, w1, w0;\n@p0 bra NEXT;\nst.global.u32 [l0], w2;",
                loop);
  // Registers share numbers (core/register_allocation.h): between two uses of w3 all of w4 to w7 hold values.
  Words kept(64);
  for (uint32_t i = 0; i < 64; ++i) kept[i] = 4 * (i + 5) + 4 * 6 + 4 * 10;
  for (const std::string first : {"setp.eq.u32 p0, w1, 0;\n@p0 add.u32 w3, w0, 5;\n",
                                  "setp.ne.u32 p0, w1, 0;\n@p0 bra LATER;\nadd.u32 w3, w0, 5;\nLATER:\n"}) {
    check_threads("a value of the first iteration",
                  "mov.u32 w1, 0;\nmov.u32 w2, 0;\nNEXT:\n" + first +
                      "add.u32 w2, w2, w3;\nadd.u32 w4, w1, 1;\nadd.u32 w5, w1, 2;\nadd.u32 w6, w1, 3;\n"
                      "add.u32 w7, w1, 4;\nadd.u32 w4, w4, w5;\nadd.u32 w6, w6, w7;\nadd.u32 w4, w4, w6;\n"
                      "add.u32 w2, w2, w4;\nadd.u32 w1, w1, 1;\nsetp.lt.u32 p1, w1, 4;\n@p1 bra NEXT;\n"
                      "st.global.u32 [l0], w2;",
                  kept);
  }
  // Not 0, as a sum that a kernel forgets to clear would seem to be.
  check_threads("a value that was never written", "add.f32 w1, w1, 0f3F800000;\nst.global.u32 [l0], w1;",
                Words(64, 0x7fffffff));
  check_threads("exit", "setp.lt.u32 p0, w0, 20;\n@p0 exit;\nst.global.u32 [l0], w0;", early);
  check_threads("ret", "setp.lt.u32 p0, w0, 20;\n@p0 ret;\nst.global.u32 [l0], w0;", early);
  const std::string tile = ".shared .align 4 .b8 tile[256];\n";
  for (const std::string barrier : {"bar.sync 0;", "bar.sync 3, 64;"}) {
    check_threads(barrier,
                  "mov.u32 w1, tile;\nmad.lo.u32 w2, w0, 4, w1;\nst.shared.u32 [w2], w0;\n" + barrier +
                      "\nadd.u32 w3, w0, 33;\nand.b32 w3, w3, 63;\nmad.lo.u32 w2, w3, 4, w1;\nld.shared.u32 w4, [w2];\n"
                      "st.global.u32 [l0], w4;",
                  neighbours, tile);
  }
  check_threads("bar.warp.sync", "bar.warp.sync 0xffffffff;\nst.global.u32 [l0], w0;", [] {
    Words same(64);
    for (uint32_t i = 0; i < 64; ++i) same[i] = i;
    return same;
  }());
  Words out(1);
  expect(run_body("trap;", {0}, out, 1) == "trap", "trap is a finding");
}

}  // namespace lily::emulator::tests
