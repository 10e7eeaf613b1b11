// Parses one kernel, from its name after .entry to its closing brace, and decodes its instructions.
#pragma once

#include <memory>

#include "core/kernel_code.h"
#include "core/token_stream.h"

namespace lily::emulator {

std::unique_ptr<KernelCode> parse_kernel(TokenStream &tokens, const ModuleContents &module);

}  // namespace lily::emulator
