#include "runtime/fat_binary.h"

#include <compare>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "runtime/environment.h"
#include "runtime/findings.h"

namespace lily::emulator::runtime {
namespace {

// The layout that NVIDIA's runtime reads; it is not documented.
struct Wrapper {
  uint32_t magic, version;
  const char *data;
  const void *unused;
};

struct Header {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;  // after the header
};

struct Entry {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes;  // after the entry's header
};

constexpr uint32_t kMagic = 0xba55ed50;
constexpr uint16_t kPtx = 1;

constexpr const char *kBuildHint =
    ": build it with nvcc -lineinfo -cudart shared --no-compress -gencode arch=compute_90,code=compute_90";

struct Target {
  int architecture = 0;
  bool specific = false;  // "sm_90a", which is preferred to "sm_90"
  auto operator<=>(const Target &) const = default;
};

// Of the directive ".target"; 0 for an architecture-specific target other than the emulated architecture.
Target target_of(std::string_view ptx) {
  constexpr std::string_view directive = ".target sm_";
  const size_t position = ptx.find(directive);
  if (position == std::string_view::npos) return {};
  char *end = nullptr;
  const int architecture = static_cast<int>(strtol(ptx.data() + position + directive.size(), &end, 10));
  const bool specific = *end == 'a' || *end == 'f';
  if (specific && architecture != environment().architecture) return {};
  return {architecture, specific};
}

}  // namespace

std::string ptx_of(const void *wrapper) {
  const char *data = static_cast<const Wrapper *>(wrapper)->data;
  const auto *header = reinterpret_cast<const Header *>(data);
  if (header->magic != kMagic) unsupported("the program's fat binary has an unknown format");
  const char *position = data + header->header_bytes;
  const char *const end = position + header->bytes;
  std::string best;
  Target best_target;
  bool has_ptx = false;
  while (position < end) {
    const auto *entry = reinterpret_cast<const Entry *>(position);
    const char *body = position + entry->header_bytes;
    position = body + entry->bytes;
    if (entry->kind != kPtx) continue;
    has_ptx = true;
    const std::string text(std::string(body, entry->bytes).c_str());  // up to the terminating null
    if (text.find(".version") == std::string::npos)
      unsupported(std::string("the program's PTX is compressed") + kBuildHint);
    const Target target = target_of(text);
    if (target.architecture > environment().architecture || target <= best_target) continue;
    best = text;
    best_target = target;
  }
  if (!has_ptx) unsupported(std::string("the program contains no PTX") + kBuildHint);
  if (best.empty()) {
    unsupported("the program contains no PTX that sm_" + std::to_string(environment().architecture) +
                " can run: build it for a lower architecture or set LILY_EMULATOR_ARCH");
  }
  return best;
}

}  // namespace lily::emulator::runtime
