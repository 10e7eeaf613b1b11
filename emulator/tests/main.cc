// Tests of single PTX instructions. Prints the failures and a summary; exits with 1 if there are failures.
#include <cstdio>

#include "tests/harness.h"

using namespace lily::emulator::tests;

int main() {
  test_integer();
  test_bits();
  test_float();
  test_convert();
  test_compare();
  test_memory();
  test_warp();
  test_matrix();
  test_warpgroup();
  test_warpgroup_findings();
  test_control();
  test_counters();
  test_findings();
  test_launches();
  test_dependent_launch();
  test_rejections();
  for (const std::string &opcode : untested_opcodes()) expect(false, opcode + " is supported but not tested");
  std::printf("%d checks, %d failed\n", checks(), failures());
  return failures() == 0 ? 0 : 1;
}
