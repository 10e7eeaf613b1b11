// The plans of recent calls. To choose among all tiles and splits takes tens to hundreds of microseconds, which is more
// than a small call takes on the device.
#pragma once

#include <string.h>

#include <optional>

#include "lily/backend.h"

namespace lily::cuda {

// The results of the last kEntries problems with what else they depend on. Keys are compared byte by byte: neither
// lily_problem nor `Operands` has padding. Each thread has a cache of its own.
template <typename Operands, typename Result>
class PlanCache {
 public:
  // The result of make() for this key and the code that the problem's device executes. It is valid until the next call.
  template <typename Make>
  const Result &find(const lily_problem &problem, int architecture, const Operands &operands, const Make &make) {
    Entry key = {};
    key.architecture = architecture;
    key.problem = problem;
    key.problem.scaling = 0;  // no plan depends on it
    key.operands = operands;
    for (const Entry &entry : entries_)
      if (entry.result && entry.architecture == architecture &&
          memcmp(&entry.problem, &key.problem, sizeof key.problem) == 0 &&
          memcmp(&entry.operands, &key.operands, sizeof key.operands) == 0)
        return *entry.result;
    key.result = make();
    Entry &oldest = entries_[next_];
    next_ = (next_ + 1) % kEntries;
    return *(oldest = key).result;
  }

 private:
  static constexpr int kEntries = 16;  // a model has a few shapes of layers

  struct Entry {
    lily_problem problem;
    Operands operands;
    int architecture;
    std::optional<Result> result;  // a plan has default values, which would be part of the file of the library
  };

  Entry entries_[kEntries] = {};
  int next_ = 0;
};

}  // namespace lily::cuda
