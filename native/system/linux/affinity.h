// The processors that the process may run on.
#pragma once

#include <string>
#include <vector>

namespace lily::system {

// Their numbers, in ascending order; at least one.
std::vector<int> allowed_processors();

// The number of physical cores that have these processors. `root` precedes every path, for tests.
int core_count(const std::vector<int> &processors, const std::string &root = "");

}  // namespace lily::system
