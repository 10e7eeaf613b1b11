// Test values for instructions: the limits of each type and their neighbours.
#pragma once

#include <vector>

#include "tests/harness.h"

namespace lily::emulator::tests {

// The values for a kind of a signature. `few` shortens the list, so that three sources have a few thousand
// combinations.
inline std::vector<Bits> edge_values(char kind, bool few) {
  std::vector<Bits> values;
  switch (kind) {
    case 'p': return {0, 1};
    case 'h': values = {0, 0x8000, 0xffff, 0x7fff, 1, 0x00ff, 0xff80, 0x1234, 2, 0x8001, 0x0100}; break;
    case 'w':
      values = {0,      0x80000000, 0xffffffff, 0x7fffffff, 1,          0x12345678, 0xfedcba98, 0x00ffffff,
                0xffff, 0x00800000, 2,          7,          0x80000001, 0xffff8000, 31,         0x00010000};
      break;
    case 'd':
      values = {0,          1ull << 63, ~0ull,      ~0ull >> 1, 1,  0x123456789abcdef0, 0xfedcba9876543210, 0xffffffff,
                0x80000000, 1ull << 32, 0x7fffffff, 2,          63, 0xffffffff80000000, (1ull << 63) + 1};
      break;
    case 's': values = {0, 1, 31, 32, 33, 63, 64, 65, 15, 16, 255, 0x80000000, 0xffffffff}; break;
    case 'F':
      values = {0,          0x80000000, 0x7f800000, 0xff800000, 0x7fc00000, 0x00000001, 0x80400000, 0x3f800000,
                0xbf800001, 0x7f7fffff, 0x00800000, 0x807fffff, 0x40490fdb, 0xc0200000, 0x3f000000, 0x3effffff,
                0x4b800001, 0x4f000000, 0xcf000001, 0x33800000, 0x0d800000, 0x72800001, 0x3fe00000};
      break;
    case 'D':
      values = {0,
                1ull << 63,
                0x7ffull << 52,
                0xfffull << 52,
                0x7ff8ull << 48,
                1,
                0x3ffull << 52,
                0xbff0000000000001,
                0x7fefffffffffffff,
                0x8010000000000000,
                0x400921fb54442d18,
                0x800fffffffffffff,
                0x3fe0000000000000,
                0x4330000000000001,
                0xc004000000000000,
                0x41e0000000000000,
                0x3810000000000000,
                0x47efffffffffffff};
      break;
    case 'H':
      values = {0,      0x8000, 0x7c00, 0xfc00, 0x7e00, 0x0001, 0x83ff, 0x3c00,
                0xbc01, 0x7bff, 0x0400, 0x4248, 0xc100, 0x3800, 0x1400, 0x6801};
      break;
    case 'B':
      values = {0,      0x8000, 0x7f80, 0xff80, 0x7fc0, 0x0001, 0x807f, 0x3f80,
                0xbf81, 0x7f7f, 0x0080, 0x4049, 0xc020, 0x3f00, 0x3380, 0x4b01};
      break;
  }
  const size_t most = kind == 's' ? 13 : kind == 'F' || kind == 'D' ? 18 : 12;
  if (few && values.size() > most) values.resize(most);
  return values;
}

}  // namespace lily::emulator::tests
