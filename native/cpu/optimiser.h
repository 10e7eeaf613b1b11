#pragma once

#include <stddef.h>

#include "cpu/kernels.h"

namespace lily::cpu {

// Bytes of the workspace, from the counts alone.
size_t adamw_workspace(const lily_adamw &call);
void adamw(const lily_adamw &call, const Kernels &kernels);

}  // namespace lily::cpu
