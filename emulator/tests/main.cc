// Tests of single PTX instructions. Prints what failed and a summary; ends with 1 if anything did.
#include <cstdio>

#include "tests/harness.h"

using namespace lily::emulator::tests;

int main() {
  test_integer();
  test_bits();
  test_float();
  test_half();
  test_convert();
  test_compare();
  test_memory();
  test_warp();
  test_matrix();
  test_control();
  test_counters();
  test_findings();
  test_launches();
  test_refusals();
  for (const std::string &opcode : untested_opcodes()) expect(false, opcode + " is accepted, but no test uses it");
  std::printf("%d checks, %d failed\n", checks(), failures());
  return failures() == 0 ? 0 : 1;
}
