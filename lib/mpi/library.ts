/** The choice of the MPI library, which is opened at run time. */
import { LilyError } from '../base/errors.js'
import { fromBinding } from '../binding/errors.js'
import { native, type NativeMpi } from '../binding/native.js'
import type { Environment, Launcher } from './launcher.js'

/** An MPI library that is open. */
export interface Library {
  readonly mpi: NativeMpi
  /** Such as 'Open MPI 5.0.7'. */
  readonly library: string
  /** What the dynamic linker was asked for, such as 'libmpi.so.40'. */
  readonly file: string
}

/** Names of libraries at run time: those without a version belong to packages for development. */
const FILES: Readonly<Record<string, Record<'abi' | Launcher['implementation'], readonly string[]>>> = {
  linux: {
    abi: ['libmpi_abi.so.0', 'libmpi_abi.so'],
    'Open MPI': ['libmpi.so.40'],
    MPICH: ['libmpi.so.12'],
  },
  darwin: {
    abi: ['libmpi_abi.dylib'],
    'Open MPI': ['libmpi.40.dylib'],
    MPICH: ['libmpi.12.dylib'],
  },
}

/**
 * The libraries to try, in order: the one that LILY_MPI_LIBRARY names, or that of the standard's ABI, and those of the
 * implementations. Debian installs both beside each other, so that of the launcher comes first.
 */
export function candidates(environment: Environment, platform: string, launcher: Launcher | null): readonly string[] {
  const { LILY_MPI_LIBRARY: given } = environment
  if (given !== undefined && given !== '') return [given]
  const files = FILES[platform] ?? FILES.linux
  const [first, second] =
    launcher?.implementation === 'MPICH' ? (['MPICH', 'Open MPI'] as const) : (['Open MPI', 'MPICH'] as const)
  return [...files.abi, ...files[first], ...files[second]]
}

/**
 * Opens the MPI library of this process.
 *
 * @throws LilyError ERR_LILY_BACKEND_UNAVAILABLE
 */
export function openLibrary(launcher: Launcher | null): Library {
  const { mpi } = native
  if (mpi === undefined) {
    throw unavailable(
      'MPI needs the native addon for Linux or macOS, which does not run here; npx lily-kernels doctor says why',
    )
  }
  const tried = candidates(process.env, process.platform, launcher)
  try {
    const { name, version } = mpi.open(tried)
    return { mpi, library: libraryName(version), file: name }
  } catch (cause) {
    const { LILY_MPI_LIBRARY: given } = process.env
    const remedy =
      given === undefined || given === ''
        ? 'install it (Debian: openmpi-bin or mpich), load its module (on clusters: module load openmpi), or set ' +
          'LILY_MPI_LIBRARY to the path of its library'
        : 'correct or unset LILY_MPI_LIBRARY'
    const reasons = (fromBinding(cause) as Error).message.split('\n')
    throw unavailable(`no MPI library can be opened (${reasons.join(', ')}); ${remedy}`, cause)
  }
}

export function unavailable(message: string, cause?: unknown): LilyError {
  return new LilyError('ERR_LILY_BACKEND_UNAVAILABLE', message, { cause })
}

/** The name and the version of an implementation in the text of MPI_Get_library_version. */
export function libraryName(text: string): string {
  const [, openMpi] = /^Open MPI v([^\s,]+)/.exec(text) ?? []
  if (openMpi !== undefined) return `Open MPI ${openMpi}`
  const [, mpich] = /^MPICH Version:\s*(\S+)/.exec(text) ?? []
  if (mpich !== undefined) return `MPICH ${mpich}`
  return text.trim()
}
