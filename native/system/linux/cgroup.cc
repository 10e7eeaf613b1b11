#include "system/linux/cgroup.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

namespace lily::system {
namespace {

constexpr double kNoQuota = std::numeric_limits<double>::infinity();

enum class Version { kOne, kTwo };

// A mounted hierarchy: the group `root` and all below it are visible at `point`.
struct Mount {
  std::string root, point;
};

bool has_item(const std::string &list, const std::string &item) {
  return ("," + list + ",").find("," + item + ",") != std::string::npos;
}

// Replaces the octal escapes of mountinfo, such as \040 for a space.
std::string unescape(const std::string &text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      plain += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

// The path of the process's group, from lines such as "4:cpu,cpuacct:/user" (version 1) and "0::/user" (version 2). "/"
// if there is no such line.
std::string group_path(const std::string &root, Version version) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (version == Version::kTwo ? controllers.empty() : has_item(controllers, "cpu")) return line.substr(second + 1);
  }
  return "/";
}

// Whether the mount shows the group `path`; `below` is then the path below the mount's root: empty, or "/name...".
bool find_below(const Mount &mount, const std::string &path, std::string *below) {
  const std::string prefix = mount.root == "/" ? "" : mount.root;
  if (path.compare(0, prefix.size(), prefix) != 0) return false;
  *below = path.substr(prefix.size());
  if (*below == "/") below->clear();
  // A group outside of the namespace of the process begins with "/..".
  return (below->empty() || below->front() == '/') && below->compare(0, 3, "/..") != 0;
}

// The quota of one group in processors.
double quota_at(const std::string &folder, Version version) {
  double quota = 0, period = 0;
  if (version == Version::kTwo) {
    std::ifstream(folder + "/cpu.max") >> quota >> period;  // "max" is no number, and leaves 0
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;  // -1: no quota
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? quota / period : kNoQuota;
}

// The smallest quota of the hierarchy. If no mount shows the process's group, which happens in containers, it is the
// quota of the group at the first mount point.
double hierarchy_quota(const std::string &root, Version version) {
  const std::string path = group_path(root, version);
  Mount chosen;
  std::string below;
  bool is_visible = false;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; !is_visible && std::getline(file, line);) {
    // ID, parent, device, root, mount point, options, optional fields, "-", type, source, options of the file system.
    std::istringstream fields(line);
    std::string skipped, type, options;
    Mount mount;
    fields >> skipped >> skipped >> skipped >> mount.root >> mount.point;
    while (fields >> skipped && skipped != "-") continue;
    fields >> type >> skipped >> options;
    if (version == Version::kTwo ? type != "cgroup2" : type != "cgroup" || !has_item(options, "cpu")) continue;
    mount = {unescape(mount.root), unescape(mount.point)};
    is_visible = find_below(mount, path, &below);
    if (is_visible || chosen.point.empty()) chosen = mount;
  }
  if (chosen.point.empty()) return kNoQuota;
  if (!is_visible) below.clear();
  double smallest = quota_at(root + chosen.point, version);
  for (; !below.empty(); below.erase(below.rfind('/'))) {
    smallest = std::min(smallest, quota_at(root + chosen.point + below, version));
  }
  return smallest;
}

}  // namespace

int cgroup_quota(const std::string &root) {
  const double quota = std::min(hierarchy_quota(root, Version::kTwo), hierarchy_quota(root, Version::kOne));
  return quota == kNoQuota ? 0 : static_cast<int>(std::clamp(quota, 1.0, 1e6));
}

}  // namespace lily::system
