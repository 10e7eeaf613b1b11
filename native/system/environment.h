// Environment variables.
#pragma once

#include <string>

namespace lily::system {

// Empty if the variable is not set: the package does not tell the two apart. It sees what the program has assigned to
// process.env, which getenv does not on Windows, where each C library has a copy from the start of the process.
std::string environment_variable(const char *name);

}  // namespace lily::system
