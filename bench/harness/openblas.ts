/**
 * A copy of an environment in which OpenBLAS selects the kernels for the processor. Some systems set OPENBLAS_CORETYPE and
 * OPENBLAS_L2_SIZE, which select others.
 */
export function withoutSelectedKernels({ ...env }: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  delete env.OPENBLAS_CORETYPE
  delete env.OPENBLAS_L2_SIZE
  return env
}
