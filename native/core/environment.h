// Environment variables that turn something on or off.
#pragma once

#include <stdlib.h>
#include <string.h>

namespace lily {

enum class Switch { kUnset, kOff, kOn, kUnreadable };

// 0 and 1 are off and on; a variable that is empty counts as unset, as for all variables of the package.
inline Switch environment_switch(const char *name) {
  const char *const text = getenv(name);
  if (text == nullptr || *text == '\0') return Switch::kUnset;
  if (strcmp(text, "0") == 0) return Switch::kOff;
  return strcmp(text, "1") == 0 ? Switch::kOn : Switch::kUnreadable;
}

}  // namespace lily
