// 16-bit floats, scalar and packed, compared with exact arithmetic that rounds once. Subnormals are supported unless
// .ftz is given.
#include "tests/soft_arithmetic.h"

namespace lily::emulator::tests {
namespace {

using Operation = std::function<Bits(Bits, Bits, Bits)>;

struct Narrow {
  const char *name;
  char kind, pair_kind;
  Format format;
};
constexpr Narrow kTypes[] = {{"f16", 'H', 'X', kHalf}, {"bf16", 'B', 'Y', kBfloat}};

// Checks the scalar form and the packed form, which applies the same operation to both halves.
void check_both(const std::string &opcode, const Narrow &type, int sources, const Operation &operation) {
  const std::string name = type.name;
  check(opcode + "." + name, std::string(1, type.kind) + "=" + std::string(sources, type.kind), operation);
  check(opcode + "." + name + "x2", std::string(1, type.pair_kind) + "=" + std::string(sources, type.pair_kind),
        [=](Bits a, Bits b, Bits c) {
          const Bits lower = operation(a & 0xffff, b & 0xffff, c & 0xffff);
          return lower | operation(a >> 16, b >> 16, c >> 16) << 16;
        });
}

Bits relu(Format format, Bits bits) { return !is_nan_of(format, bits) && bits & format.sign() ? 0 : bits; }

void test_type(const Narrow &type) {
  const Format f = type.format;
  const bool is_half = type.kind == 'H';
  for (const bool ftz : {false, true}) {
    for (const bool saturates : {false, true}) {
      if (!is_half && (ftz || saturates)) continue;
      const std::string suffix = std::string(ftz ? ".ftz" : "") + (saturates ? ".sat" : "");
      const auto read = [=](Bits bits) { return decode(f, ftz ? flush(f, bits) : bits); };
      const auto finish = [=](Bits bits) {
        bits = ftz ? flush(f, bits) : bits;
        return saturates ? soft_saturate(f, bits) : bits;
      };
      for (const char *rounding : {"", ".rn"}) {
        check_both("add" + (rounding + suffix), type, 2,
                   [=](Bits a, Bits b, Bits) { return finish(soft_add(f, read(a), read(b), Mode::kEven)); });
        check_both("sub" + (rounding + suffix), type, 2,
                   [=](Bits a, Bits b, Bits) { return finish(soft_add(f, read(a), -read(b), Mode::kEven)); });
        check_both("mul" + (rounding + suffix), type, 2,
                   [=](Bits a, Bits b, Bits) { return finish(soft_multiply(f, read(a), read(b), Mode::kEven)); });
      }
      const auto fused = [=](Bits a, Bits b, Bits c) {
        return finish(soft_fma(f, read(a), read(b), read(c), Mode::kEven));
      };
      check_both("fma.rn" + suffix, type, 3, fused);
      if (!saturates)
        check_both("fma.rn" + suffix + ".relu", type, 3,
                   [=](Bits a, Bits b, Bits c) { return relu(f, fused(a, b, c)); });
    }
    if (!is_half && ftz) continue;
    const auto flushed = [=](Bits bits) { return ftz ? flush(f, bits) : bits; };
    for (const bool greatest : {false, true}) {
      for (const bool nan : {false, true}) {
        const std::string name = std::string(greatest ? "max" : "min") + (ftz ? ".ftz" : "") + (nan ? ".NaN" : "");
        check_both(name, type, 2,
                   [=](Bits a, Bits b, Bits) { return soft_choose(f, flushed(a), flushed(b), greatest, nan); });
        check_both(name + ".xorsign.abs", type, 2, [=](Bits a, Bits b, Bits) {
          const Bits keep = f.sign() - 1;
          return soft_choose(f, flushed(a & keep), flushed(b & keep), greatest, nan) | ((a ^ b) & f.sign());
        });
      }
    }
    check_both(ftz ? "abs.ftz" : "abs", type, 1, [=](Bits a, Bits, Bits) { return flushed(a) & ~f.sign(); });
    check_both(ftz ? "neg.ftz" : "neg", type, 1, [=](Bits a, Bits, Bits) { return flushed(a) ^ f.sign(); });
  }
}

// The emulator rounds these once, which is more accurate than the PTX ISA requires.
void test_approximations(const Narrow &type) {
  const Format f = type.format;
  const bool is_half = type.kind == 'H';
  const auto rounded = [=](Real (*function)(Real), bool ftz) {
    return [=](Bits a, Bits, Bits) {
      const Bits result = encode(f, function(decode(f, ftz ? flush(f, a) : a)));
      return ftz ? flush(f, result) : result;
    };
  };
  const auto exp2 = [](Real x) { return std::exp2(x); };
  const auto tanh = [](Real x) { return std::tanh(x); };
  if (is_half) check_both("ex2.approx", type, 1, rounded(exp2, false));
  check_both("ex2.approx.ftz", type, 1, rounded(exp2, true));
  check_both("tanh.approx", type, 1, rounded(tanh, false));
}

}  // namespace

void test_half() {
  for (const Narrow &type : kTypes) {
    test_type(type);
    test_approximations(type);
  }
}

}  // namespace lily::emulator::tests
