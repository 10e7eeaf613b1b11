/** Limits of the kernels. */

/** Largest rank r. */
export const MAX_RANK = 4096
/** Largest number of experts, E. */
export const MAX_EXPERTS = 64
