// f32 and f64 arithmetic: every rounding mode, .ftz and .sat, compared with exact arithmetic that rounds once.
#include <cfenv>

#include "tests/soft_arithmetic.h"

namespace lily::emulator::tests {
namespace {

struct Rounded {
  const char *name;
  Mode mode;
};
constexpr Rounded kRoundings[] = {{".rn", Mode::kEven}, {".rz", Mode::kZero}, {".rm", Mode::kDown}, {".rp", Mode::kUp}};

using Operation = std::function<Bits(Real, Real, Real, Mode)>;

// Checks all modifiers of an f32 instruction: rounding mode (also omitted, if it is optional), .ftz and .sat.
void check_float(const std::string &opcode, const std::string &signature, const Operation &operation,
                 bool rounding_optional, bool has_saturation) {
  for (int rounding = rounding_optional ? -1 : 0; rounding < 4; ++rounding) {
    const Mode mode = rounding < 0 ? Mode::kEven : kRoundings[rounding].mode;
    for (const bool ftz : {false, true}) {
      for (const bool saturates : {false, true}) {
        if (saturates && !has_saturation) continue;
        const std::string name = opcode + (rounding < 0 ? "" : kRoundings[rounding].name) + (ftz ? ".ftz" : "") +
                                 (saturates ? ".sat" : "") + ".f32";
        check(name, signature, [=](Bits a, Bits b, Bits c) {
          const auto read = [ftz](Bits bits) { return decode(kFloat, ftz ? flush(kFloat, bits) : bits); };
          Bits result = operation(read(a), read(b), read(c), mode);
          if (ftz) result = flush(kFloat, result);
          return saturates ? soft_saturate(kFloat, result) : result;
        });
      }
    }
  }
}

void check_double(const std::string &opcode, const std::string &signature, const Operation &operation,
                  bool rounding_optional) {
  for (int rounding = rounding_optional ? -1 : 0; rounding < 4; ++rounding) {
    const Mode mode = rounding < 0 ? Mode::kEven : kRoundings[rounding].mode;
    check(opcode + (rounding < 0 ? "" : kRoundings[rounding].name) + ".f64", signature, [=](Bits a, Bits b, Bits c) {
      return operation(decode(kDouble, a), decode(kDouble, b), decode(kDouble, c), mode);
    });
  }
}

// The CPU's fused multiply-add. The volatile variables keep it between the changes of the rounding mode.
Bits fma_of_doubles(Real x, Real y, Real z, Mode mode) {
  static const int modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  volatile double a = static_cast<double>(x), b = static_cast<double>(y), c = static_cast<double>(z);
  std::fesetround(modes[static_cast<int>(mode)]);
  volatile double result = std::fma(a, b, c);
  std::fesetround(FE_TONEAREST);
  const double value = result;
  Bits bits;
  std::memcpy(&bits, &value, 8);
  return bits;
}

void test_rounded() {
  check_float("add", "F=FF", [](Real a, Real b, Real, Mode m) { return soft_add(kFloat, a, b, m); }, true, true);
  check_float("sub", "F=FF", [](Real a, Real b, Real, Mode m) { return soft_add(kFloat, a, -b, m); }, true, true);
  check_float("mul", "F=FF", [](Real a, Real b, Real, Mode m) { return soft_multiply(kFloat, a, b, m); }, true, true);
  const auto fused = [](Real a, Real b, Real c, Mode m) { return soft_fma(kFloat, a, b, c, m); };
  check_float("fma", "F=FFF", fused, false, true);
  check_float("mad", "F=FFF", fused, false, true);
  check_float("div", "F=FF", [](Real a, Real b, Real, Mode m) { return soft_divide(kFloat, a, b, m); }, false, false);
  check_float("rcp", "F=F", [](Real a, Real, Real, Mode m) { return soft_divide(kFloat, 1, a, m); }, false, false);
  check_float("sqrt", "F=F", [](Real a, Real, Real, Mode m) { return soft_root(kFloat, a, m); }, false, false);

  check_double("add", "D=DD", [](Real a, Real b, Real, Mode m) { return soft_add(kDouble, a, b, m); }, true);
  check_double("sub", "D=DD", [](Real a, Real b, Real, Mode m) { return soft_add(kDouble, a, -b, m); }, true);
  check_double("mul", "D=DD", [](Real a, Real b, Real, Mode m) { return soft_multiply(kDouble, a, b, m); }, true);
  check_double("fma", "D=DDD", fma_of_doubles, false);
  check_double("mad", "D=DDD", fma_of_doubles, false);
  check_double("div", "D=DD", [](Real a, Real b, Real, Mode m) { return soft_divide(kDouble, a, b, m); }, false);
  check_double("rcp", "D=D", [](Real a, Real, Real, Mode m) { return soft_divide(kDouble, 1, a, m); }, false);
  check_double("sqrt", "D=D", [](Real a, Real, Real, Mode m) { return soft_root(kDouble, a, m); }, false);
}

void test_choices() {
  for (const bool greatest : {false, true}) {
    const std::string name = greatest ? "max" : "min";
    check(name + ".f64", "D=DD", [=](Bits a, Bits b, Bits) { return soft_choose(kDouble, a, b, greatest, false); });
    for (const bool ftz : {false, true}) {
      for (const bool nan : {false, true}) {
        const std::string modifiers = std::string(ftz ? ".ftz" : "") + (nan ? ".NaN" : "");
        const auto read = [ftz](Bits bits) { return ftz ? flush(kFloat, bits) : bits; };
        check(name + modifiers + ".f32", "F=FF",
              [=](Bits a, Bits b, Bits) { return soft_choose(kFloat, read(a), read(b), greatest, nan); });
        check(name + modifiers + ".xorsign.abs.f32", "F=FF", [=](Bits a, Bits b, Bits) {
          const Bits sign = (a ^ b) & kFloat.sign(), keep = kFloat.sign() - 1;
          return soft_choose(kFloat, read(a & keep), read(b & keep), greatest, nan) | sign;
        });
      }
    }
  }
}

void test_signs() {
  for (const bool ftz : {false, true}) {
    const auto read = [ftz](Bits bits) { return ftz ? flush(kFloat, bits) : bits; };
    const std::string suffix = ftz ? ".ftz.f32" : ".f32";
    check("abs" + suffix, "F=F", [=](Bits a, Bits, Bits) { return read(a) & ~kFloat.sign(); });
    check("neg" + suffix, "F=F", [=](Bits a, Bits, Bits) { return read(a) ^ kFloat.sign(); });
  }
  check("abs.f64", "D=D", [](Bits a, Bits, Bits) { return a & ~kDouble.sign(); });
  check("neg.f64", "D=D", [](Bits a, Bits, Bits) { return a ^ kDouble.sign(); });
  // The result has the sign of a and the magnitude of b.
  check("copysign.f32", "F=FF", [](Bits a, Bits b, Bits) { return (a & kFloat.sign()) | (b & ~kFloat.sign()); });
  check("copysign.f64", "D=DD", [](Bits a, Bits b, Bits) { return (a & kDouble.sign()) | (b & ~kDouble.sign()); });
  for (const auto &[type, kind, format] : {std::tuple{".f32", "F", kFloat}, {".f64", "D", kDouble}}) {
    const std::string signature = std::string("p=") + kind;
    const Format f = format;
    const auto magnitude = [f](Bits bits) { return bits & ~f.sign(); };
    check(std::string("testp.finite") + type, signature,
          [=](Bits a, Bits, Bits) -> Bits { return magnitude(a) < f.infinity(); });
    check(std::string("testp.infinite") + type, signature,
          [=](Bits a, Bits, Bits) -> Bits { return magnitude(a) == f.infinity(); });
    check(std::string("testp.number") + type, signature, [=](Bits a, Bits, Bits) -> Bits { return !is_nan_of(f, a); });
    check(std::string("testp.notanumber") + type, signature,
          [=](Bits a, Bits, Bits) -> Bits { return is_nan_of(f, a); });
    check(std::string("testp.normal") + type, signature, [=](Bits a, Bits, Bits) -> Bits {
      return magnitude(a) < f.infinity() && !is_subnormal(f, a);  // zeros count as normal
    });
    check(std::string("testp.subnormal") + type, signature,
          [=](Bits a, Bits, Bits) -> Bits { return is_subnormal(f, a); });
  }
}

// The bounds of the PTX ISA: units in the last place as relative errors, and absolute errors for results near zero.
void test_approximations() {
  const auto flushed = [](double x) { return std::fabs(x) < 0x1p-126 ? std::copysign(0.0, x) : x; };
  const double unit = 0x1p-23;
  for (const bool ftz : {false, true}) {
    const std::string suffix = ftz ? ".approx.ftz.f32" : ".approx.f32";
    const auto with = [=](double (*function)(double)) {
      return [=](double x) {
        const double y = function(ftz ? flushed(x) : x);
        return ftz ? flushed(y) : y;
      };
    };
    check_near("rcp" + suffix, with([](double x) { return 1 / x; }), unit, 0);
    check_near("sqrt" + suffix, with([](double x) { return std::sqrt(x); }), unit, 0);
    check_near("rsqrt" + suffix, with([](double x) { return 1 / std::sqrt(x); }), 2 * unit, 0);
    check_near("ex2" + suffix, with([](double x) { return std::exp2(x); }), 2 * unit, 0);
    check_near("lg2" + suffix, with([](double x) { return std::log2(x); }), 2 * unit, 0x1p-22);
    // The ISA gives no bound for arguments far from zero, so they are folded into [-pi, pi] first.
    const std::string fold = "abs.f32 w0, a;\nsetp.gt.f32 p0, w0, 0f40490FDB;\nselp.b32 w0, 0f3F800000, a, p0;\n";
    const auto folded = [](double x) { return std::fabs(x) > 0x1.921fb6p+1 ? 1 : x; };
    check_near(
        fold + "sin" + suffix + " d, w0;", [=](double x) { return std::sin(folded(ftz ? flushed(x) : x)); }, 0,
        0x1p-20);
    check_near(
        fold + "cos" + suffix + " d, w0;", [=](double x) { return std::cos(folded(ftz ? flushed(x) : x)); }, 0,
        0x1p-20);
    const std::string by_three = (ftz ? ".approx.ftz.f32" : ".approx.f32") + std::string(" d, a, 0f40400000;");
    check_near(
        "div" + by_three,
        [=](double x) {
          const double y = (ftz ? flushed(x) : x) / 3;
          return ftz ? flushed(y) : y;
        },
        2 * unit, 0x1p-149);
    const std::string full = (ftz ? ".full.ftz.f32" : ".full.f32") + std::string(" d, a, 0f40400000;");
    check_near(
        "div" + full,
        [=](double x) {
          const double y = (ftz ? flushed(x) : x) / 3;
          return ftz ? flushed(y) : y;
        },
        2 * unit, 0x1p-149);
  }
  // The gross approximations of f64 read and write only the upper 32 bits.
  const auto normal = [](double x) { return std::fabs(x) < 0x1p-1022 ? std::copysign(0.0, x) : x; };
  check_near("rcp.approx.ftz.f64", [=](double x) { return normal(1 / normal(x)); }, 0x1p-18, 0, 'D');
  check_near("rsqrt.approx.ftz.f64", [=](double x) { return 1 / std::sqrt(normal(x)); }, 0x1p-18, 0, 'D');
  check_near("rsqrt.approx.f64", [](double x) { return 1 / std::sqrt(x); }, 0x1p-51, 0, 'D');
  check_near("tanh.approx.f32", [](double x) { return std::tanh(x); }, 0x1p-11, 0);
}

}  // namespace

void test_float() {
  test_rounded();
  test_choices();
  test_signs();
  test_approximations();
}

}  // namespace lily::emulator::tests
