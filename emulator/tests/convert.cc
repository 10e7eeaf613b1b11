// cvt between integers, floats and 16-bit floats, with every rounding mode, .ftz and .sat; mov with vectors.
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
struct FloatType {
  const char *name;
  char kind;
  Format format;
};
constexpr FloatType kFloats[] = {{"f32", 'F', kFloat}, {"f64", 'D', kDouble}, {"f16", 'H', kHalf}};

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
      check("cvt.sat" + types, signature(to.kind, from.kind),
            [=](Bits a, Bits, Bits) { return static_cast<Bits>(clamp_to(to, value_of(from, a))); });
    }
  }
}

Real whole_of(Real x, const std::string &rounding) {
  if (rounding == "rzi") return std::trunc(x);
  if (rounding == "rmi") return std::floor(x);
  if (rounding == "rpi") return std::ceil(x);
  const Real down = std::floor(x), part = x - down;
  const bool odd = std::fmod(down, 2.0L) != 0;
  return part > 0.5L || (part == 0.5L && odd) ? down + 1 : down;
}

// Values out of range become the nearest limit. A NaN becomes 0, or only the top bit is set if a 64-bit type takes
// part.
void test_float_to_integer() {
  for (const FloatType &from : kFloats) {
    for (const IntegerType &to : kIntegers) {
      for (const std::string rounding : {"rni", "rzi", "rmi", "rpi"}) {
        for (const bool ftz : {false, true}) {
          if (ftz && from.kind != 'F') continue;
          const Format f = from.format;
          const bool from_narrow = from.kind != 'D';
          check("cvt." + rounding + (ftz ? ".ftz." : ".") + to.name + "." + from.name, signature(to.kind, from.kind),
                [=](Bits a, Bits, Bits) -> Bits {
                  if (is_nan_of(f, a)) return to.bits < 64 && from_narrow ? 0 : Bits{1} << (to.bits - 1);
                  const Real x = whole_of(decode(f, ftz ? flush(f, a) : a), rounding);
                  const Real limit = std::ldexp(1.0L, 66);
                  return static_cast<Bits>(clamp_to(to, static_cast<__int128>(std::clamp(x, -limit, limit))));
                });
        }
      }
    }
  }
}

struct Rounded {
  const char *name;
  Mode mode;
};
constexpr Rounded kRoundings[] = {{".rn", Mode::kEven}, {".rz", Mode::kZero}, {".rm", Mode::kDown}, {".rp", Mode::kUp}};

void test_integer_to_float() {
  for (const IntegerType &from : kIntegers) {
    for (const FloatType &to : kFloats) {
      for (const Rounded &rounding : kRoundings) {
        check(
            std::string("cvt") + rounding.name + "." + to.name + "." + from.name, signature(to.kind, from.kind),
            [=](Bits a, Bits, Bits) { return encode(to.format, static_cast<Real>(value_of(from, a)), rounding.mode); });
      }
    }
  }
}

void test_between_floats() {
  for (const Rounded &rounding : kRoundings) {
    const Mode mode = rounding.mode;
    const std::string name = std::string("cvt") + rounding.name;
    check(name + ".f32.f64", "F=D", [=](Bits a, Bits, Bits) { return encode(kFloat, decode(kDouble, a), mode); });
    check(name + ".ftz.f32.f64", "F=D",
          [=](Bits a, Bits, Bits) { return flush(kFloat, encode(kFloat, decode(kDouble, a), mode)); });
    check(name + ".sat.f32.f64", "F=D",
          [=](Bits a, Bits, Bits) { return soft_saturate(kFloat, encode(kFloat, decode(kDouble, a), mode)); });
    check(name + ".f16.f64", "H=D", [=](Bits a, Bits, Bits) { return encode(kHalf, decode(kDouble, a), mode); });
    check(name + ".f16.f32", "H=F", [=](Bits a, Bits, Bits) { return encode(kHalf, decode(kFloat, a), mode); });
  }
  check("cvt.f64.f32", "D=F", [](Bits a, Bits, Bits) { return encode(kDouble, decode(kFloat, a)); });
  check("cvt.ftz.f64.f32", "D=F", [](Bits a, Bits, Bits) { return encode(kDouble, decode(kFloat, flush(kFloat, a))); });
  check("cvt.f32.f16", "F=H", [](Bits a, Bits, Bits) { return encode(kFloat, decode(kHalf, a)); });
  check("cvt.f64.f16", "D=H", [](Bits a, Bits, Bits) { return encode(kDouble, decode(kHalf, a)); });
  check("cvt.f32.bf16", "F=B", [](Bits a, Bits, Bits) { return encode(kFloat, decode(kBfloat, a)); });
  for (const auto &[name, mode] : {std::pair{"rn", Mode::kEven}, {"rz", Mode::kZero}}) {
    const Mode m = mode;
    const std::string rounding = name;
    for (const bool relu : {false, true}) {
      const std::string prefix = "cvt." + rounding + (relu ? ".relu" : "");
      for (const auto &[type, kind, pair_kind, format] :
           {std::tuple{"f16", 'H', 'X', kHalf}, {"bf16", 'B', 'Y', kBfloat}}) {
        const Format f = format;
        const auto narrow = [=](Bits a) {
          const Bits bits = encode(f, decode(kFloat, a), m);
          return relu && !is_nan_of(f, bits) && bits & f.sign() ? Bits{0} : bits;
        };
        check(prefix + "." + type + ".f32", signature(kind, 'F'), [=](Bits a, Bits, Bits) { return narrow(a); });
        // The first source is the upper half.
        check(prefix + "." + type + "x2.f32", std::string(1, pair_kind) + "=FF",
              [=](Bits a, Bits b, Bits) { return narrow(a) << 16 | narrow(b); });
      }
    }
  }
  // tf32 is an f32 with 10 fraction bits.
  constexpr Format kTf32{8, 10};
  const auto to_tf32 = [=](Mode mode) {
    return [=](Bits a, Bits, Bits) { return encode(kTf32, decode(kFloat, a), mode) << 13; };
  };
  check("cvt.rna.tf32.f32", "F=F", to_tf32(Mode::kAway));
  check("cvt.rn.tf32.f32", "F=F", to_tf32(Mode::kEven));
  check("cvt.rz.tf32.f32", "F=F", to_tf32(Mode::kZero));
  check("cvt.rn.relu.tf32.f32", "F=F", [=](Bits a, Bits b, Bits c) {
    return is_nan_of(kFloat, a) || !(a & kFloat.sign()) ? to_tf32(Mode::kEven)(a, b, c) : 0;
  });
  for (const std::string rounding : {"rni", "rzi", "rmi", "rpi"}) {
    for (const FloatType &type : kFloats) {
      const Format f = type.format;
      check("cvt." + rounding + "." + type.name + "." + type.name, signature(type.kind, type.kind),
            [=](Bits a, Bits, Bits) {
              const Real x = decode(f, a);
              return std::isfinite(x) ? encode(f, std::copysign(whole_of(x, rounding), x)) : a;
            });
    }
  }
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
