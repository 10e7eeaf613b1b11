#include "cpu/amx/permission.h"

#include <atomic>

#if defined(__x86_64__)
#include <cpuid.h>

#include "system/tile_registers.h"
#endif

namespace lily::cpu {
namespace {

std::atomic<bool> requested{false};

}  // namespace

#if defined(__x86_64__)

bool has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kBfloat16 = 1u << 22, kTile = 1u << 24, kOsUsesXsave = 1u << 27;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kBfloat16) == 0 || (d & kTile) == 0) return false;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kOsUsesXsave) == 0) return false;
  unsigned low = 0, high = 0;
  __asm__ __volatile__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kTileState = 3u << 17;
  if ((low & kTileState) != kTileState) return false;
  // Palette 1 has at least eight tiles of 16 rows of 64 bytes.
  return __get_cpuid_count(0x1d, 1, &a, &b, &c, &d) && b >> 16 >= 8 && (b & 0xffff) >= 64 && (c & 0xffff) >= 16;
}

const char *amx_refusal() {
  static const char *const refusal = (requested.store(true), system::request_tile_registers());
  return refusal;
}

#else

bool has_amx() { return false; }
const char *amx_refusal() { return "this processor has no AMX"; }

#endif

bool amx_was_requested() { return requested.load(); }

}  // namespace lily::cpu
