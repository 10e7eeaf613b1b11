// Environment variables that turn something on or off.
#pragma once

#include <string.h>

namespace lily {

enum class Switch { kUnset, kOff, kOn, kUnreadable };

// 0 and 1 are off and on; a variable that is empty counts as unset, as for all variables of the package. `text` is its
// value, and null if it is not set.
inline Switch read_switch(const char *text) {
  if (text == nullptr || *text == '\0') return Switch::kUnset;
  if (strcmp(text, "0") == 0) return Switch::kOff;
  return strcmp(text, "1") == 0 ? Switch::kOn : Switch::kUnreadable;
}

}  // namespace lily
