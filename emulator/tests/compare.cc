// setp and selp: every comparison of every type, ordered and unordered.
#include "tests/soft_float.h"

namespace lily::emulator::tests {
namespace {

// -1, 0 or 1; 2 if one of them is a NaN.
int order_of(long double x, long double y) { return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2; }

bool holds(const std::string &comparison, int order) {
  const bool unordered = comparison.size() == 3;  // ltu, geu, ...: true for a NaN
  if (order == 2) return unordered;
  const std::string base = comparison.substr(0, 2);
  if (base == "eq") return order == 0;
  if (base == "ne") return order != 0;
  if (base == "lt") return order < 0;
  if (base == "le") return order <= 0;
  if (base == "gt") return order > 0;
  return order >= 0;  // ge
}

using Order = std::function<int(Bits, Bits)>;

void check_comparison(const std::string &comparison, const std::string &suffix, char kind, const Order &order) {
  const std::string signature = std::string("p=") + kind + kind;
  const auto result = [=](Bits a, Bits b) { return holds(comparison, order(a, b)); };
  check("setp." + comparison + suffix, signature, [=](Bits a, Bits b, Bits) -> Bits { return result(a, b); });
  check("setp." + comparison + suffix + " p0|d, a, b;", signature,
        [=](Bits a, Bits b, Bits) -> Bits { return !result(a, b); });
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
    for (const char *name : {"eq", "ne"}) check_comparison(name, ".b" + bits, kind, as_unsigned);
  }
}

void test_floats() {
  const Order order = [](Bits a, Bits b) { return order_of(decode(kFloat, a), decode(kFloat, b)); };
  for (const char *name : {"eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu"})
    check_comparison(name, ".f32", 'F', order);
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
  }
}

}  // namespace

void test_compare() {
  test_integers();
  test_floats();
  test_selection();
}

}  // namespace lily::emulator::tests
