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
  Wide lowest() const { return is_signed ? -(static_cast<Wide>(1) << (bits - 1)) : 0; }
  Wide highest() const { return (static_cast<Wide>(1) << (bits - is_signed)) - 1; }
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
  check("mad.hi" + name, three,
        [&](Bits a, Bits b, Bits c) { return high(value(a) * value(b), type) + static_cast<Bits>(value(c)); });
  check("min" + name, two, [&](Bits a, Bits b, Bits) { return static_cast<Bits>(std::min(value(a), value(b))); });
  check("max" + name, two, [&](Bits a, Bits b, Bits) { return static_cast<Bits>(std::max(value(a), value(b))); });
  check("sad" + name, three, [&](Bits a, Bits b, Bits c) {
    return static_cast<Bits>(value(c) + std::max(value(a), value(b)) - std::min(value(a), value(b)));
  });
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
    check("abs" + name, one,
          [&](Bits a, Bits, Bits) { return static_cast<Bits>(value(a) < 0 ? -value(a) : value(a)); });
  }
  if (type.twice != 0) {
    check("mul.wide" + name, signature(type.twice, {k, k}),
          [&](Bits a, Bits b, Bits) { return static_cast<Bits>(value(a) * value(b)); });
    check("mad.wide" + name, signature(type.twice, {k, k, type.twice}),
          [&](Bits a, Bits b, Bits c) { return static_cast<Bits>(value(a) * value(b)) + c; });
  }
}

// Carries: the second instruction makes the carry flag of the first visible.
void test_carries() {
  for (const IntegerType &type : {kTypes[2], kTypes[3], kTypes[4], kTypes[5]}) {
    const std::string name = std::string(".") + type.name, scratch = type.bits == 32 ? "w0" : "l0";
    const std::string three = signature(type.kind, {type.kind, type.kind, type.kind});
    const Bits mask = ~0ull >> (64 - type.bits);
    const auto sum = [mask](Bits a, Bits b) { return static_cast<unsigned __int128>(a & mask) + (b & mask); };
    const int n = type.bits;
    check("add.cc" + name + " " + scratch + ", a, b;\naddc" + name + " d, c, " + scratch + ";", three,
          [=](Bits a, Bits b, Bits c) { return c + static_cast<Bits>(sum(a, b)) + static_cast<Bits>(sum(a, b) >> n); });
    check("add.cc" + name + " " + scratch + ", a, b;\naddc.cc" + name + " " + scratch + ", c, a;\naddc" + name +
              " d, 0, 0;",
          three, [=](Bits a, Bits b, Bits c) { return static_cast<Bits>((sum(c, a) + (sum(a, b) >> n)) >> n); });
    check("sub.cc" + name + " " + scratch + ", a, b;\nsubc" + name + " d, c, " + scratch + ";", three,
          [=](Bits a, Bits b, Bits c) { return c - (a - b) - ((a & mask) < (b & mask)); });
    check("sub.cc" + name + " " + scratch + ", a, b;\nsubc.cc" + name + " " + scratch + ", c, a;\nsubc" + name +
              " d, 0, 0;",
          three, [=](Bits a, Bits b, Bits c) {
            const bool borrow = (a & mask) < (b & mask);
            return static_cast<Bits>(0) - ((c & mask) < static_cast<unsigned __int128>(a & mask) + borrow);
          });
    const auto wide = [type](Bits a, Bits b) { return type.value(a) * type.value(b); };
    check("mad.lo.cc" + name + " " + scratch + ", a, b, c;\nmadc.hi" + name + " d, a, b, 0;", three,
          [=](Bits a, Bits b, Bits c) {
            return high(wide(a, b), type) + static_cast<Bits>(sum(static_cast<Bits>(wide(a, b)), c) >> n);
          });
    check("mad.hi.cc" + name + " " + scratch + ", a, b, c;\nmadc.lo.cc" + name + " " + scratch + ", a, b, c;\naddc" +
              name + " d, 0, 0;",
          three, [=](Bits a, Bits b, Bits c) {
            const Bits first = static_cast<Bits>(sum(high(wide(a, b), type), c) >> n);
            return static_cast<Bits>((sum(static_cast<Bits>(wide(a, b)), c) + first) >> n);
          });
  }
}

Wide clamp_to(Wide value, const IntegerType &type) { return std::clamp(value, type.lowest(), type.highest()); }

// The low 24 bits as a number.
Wide value_24(Bits bits, bool is_signed) {
  const Wide kept = bits & 0xffffff;
  return is_signed && kept >= 0x800000 ? kept - 0x1000000 : kept;
}

Wide field(Bits word, int index, int bits, bool is_signed) {
  const Wide kept = word >> (index * bits) & ((1ull << bits) - 1);
  return is_signed && kept >> (bits - 1) ? kept - (static_cast<Wide>(1) << bits) : kept;
}

void test_products() {
  for (const bool is_signed : {false, true}) {
    const std::string name = is_signed ? ".s32" : ".u32";
    const auto product = [=](Bits a, Bits b) { return value_24(a, is_signed) * value_24(b, is_signed); };
    check("mul24.lo" + name, "w=ww", [=](Bits a, Bits b, Bits) { return static_cast<Bits>(product(a, b)); });
    check("mul24.hi" + name, "w=ww", [=](Bits a, Bits b, Bits) { return static_cast<Bits>(product(a, b) >> 16); });
    check("mad24.lo" + name, "w=www", [=](Bits a, Bits b, Bits c) { return static_cast<Bits>(product(a, b)) + c; });
    check("mad24.hi" + name, "w=www",
          [=](Bits a, Bits b, Bits c) { return static_cast<Bits>(product(a, b) >> 16) + c; });
    for (const bool other : {false, true}) {
      const std::string types = name + (other ? ".s32" : ".u32");
      check("dp4a" + types, "w=www", [=](Bits a, Bits b, Bits c) {
        for (int i = 0; i < 4; ++i) c += static_cast<Bits>(field(a, i, 8, is_signed) * field(b, i, 8, other));
        return c;
      });
      for (const int upper : {0, 1}) {
        check(std::string("dp2a") + (upper ? ".hi" : ".lo") + types, "w=www", [=](Bits a, Bits b, Bits c) {
          for (int i = 0; i < 2; ++i)
            c += static_cast<Bits>(field(a, i, 16, is_signed) * field(b, i + 2 * upper, 8, other));
          return c;
        });
      }
    }
  }
}

}  // namespace

void test_integer() {
  for (const IntegerType &type : kTypes) test_type(type);
  test_carries();
  test_products();
  const IntegerType &s32 = kTypes[3];
  const auto value = [&](Bits bits) { return s32.value(bits); };
  check("add.sat.s32", "w=ww",
        [&](Bits a, Bits b, Bits) { return static_cast<Bits>(clamp_to(value(a) + value(b), s32)); });
  check("sub.sat.s32", "w=ww",
        [&](Bits a, Bits b, Bits) { return static_cast<Bits>(clamp_to(value(a) - value(b), s32)); });
  check("mad.hi.sat.s32", "w=www", [&](Bits a, Bits b, Bits c) {
    return static_cast<Bits>(clamp_to((value(a) * value(b) >> 32) + value(c), s32));
  });
  check("min.relu.s32", "w=ww",
        [&](Bits a, Bits b, Bits) { return static_cast<Bits>(std::max(Wide{0}, std::min(value(a), value(b)))); });
  check("max.relu.s32", "w=ww",
        [&](Bits a, Bits b, Bits) { return static_cast<Bits>(std::max(Wide{0}, std::max(value(a), value(b)))); });
}

}  // namespace lily::emulator::tests
