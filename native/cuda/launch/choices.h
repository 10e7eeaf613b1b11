// The choices of recent calls. To choose among all tiles and splits takes tens of microseconds, which is more than a
// small call takes on the device; the rest of a plan takes less than one.
#pragma once

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <string_view>
#include <unordered_map>

#include "cuda/device.h"

namespace lily::cuda {

// Calls whose M is in the same bucket have the same choices, made for its largest M, whichever of them comes first. A
// bucket ends at each multiple of a sixteenth of the power of two below it, and therefore at each power of two. Near
// 2^31 each M is its own: tiles beyond the end would overflow.
inline int64_t bucket(int64_t tokens) {
  if (tokens <= 32 || tokens > INT32_MAX / 16 * 15) return tokens;
  const auto unit = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(tokens - 1)) / 16);
  return (tokens + unit - 1) / unit * unit;
}

// The problem at the end of its bucket, without what no choice depends on.
inline lily_problem bucketed(lily_problem problem) {
  problem.tokens = bucket(problem.tokens);
  problem.scaling = 0;
  problem.dropout = problem.dropout != 0;
  return problem;
}

// The values of keys that a thread has had; all are forgotten when there are too many.
template <typename Key, typename Value>
class Recent {
 public:
  // Null if there is none. It is valid until the next one is kept.
  const Value *find(const Key &key) const {
    const auto found = values_.find(key);
    return found == values_.end() ? nullptr : &found->second;
  }
  const Value &keep(const Key &key, const Value &value) {
    if (values_.size() == kMostKeys) values_.clear();
    return values_.insert_or_assign(key, value).first->second;
  }

 private:
  // A model has a few shapes of layers, with some numbers of tokens. In a list each adapter has its own.
  static constexpr size_t kMostKeys = 512;

  struct Hash {
    size_t operator()(const Key &key) const { return key.hash(); }
  };

  std::unordered_map<Key, Value, Hash> values_;
};

// Hashes bytes without padding.
inline size_t hash_bytes(const void *bytes, size_t count) {
  return std::hash<std::string_view>()({static_cast<const char *>(bytes), count});
}

// Choices that this thread has made, for tests.
inline thread_local int64_t choices_made = 0;

// What a choice depends on. `flags`: which operands are present.
struct ChoiceKey {
  lily_problem problem;
  int flags;
  Device device;

  // A problem has few flags and devices. Its bytes have no padding.
  size_t hash() const { return hash_bytes(&problem, sizeof problem); }
  bool operator==(const ChoiceKey &other) const {
    return flags == other.flags && memcmp(&problem, &other.problem, sizeof problem) == 0 && device == other.device;
  }
};

// The choices of a thread; make(bucketed(problem)) makes one.
template <typename Choice>
class Choices {
 public:
  template <typename Make>
  const Choice &find(const lily_problem &problem, int flags, const Device &device, const Make &make) {
    const ChoiceKey key = {bucketed(problem), flags, device};
    if (const Choice *kept = kept_.find(key)) return *kept;
    ++choices_made;
    return kept_.keep(key, make(key.problem));
  }

 private:
  Recent<ChoiceKey, Choice> kept_;
};

}  // namespace lily::cuda
