/** What the kernels bear. */

/** Largest r. */
export const MAX_RANK = 4096
/** Largest number E of experts. */
export const MAX_EXPERTS = 64
