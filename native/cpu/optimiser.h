#pragma once

#include <stddef.h>

#include "cpu/kernels.h"

namespace lily::cpu {

// The size of the workspace in bytes. It depends on the element counts of the parameters alone.
size_t adamw_workspace(const lily_adamw &call);
void adamw(lily_adamw call, const Kernels &kernels);

}  // namespace lily::cpu
