// The choices of recent calls. To choose among all tiles and splits takes tens of microseconds, which is more than a
// small call takes on the device; the rest of a plan takes less than one.
#pragma once

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <bit>
#include <optional>

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
  return problem;
}

// The values of the last keys of a thread.
template <typename Key, typename Value>
class Recent {
 public:
  // Null if there is none. It is valid until the next one is kept.
  const Value *find(const Key &key) const {
    for (const std::optional<Entry> &entry : entries_)
      if (entry && entry->key == key) return &entry->value;
    return nullptr;
  }
  const Value &keep(const Key &key, const Value &value) {
    std::optional<Entry> &oldest = entries_[next_];
    next_ = (next_ + 1) % kEntries;
    return oldest.emplace(key, value).value;
  }

 private:
  static constexpr int kEntries = 64;  // a model has a few shapes of layers, with some numbers of tokens

  struct Entry {
    Key key;
    Value value;
  };

  std::optional<Entry> entries_[kEntries];
  int next_ = 0;
};

// Choices that this thread has made, for tests.
inline thread_local int64_t choices_made = 0;

// What a choice depends on. `flags`: which operands are present.
struct ChoiceKey {
  lily_problem problem;
  int flags;
  Device device;

  // The bytes of a problem have no padding.
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
