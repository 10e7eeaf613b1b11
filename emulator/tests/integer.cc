// Integer arithmetic, compared with models in 128-bit integers.
#include <algorithm>

#include "tests/harness.h"

namespace lily::emulator::tests {
namespace {

using Wide = __int128;

struct IntegerType {
  const char *name;
  char kind, twice;  // characters of signatures; `twice` is the kind of a .wide result
  int bits;
  bool is_signed;

  Wide value(Bits bits_) const {
    const Bits kept = bits == 64 ? bits_ : bits_ & ((1ull << bits) - 1);
    const bool negative = is_signed && kept >> (bits - 1);
    return static_cast<Wide>(kept) - (negative ? static_cast<Wide>(1) << bits : 0);
  }
};

constexpr IntegerType kTypes[] = {{"u16", 'h', 'w', 16, false}, {"s16", 'h', 'w', 16, true},
                                  {"u32", 'w', 'd', 32, false}, {"s32", 'w', 'd', 32, true},
                                  {"u64", 'd', 0, 64, false},   {"s64", 'd', 0, 64, true}};

std::string signature(char result, std::initializer_list<char> sources) {
  return std::string(1, result) + "=" + std::string(sources);
}

// The product of two n-bit numbers has 2n bits. For unsigned 64-bit numbers that is all 128, so the shift is unsigned.
Bits high(Wide product, const IntegerType &type) {
  return static_cast<Bits>(static_cast<unsigned __int128>(product) >> type.bits);
}

void test_type(const IntegerType &type) {
  const std::string name = std::string(".") + type.name;
  const char k = type.kind;
  const std::string one = signature(k, {k}), two = signature(k, {k, k}), three = signature(k, {k, k, k});
  const auto value = [&type](Bits bits) { return type.value(bits); };
  check("add" + name, two, [&](Bits a, Bits b, Bits) { return static_cast<Bits>(value(a) + value(b)); });
  check("sub" + name, two, [&](Bits a, Bits b, Bits) { return static_cast<Bits>(value(a) - value(b)); });
  check("mul.lo" + name, two, [&](Bits a, Bits b, Bits) { return static_cast<Bits>(value(a) * value(b)); });
  check("mul.hi" + name, two, [&](Bits a, Bits b, Bits) { return high(value(a) * value(b), type); });
  check("mad.lo" + name, three,
        [&](Bits a, Bits b, Bits c) { return static_cast<Bits>(value(a) * value(b) + value(c)); });
  check("min" + name, two, [&](Bits a, Bits b, Bits) { return static_cast<Bits>(std::min(value(a), value(b))); });
  check("max" + name, two, [&](Bits a, Bits b, Bits) { return static_cast<Bits>(std::max(value(a), value(b))); });
  // Division by zero is unspecified, so the divisor is made odd. INT_MIN / -1 overflows, so -1 is replaced by 7.
  const std::string bits = std::to_string(type.bits);
  const std::string scratch = type.bits == 16 ? "h0" : type.bits == 32 ? "w0" : "l0";
  const auto divisor = [&](Bits b) { return value(b | 1) == -1 ? Wide{7} : value(b | 1); };
  const std::string prepare = "or.b" + bits + " " + scratch + ", b, 1;\nsetp.eq.s" + bits + " p0, " + scratch +
                              ", -1;\nselp.b" + bits + " " + scratch + ", 7, " + scratch + ", p0;\n";
  const auto safe = [&, divisor](Bits b) { return type.is_signed ? divisor(b) : value(b | 1); };
  const std::string odd = type.is_signed ? prepare : "or.b" + bits + " " + scratch + ", b, 1;\n";
  check(odd + "div" + name + " d, a, " + scratch + ";", two,
        [&](Bits a, Bits b, Bits) { return static_cast<Bits>(value(a) / safe(b)); });
  check(odd + "rem" + name + " d, a, " + scratch + ";", two,
        [&](Bits a, Bits b, Bits) { return static_cast<Bits>(value(a) % safe(b)); });
  if (type.is_signed) {
    check("neg" + name, one, [&](Bits a, Bits, Bits) { return static_cast<Bits>(-value(a)); });
  }
  if (type.twice != 0) {
    check("mul.wide" + name, signature(type.twice, {k, k}),
          [&](Bits a, Bits b, Bits) { return static_cast<Bits>(value(a) * value(b)); });
    check("mad.wide" + name, signature(type.twice, {k, k, type.twice}),
          [&](Bits a, Bits b, Bits c) { return static_cast<Bits>(value(a) * value(b)) + c; });
  }
}

}  // namespace

void test_integer() {
  for (const IntegerType &type : kTypes) test_type(type);
}

}  // namespace lily::emulator::tests
