/** Limits of the kernels. */

export const MAX_RANK = 4096
export const MAX_EXPERTS = 64
