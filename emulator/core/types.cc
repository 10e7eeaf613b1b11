// Names and sizes of the types.
#include "core/types.h"

#include <array>
#include <utility>

namespace lily::emulator {
namespace {

constexpr std::array<std::pair<std::string_view, int>, 22> kTypes = {{
    {"", 0},      {"pred", 1}, {"b8", 1},     {"b16", 2}, {"b32", 4}, {"b64", 8},  {"b128", 16}, {"u8", 1},
    {"u16", 2},   {"u32", 4},  {"u64", 8},    {"s8", 1},  {"s16", 2}, {"s32", 4},  {"s64", 8},   {"f16", 2},
    {"f16x2", 4}, {"bf16", 2}, {"bf16x2", 4}, {"f32", 4}, {"f64", 8}, {"tf32", 4},
}};

}  // namespace

std::optional<Type> type_named(std::string_view name) {
  for (size_t i = 1; i < kTypes.size(); ++i) {
    if (kTypes[i].first == name) return static_cast<Type>(i);
  }
  return std::nullopt;
}

std::string_view name_of(Type type) { return kTypes[static_cast<size_t>(type)].first; }
int size_of(Type type) { return kTypes[static_cast<size_t>(type)].second; }

}  // namespace lily::emulator
