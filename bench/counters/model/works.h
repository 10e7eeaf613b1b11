// The work of each launch of a finished plan, in order, if every output is required and accumulates.
#pragma once

#include <vector>

#include "model/model.h"

namespace lily::cuda {

std::vector<Work> works_of(const lily_problem &problem, const ForwardPlan &plan, const Device &device);
std::vector<Work> works_of(const lily_problem &problem, const BackwardPlan &plan, const Device &device);

}  // namespace lily::cuda
