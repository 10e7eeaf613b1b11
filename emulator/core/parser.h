// Parses PTX text into kernels and shared variables. Throws Error that names the line and what is invalid or not
// supported.
#pragma once

#include <memory>
#include <string_view>

#include "core/kernel_code.h"

namespace lily::emulator {

// Records the text of each kernel without parsing it: a library has many kernels, and most programs launch few of them.
std::unique_ptr<ModuleContents> parse_module(std::string_view ptx);

}  // namespace lily::emulator
