// cvt between integers, floats and 16-bit floats; mov with vectors.
#include "tests/soft_arithmetic.h"

namespace lily::emulator::tests {
namespace {

struct IntegerType {
  const char *name;
  char kind;
  int bits;
  bool is_signed;
};
constexpr IntegerType kIntegers[] = {{"u16", 'h', 16, false}, {"s16", 'h', 16, true},  {"u32", 'w', 32, false},
                                     {"s32", 'w', 32, true},  {"u64", 'd', 64, false}, {"s64", 'd', 64, true}};
std::string signature(char to, char from) { return std::string(1, to) + "=" + from; }

__int128 value_of(const IntegerType &type, Bits bits) {
  const Bits kept = type.bits == 64 ? bits : bits & ((Bits{1} << type.bits) - 1);
  const bool negative = type.is_signed && kept >> (type.bits - 1);
  return static_cast<__int128>(kept) - (negative ? static_cast<__int128>(1) << type.bits : 0);
}
__int128 clamp_to(const IntegerType &type, __int128 value) {
  const __int128 lowest = type.is_signed ? -(static_cast<__int128>(1) << (type.bits - 1)) : 0;
  const __int128 highest = (static_cast<__int128>(1) << (type.bits - type.is_signed)) - 1;
  return std::clamp(value, lowest, highest);
}

void test_between_integers() {
  for (const IntegerType &from : kIntegers) {
    for (const IntegerType &to : kIntegers) {
      const std::string types = std::string(".") + to.name + "." + from.name;
      check("cvt" + types, signature(to.kind, from.kind),
            [=](Bits a, Bits, Bits) { return static_cast<Bits>(value_of(from, a)); });
    }
  }
}

// Values out of range become the nearest limit. A NaN becomes 0, or only the top bit is set if the type has 64 bits.
void test_float_to_integer() {
  for (const IntegerType &to : kIntegers) {
    if (!to.is_signed) continue;
    check(std::string("cvt.rzi.") + to.name + ".f32", signature(to.kind, 'F'), [=](Bits a, Bits, Bits) -> Bits {
      if (is_nan_of(kFloat, a)) return to.bits < 64 ? 0 : Bits{1} << 63;
      const Real limit = std::ldexp(1.0L, 66), x = std::clamp(std::trunc(decode(kFloat, a)), -limit, limit);
      return static_cast<Bits>(clamp_to(to, static_cast<__int128>(x)));
    });
  }
}

void test_integer_to_float() {
  for (const IntegerType &from : {kIntegers[2], kIntegers[3]}) {
    check(std::string("cvt.rn.f32.") + from.name, signature('F', from.kind),
          [=](Bits a, Bits, Bits) { return encode(kFloat, static_cast<Real>(value_of(from, a))); });
  }
}

void test_between_floats() {
  check("cvt.rn.f32.f64", "F=D", [](Bits a, Bits, Bits) { return encode(kFloat, decode(kDouble, a)); });
  check("cvt.f64.f32", "D=F", [](Bits a, Bits, Bits) { return encode(kDouble, decode(kFloat, a)); });
  check("cvt.f32.f16", "F=H", [](Bits a, Bits, Bits) { return encode(kFloat, decode(kHalf, a)); });
  check("cvt.f32.bf16", "F=B", [](Bits a, Bits, Bits) { return encode(kFloat, decode(kBfloat, a)); });
  for (const auto &[type, kind, pair_kind, format] :
       {std::tuple{"f16", 'H', 'X', kHalf}, {"bf16", 'B', 'Y', kBfloat}}) {
    const Format f = format;
    const auto narrow = [=](Bits a) { return encode(f, decode(kFloat, a)); };
    check(std::string("cvt.rn.") + type + ".f32", signature(kind, 'F'), [=](Bits a, Bits, Bits) { return narrow(a); });
    // The first source is the upper half.
    check(std::string("cvt.rn.") + type + "x2.f32", std::string(1, pair_kind) + "=FF",
          [=](Bits a, Bits b, Bits) { return narrow(a) << 16 | narrow(b); });
  }
  // tf32 is an f32 with 10 fraction bits.
  constexpr Format kTf32{8, 10};
  check("cvt.rna.tf32.f32", "F=F",
        [=](Bits a, Bits, Bits) { return encode(kTf32, decode(kFloat, a), Mode::kAway) << 13; });
  // .sat clamps to [0, 1]; a NaN becomes +0.
  check("cvt.sat.f32.f32", "F=F", [](Bits a, Bits, Bits) {
    if (is_nan_of(kFloat, a) || a & kFloat.sign()) return Bits{0};
    return std::min(a, encode(kFloat, 1));
  });
}

void test_moves() {
  for (const auto &[type, kind] : {std::pair{"b16", 'h'},
                                   {"u16", 'h'},
                                   {"s16", 'h'},
                                   {"b32", 'w'},
                                   {"u32", 'w'},
                                   {"s32", 'w'},
                                   {"f32", 'w'},
                                   {"b64", 'd'},
                                   {"u64", 'd'},
                                   {"s64", 'd'},
                                   {"f64", 'd'}}) {
    check(std::string("mov.") + type, signature(kind, kind), [](Bits a, Bits, Bits) { return a; });
  }
  check("mov.pred", "p=p", [](Bits a, Bits, Bits) { return a; });
  check("mov.b32 d, {a, b};", "w=hh", [](Bits a, Bits b, Bits) { return a | b << 16; });
  check("mov.b64 d, {a, b};", "d=ww", [](Bits a, Bits b, Bits) { return a | b << 32; });
  check("mov.b64 d, {a, b, c, a};", "d=hhh", [](Bits a, Bits b, Bits c) { return a | b << 16 | c << 32 | a << 48; });
  check("mov.b32 {h0, d}, a;", "h=w", [](Bits a, Bits, Bits) { return a >> 16; });
  check("mov.b64 {_, d}, a;", "w=d", [](Bits a, Bits, Bits) { return a >> 32; });
}

}  // namespace

void test_convert() {
  test_between_integers();
  test_float_to_integer();
  test_integer_to_float();
  test_between_floats();
  test_moves();
}

}  // namespace lily::emulator::tests
