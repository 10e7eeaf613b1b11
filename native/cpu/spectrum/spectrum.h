// Eigenvalues of symmetric matrices of size r in float64, for the analysis of an adapter: the singular values of an
// update C^T A follow from products of size r. Matrices are row-major; of a symmetric one only the lower half counts.
#pragma once

#include <stdint.h>

#include "cpu/kernels.h"

namespace lily::cpu {

// Each returns false if there is no memory for its scratch.

// L [r, r] of X X^T = L L^T, X [r, columns]: zero above the diagonal. A column whose pivot is no larger than rounding
// is zero: X has a lower rank.
bool gram_factor(const Kernels &kernels, const double *x, int64_t r, int64_t columns, double *l);

// All eigenvalues of L^T (X X^T) L, the largest first; L [r, r] is zero above the diagonal, X is [r, columns].
bool congruence_eigenvalues(const Kernels &kernels, const double *l, const double *x, int64_t r, int64_t columns,
                            double *values);

}  // namespace lily::cpu
