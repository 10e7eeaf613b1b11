// f32 and f64 arithmetic: every rounding mode, compared with exact arithmetic that rounds once.
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

// Checks an instruction in all rounding modes, and without one if it is optional.
void check_rounded(const std::string &opcode, Format format, int sources, const Operation &operation,
                   bool rounding_optional) {
  const bool is_float = format.fraction_bits == kFloat.fraction_bits;
  const char kind = is_float ? 'F' : 'D';
  for (int rounding = rounding_optional ? -1 : 0; rounding < 4; ++rounding) {
    const Mode mode = rounding < 0 ? Mode::kEven : kRoundings[rounding].mode;
    check(opcode + (rounding < 0 ? "" : kRoundings[rounding].name) + (is_float ? ".f32" : ".f64"),
          std::string(1, kind) + "=" + std::string(sources, kind), [=](Bits a, Bits b, Bits c) {
            return operation(decode(format, a), decode(format, b), decode(format, c), mode);
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
  for (const Format f : {kFloat, kDouble}) {
    check_rounded("add", f, 2, [=](Real a, Real b, Real, Mode m) { return soft_add(f, a, b, m); }, true);
    check_rounded("sub", f, 2, [=](Real a, Real b, Real, Mode m) { return soft_add(f, a, -b, m); }, true);
    check_rounded("mul", f, 2, [=](Real a, Real b, Real, Mode m) { return soft_multiply(f, a, b, m); }, true);
    check_rounded("div", f, 2, [=](Real a, Real b, Real, Mode m) { return soft_divide(f, a, b, m); }, false);
    check_rounded("sqrt", f, 1, [=](Real a, Real, Real, Mode m) { return soft_root(f, a, m); }, false);
  }
  const auto fused = [](Real a, Real b, Real c, Mode m) { return soft_fma(kFloat, a, b, c, m); };
  check_rounded("fma", kFloat, 3, fused, false);
  check_rounded("fma", kDouble, 3, fma_of_doubles, false);
  check_rounded("rcp", kFloat, 1, [](Real a, Real, Real, Mode m) { return soft_divide(kFloat, 1, a, m); }, false);
}

// The result is a NaN if both operands are. -0 is less than +0.
void test_choices() {
  for (const bool greatest : {false, true}) {
    check(greatest ? "max.f32" : "min.f32", "F=FF", [=](Bits a, Bits b, Bits) {
      if (is_nan_of(kFloat, a) || is_nan_of(kFloat, b)) return is_nan_of(kFloat, a) ? b : a;
      const Real x = decode(kFloat, a), y = decode(kFloat, b);
      const bool a_below = x < y || (x == y && std::signbit(x));
      return a_below != greatest ? a : b;
    });
  }
}

void test_signs() {
  check("abs.f32", "F=F", [](Bits a, Bits, Bits) { return a & ~kFloat.sign(); });
  check("neg.f32", "F=F", [](Bits a, Bits, Bits) { return a ^ kFloat.sign(); });
}

// The bound of the PTX ISA.
void test_approximations() {
  const auto flushed = [](double x) { return std::fabs(x) < 0x1p-126 ? std::copysign(0.0, x) : x; };
  check_near("ex2.approx.ftz.f32", [=](double x) { return flushed(std::exp2(flushed(x))); }, 0x1p-22);
}

}  // namespace

void test_float() {
  test_rounded();
  test_choices();
  test_signs();
  test_approximations();
}

}  // namespace lily::emulator::tests
