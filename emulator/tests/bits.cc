// Bit and logic instructions, compared with models that follow the text of the PTX ISA bit by bit.
#include "tests/harness.h"

namespace lily::emulator::tests {
namespace {

std::string unary(char kind) { return std::string(1, kind) + "=" + kind; }
std::string binary(char kind) { return unary(kind) + kind; }

bool bit(Bits word, int index) { return word >> index & 1; }

int64_t sign_extend(Bits word, int bits) {
  return bit(word, bits - 1) && bits < 64 ? static_cast<int64_t>(word | ~0ull << bits) : static_cast<int64_t>(word);
}

void test_logic() {
  for (const auto &[suffix, kind] : {std::pair{".b16", 'h'}, {".b32", 'w'}, {".b64", 'd'}, {".pred", 'p'}}) {
    const std::string name = suffix;
    check("and" + name, binary(kind), [](Bits a, Bits b, Bits) { return a & b; });
    check("or" + name, binary(kind), [](Bits a, Bits b, Bits) { return a | b; });
    check("xor" + name, binary(kind), [](Bits a, Bits b, Bits) { return a ^ b; });
    const Bits mask = kind == 'p' ? 1 : ~Bits{0};
    check("not" + name, unary(kind), [mask](Bits a, Bits, Bits) { return ~a & mask; });
  }
}

// Shift amounts above the width are clamped to the width.
void test_shifts() {
  for (const auto &[width, kind] : {std::pair{16, 'h'}, {32, 'w'}, {64, 'd'}}) {
    const std::string type = std::to_string(width), signature = unary(kind) + "s";
    const int n = width;
    check("shl.b" + type, signature, [n](Bits a, Bits b, Bits) { return b >= static_cast<Bits>(n) ? 0 : a << b; });
    for (const char *letter : {"b", "u"}) {
      check("shr." + (letter + type), signature,
            [n](Bits a, Bits b, Bits) { return b >= static_cast<Bits>(n) ? 0 : a >> b; });
    }
    check("shr.s" + type, signature, [n](Bits a, Bits b, Bits) {
      return static_cast<Bits>(sign_extend(a, n) >> (b >= static_cast<Bits>(n) ? n - 1 : b));
    });
  }
}

// Position and length are the low eight bits of their operands.
void test_fields() {
  for (const int position : {0, 5, 31, 32, 255}) {
    check("bfi.b32 d, a, b, " + std::to_string(position) + ", c;", "w=wws", [=](Bits a, Bits b, Bits c) {
      const int length = c & 0xff;
      Bits result = b;
      for (int i = 0; i < length && position + i < 32; ++i) {
        result &= ~(Bits{1} << (position + i));
        result |= Bits{bit(a, i)} << (position + i);
      }
      return result;
    });
  }
  check("popc.b32", "w=w", [](Bits a, Bits, Bits) {
    Bits count = 0;
    for (int i = 0; i < 32; ++i) count += bit(a, i);
    return count;
  });
}

}  // namespace

void test_bits() {
  test_logic();
  test_shifts();
  test_fields();
}

}  // namespace lily::emulator::tests
