// The CPU quota of the control group that the process belongs to.
#pragma once

#include <string>

namespace lily::system {

// The CPU quota in whole processors, at least 1; 0 if there is none. It is the smallest quota of the process's group
// and of all groups above it that are visible, in both versions of control groups. `root` precedes every path, for
// tests.
int cgroup_quota(const std::string &root = "");

}  // namespace lily::system
