// The fundamental types and state spaces of PTX.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace lily::emulator {

enum class Type : uint8_t {
  kNone,
  kPred,
  kB8,
  kB16,
  kB32,
  kB64,
  kB128,
  kU8,
  kU16,
  kU32,
  kU64,
  kS8,
  kS16,
  kS32,
  kS64,
  kF16,
  kF16x2,
  kBf16,
  kBf16x2,
  kF32,
  kF64,
  kTf32,
};

std::optional<Type> type_named(std::string_view name);  // "f32", without the dot
std::string_view name_of(Type type);
int size_of(Type type);  // bytes in memory
constexpr bool is_signed(Type type) { return type >= Type::kS8 && type <= Type::kS64; }
constexpr bool is_bits(Type type) { return type >= Type::kB8 && type <= Type::kB128; }
constexpr bool is_integer(Type type) { return type >= Type::kB8 && type <= Type::kS64; }
constexpr bool is_float(Type type) { return type >= Type::kF16; }

enum class Space : uint8_t { kGeneric, kGlobal, kShared, kLocal, kParam };

// Generic addresses of shared and local memory lie in windows that contain no host allocation. Generic addresses of
// global memory are host addresses.
inline constexpr uint64_t kSharedWindow = 0x7e00'0000'0000'0000, kLocalWindow = 0x7d00'0000'0000'0000;
inline constexpr uint64_t kWindowBytes = uint64_t{1} << 24;

}  // namespace lily::emulator
