// setp, set, selp and slct: every comparison of every type, ordered and unordered, with .ftz and a second predicate.
#include "tests/soft_float.h"

namespace lily::emulator::tests {
namespace {

// -1, 0 or 1; 2 if one of them is a NaN.
int order_of(long double x, long double y) { return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2; }

bool holds(const std::string &comparison, int order) {
  if (comparison == "num") return order != 2;
  if (comparison == "nan") return order == 2;
  const bool unordered = comparison.size() == 3;  // ltu, geu, ...: true for a NaN
  if (order == 2) return unordered;
  const std::string base = comparison.substr(0, 2);
  if (base == "eq") return order == 0;
  if (base == "ne") return order != 0;
  if (base == "lt" || base == "lo") return order < 0;
  if (base == "le" || base == "ls") return order <= 0;
  if (base == "gt" || base == "hi") return order > 0;
  return order >= 0;  // ge, hs
}

using Order = std::function<int(Bits, Bits)>;

void check_comparison(const std::string &comparison, const std::string &suffix, char kind, const Order &order) {
  const std::string signature = std::string("p=") + kind + kind;
  const auto result = [=](Bits a, Bits b) { return holds(comparison, order(a, b)); };
  check("setp." + comparison + suffix, signature, [=](Bits a, Bits b, Bits) -> Bits { return result(a, b); });
  check("setp." + comparison + suffix + " p0|d, a, b;", signature,
        [=](Bits a, Bits b, Bits) -> Bits { return !result(a, b); });
  for (const std::string combination : {"and", "or", "xor"}) {
    const auto combine = [combination](bool x, bool y) {
      return combination == "and" ? x && y : combination == "or" ? x || y : x != y;
    };
    const std::string full = "setp." + comparison + "." + combination + suffix;
    check(full + " d, a, b, c;", signature + "p",
          [=](Bits a, Bits b, Bits c) -> Bits { return combine(result(a, b), c); });
    check(full + " p0|d, a, b, !c;", signature + "p",
          [=](Bits a, Bits b, Bits c) -> Bits { return combine(!result(a, b), !c); });
  }
}

void test_integers() {
  for (const auto &[width, kind] : {std::pair{16, 'h'}, {32, 'w'}, {64, 'd'}}) {
    const int shift = 64 - width;
    const Order as_signed = [shift](Bits a, Bits b) {
      return order_of(static_cast<int64_t>(a << shift), static_cast<int64_t>(b << shift));
    };
    const Order as_unsigned = [shift](Bits a, Bits b) { return order_of(a << shift, b << shift); };
    const std::string bits = std::to_string(width);
    for (const char *name : {"eq", "ne", "lt", "le", "gt", "ge"}) {
      check_comparison(name, ".s" + bits, kind, as_signed);
      check_comparison(name, ".u" + bits, kind, as_unsigned);
    }
    for (const char *name : {"lo", "ls", "hi", "hs"}) check_comparison(name, ".u" + bits, kind, as_unsigned);
    for (const char *name : {"eq", "ne"}) check_comparison(name, ".b" + bits, kind, as_unsigned);
  }
}

void test_floats() {
  struct FloatType {
    const char *name;
    char kind;
    Format format;
    bool has_ftz;
  };
  static constexpr FloatType types[] = {{".f32", 'F', kFloat, true},
                                        {".f64", 'D', kDouble, false},
                                        {".f16", 'H', kHalf, true},
                                        {".bf16", 'B', kBfloat, false}};
  for (const FloatType &type : types) {
    for (const bool ftz : {false, true}) {
      if (ftz && !type.has_ftz) continue;
      const Format f = type.format;
      const Order order = [=](Bits a, Bits b) {
        return order_of(decode(f, ftz ? flush(f, a) : a), decode(f, ftz ? flush(f, b) : b));
      };
      for (const char *name :
           {"eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"})
        check_comparison(name, (ftz ? std::string(".ftz") : "") + type.name, type.kind, order);
    }
  }
}

// setp of packed types: p is the result of the lower halves, q of the upper halves.
void test_pairs() {
  struct Pair {
    const char *name;
    char kind;
    Format format;
    bool ftz;
  };
  for (const Pair &pair :
       {Pair{".f16x2", 'X', kHalf, false}, {".ftz.f16x2", 'X', kHalf, true}, {".bf16x2", 'Y', kBfloat, false}}) {
    const std::string signature = std::string("p=") + pair.kind + pair.kind;
    const Format f = pair.format;
    const bool ftz = pair.ftz;
    for (const std::string comparison :
         {"eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "geu", "num", "nan"}) {
      const auto half = [=](Bits a, Bits b, int shift) {
        const auto read = [&](Bits bits) {
          const Bits value = bits >> shift & 0xffff;
          return decode(f, ftz ? flush(f, value) : value);
        };
        return holds(comparison, order_of(read(a), read(b)));
      };
      const std::string name = "setp." + comparison + pair.name, combined = "setp." + comparison + ".or" + pair.name;
      check(name + " d|p0, a, b;", signature, [=](Bits a, Bits b, Bits) -> Bits { return half(a, b, 0); });
      check(name + " p0|d, a, b;", signature, [=](Bits a, Bits b, Bits) -> Bits { return half(a, b, 16); });
      check(combined + " p0|d, a, b, c;", signature + "p",
            [=](Bits a, Bits b, Bits c) -> Bits { return half(a, b, 16) || c; });
    }
  }
}

void test_selection() {
  for (const auto &[type, kind] : {std::pair{".b16", 'h'},
                                   {".u16", 'h'},
                                   {".s16", 'h'},
                                   {".b32", 'w'},
                                   {".u32", 'w'},
                                   {".s32", 'w'},
                                   {".f32", 'w'},
                                   {".b64", 'd'},
                                   {".u64", 'd'},
                                   {".s64", 'd'},
                                   {".f64", 'd'}}) {
    const std::string k(1, kind);
    check(std::string("selp") + type, k + "=" + k + k + "p", [](Bits a, Bits b, Bits c) { return c ? a : b; });
    check(std::string("slct") + type + ".s32", k + "=" + k + k + "w",
          [](Bits a, Bits b, Bits c) { return c >> 31 ? b : a; });
    for (const bool ftz : {false, true}) {
      check(std::string("slct") + (ftz ? ".ftz" : "") + type + ".f32", k + "=" + k + k + "F",
            [=](Bits a, Bits b, Bits c) { return decode(kFloat, ftz ? flush(kFloat, c) : c) >= 0 ? a : b; });
    }
  }
  const auto less = [](Bits a, Bits b) { return static_cast<int32_t>(a) < static_cast<int32_t>(b); };
  check("set.lt.u32.s32", "w=ww", [=](Bits a, Bits b, Bits) -> Bits { return less(a, b) ? 0xffffffff : 0; });
  check("set.lt.s32.s32", "w=ww", [=](Bits a, Bits b, Bits) -> Bits { return less(a, b) ? 0xffffffff : 0; });
  check("set.lt.f32.s32", "w=ww", [=](Bits a, Bits b, Bits) -> Bits { return less(a, b) ? 0x3f800000 : 0; });
  check("set.lt.and.u32.s32", "w=wwp",
        [=](Bits a, Bits b, Bits c) -> Bits { return less(a, b) && c ? 0xffffffff : 0; });
  check("set.geu.ftz.u32.f32", "w=FF", [](Bits a, Bits b, Bits) -> Bits {
    const int order = order_of(decode(kFloat, flush(kFloat, a)), decode(kFloat, flush(kFloat, b)));
    return order >= 0 ? 0xffffffff : 0;
  });
}

}  // namespace

void test_compare() {
  test_integers();
  test_floats();
  test_pairs();
  test_selection();
}

}  // namespace lily::emulator::tests
