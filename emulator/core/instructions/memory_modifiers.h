// Modifiers of loads, stores, atomics and copies.
#pragma once

#include "core/instructions/operands.h"

namespace lily::emulator {

// .weak is the default; all others are strong. Every scope is treated as the widest; .cluster is not taken and so is
// rejected.
inline void take_ordering(Instruction &in, Modifiers &modifiers) {
  modifiers.take("weak");
  in.is_acquire = modifiers.take("acquire");
  in.is_release = modifiers.take("release");
  if (modifiers.take("acq_rel")) in.is_acquire = in.is_release = true;
  const bool relaxed = modifiers.take_any({"relaxed", "volatile"}) >= 0;
  modifiers.take("mmio");
  in.is_strong = relaxed || in.is_acquire || in.is_release;
  modifiers.take_any({"cta", "gpu", "sys"});
}

inline void take_space(Instruction &in, Modifiers &modifiers) {
  in.space = modifiers
                 .take_one<Space>({{"global", Space::kGlobal},
                                   {"shared", Space::kShared},
                                   {"shared::cta", Space::kShared},
                                   {"local", Space::kLocal},
                                   {"param", Space::kParam},
                                   {"param::entry", Space::kParam},
                                   {"const", Space::kConst}})
                 .value_or(Space::kGeneric);
}

// Takes the cache hints of a load or store, which do not affect results. True if a cache policy follows the operands.
inline bool take_cache_hints(Modifiers &modifiers, bool is_store) {
  if (is_store) {
    modifiers.take_any({"wb", "cg", "cs", "wt"});
  } else {
    modifiers.take_any({"ca", "cg", "cs", "lu", "cv"});
    modifiers.take_any({"L2::64B", "L2::128B", "L2::256B"});
  }
  modifiers.take_any(
      {"L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate"});
  modifiers.take_any({"L2::evict_normal", "L2::evict_first", "L2::evict_last"});
  return modifiers.take("L2::cache_hint");
}

}  // namespace lily::emulator
