// Bit and logic instructions, compared with models that follow the text of the PTX ISA bit by bit.
#include <algorithm>

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
    if (kind == 'p') {
      check("not" + name, unary(kind), [](Bits a, Bits, Bits) -> Bits { return a == 0; });
      continue;
    }
    check("not" + name, unary(kind), [](Bits a, Bits, Bits) { return ~a; });
    check("cnot" + name, unary(kind), [](Bits a, Bits, Bits) -> Bits { return a == 0; });
  }
  const auto lookup = [](unsigned table, Bits a, Bits b, Bits c) {
    Bits result = 0;
    for (int i = 0; i < 32; ++i) result |= Bits{table >> (bit(a, i) * 4 + bit(b, i) * 2 + bit(c, i)) & 1} << i;
    return result;
  };
  for (const unsigned table : {0x00u, 0xffu, 0x80u, 0xfeu, 0x96u, 0xcau, 0x1du, 0xe2u}) {
    const std::string number = std::to_string(table);
    check("lop3.b32 d, a, b, c, " + number + ";", "w=www",
          [=](Bits a, Bits b, Bits c) { return lookup(table, a, b, c); });
    check("setp.ne.u32 p0, c, 0;\nlop3.and.b32 w0|d, a, b, c, " + number + ", p0;", "p=www",
          [=](Bits a, Bits b, Bits c) -> Bits { return lookup(table, a, b, c) != 0 && c != 0; });
    check("setp.ne.u32 p0, c, 0;\nlop3.or.b32 w0|d, a, b, c, " + number + ", p0;", "p=www",
          [=](Bits a, Bits b, Bits c) -> Bits { return lookup(table, a, b, c) != 0 || c != 0; });
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
  for (const bool wrap : {false, true}) {
    const auto count = [wrap](Bits c) { return wrap ? c & 31 : c > 32 ? 32 : c; };
    const std::string mode = wrap ? "wrap" : "clamp";
    check("shf.l." + mode + ".b32", "w=wws", [=](Bits a, Bits b, Bits c) {
      return static_cast<Bits>((static_cast<unsigned __int128>(b << 32 | a) << count(c)) >> 32);
    });
    check("shf.r." + mode + ".b32", "w=wws", [=](Bits a, Bits b, Bits c) { return (b << 32 | a) >> count(c); });
  }
}

// Position and length are the low eight bits of their operands.
void test_fields() {
  for (const auto &[width, kind] : {std::pair{32, 'w'}, {64, 'd'}}) {
    const int n = width;
    const std::string type = std::to_string(width);
    for (const bool is_signed : {false, true}) {
      check(std::string("bfe.") + (is_signed ? "s" : "u") + type, unary(kind) + "ss", [=](Bits a, Bits b, Bits c) {
        const int position = b & 0xff, length = c & 0xff;
        const bool sign = is_signed && length > 0 && bit(a, std::min(position + length - 1, n - 1));
        Bits result = 0;
        for (int i = 0; i < n; ++i) result |= Bits{i < length && position + i < n ? bit(a, position + i) : sign} << i;
        return result;
      });
    }
    for (const int position : {0, 5, n - 1, n, 255}) {
      check("bfi.b" + type + " d, a, b, " + std::to_string(position) + ", c;", binary(kind) + "s",
            [=](Bits a, Bits b, Bits c) {
              const int length = c & 0xff;
              Bits result = b;
              for (int i = 0; i < length && position + i < n; ++i) {
                result &= ~(Bits{1} << (position + i));
                result |= Bits{bit(a, i)} << (position + i);
              }
              return result;
            });
    }
    const std::string to_word = std::string("w=") + kind;
    for (const bool is_signed : {false, true}) {
      for (const bool shift : {false, true}) {
        check(std::string("bfind") + (shift ? ".shiftamt." : ".") + (is_signed ? "s" : "u") + type, to_word,
              [=](Bits a, Bits, Bits) {
                if (is_signed && bit(a, n - 1)) a = ~a;
                for (int i = n - 1; i >= 0; --i) {
                  if (bit(a, i)) return static_cast<Bits>(shift ? n - 1 - i : i);
                }
                return ~Bits{0};
              });
      }
    }
    check("clz.b" + type, to_word, [n](Bits a, Bits, Bits) -> Bits {
      Bits count = 0;
      while (count < static_cast<Bits>(n) && !bit(a, n - 1 - static_cast<int>(count))) ++count;
      return count;
    });
    check("popc.b" + type, to_word, [n](Bits a, Bits, Bits) {
      Bits count = 0;
      for (int i = 0; i < n; ++i) count += bit(a, i);
      return count;
    });
    check("brev.b" + type, unary(kind), [n](Bits a, Bits, Bits) {
      Bits result = 0;
      for (int i = 0; i < n; ++i) result |= Bits{bit(a, i)} << (n - 1 - i);
      return result;
    });
  }
}

void test_permute() {
  check("prmt.b32", "w=www", [](Bits a, Bits b, Bits c) {
    const Bits pool = b << 32 | a;
    Bits result = 0;
    for (int i = 0; i < 4; ++i) {
      const int selector = c >> (4 * i) & 15;
      Bits byte = pool >> (selector % 8 * 8) & 0xff;
      if (selector >= 8) byte = byte & 0x80 ? 0xff : 0;
      result |= byte << (8 * i);
    }
    return result;
  });
}

}  // namespace

void test_bits() {
  test_logic();
  test_shifts();
  test_fields();
  test_permute();
}

}  // namespace lily::emulator::tests
