/**
 * The end of a process without finalize(). mpirun notices a rank that dies, but takes one that ends early with code 0 for done,
 * while the others wait for it.
 */
import type { NativeMpi } from '../binding/native.js'

const { inspect } = process.getBuiltinModule('node:util')

/**
 * Aborts the job if this process ends, until the function that this returns is called.
 *
 * @param name of this process in the job, such as 'rank 1 of 4'
 */
export function abortAtExit(mpi: NativeMpi, name: () => string): () => void {
  let thrown: { readonly error: unknown } | null = null
  const onThrown = (error: unknown) => {
    thrown = { error }
    // A handler of the program goes on after the error, or exits at once.
    setImmediate(() => (thrown = null)).unref()
  }
  const onExit = (code: number) => {
    // Node.js prints an error after these listeners, and abort() does not return.
    const text =
      thrown === null
        ? `${name()} exits with code ${code} without finalize(), so the job is aborted; await finalize() at the end of the program`
        : `${name()} has thrown an error, so the job is aborted: ${inspect(thrown.error)}`
    // A process has the lowest 8 bits of its code.
    mpi.abort(`lily-kernels: ${text}`, code & 255 || 1)
  }
  process.on('uncaughtExceptionMonitor', onThrown)
  process.on('exit', onExit)
  return () => {
    process.off('uncaughtExceptionMonitor', onThrown)
    process.off('exit', onExit)
  }
}
