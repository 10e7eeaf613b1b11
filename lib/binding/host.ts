/** Registers the binding of the host and of CUDA devices. All entries of the package but lily-kernels/webgpu do so. */
import { loadBinding } from './load.js'
import { isRegistered, register } from './native.js'

/**
 * Loads the binding, unless another entry has.
 *
 * @throws LilyError ERR_LILY_BACKEND_UNAVAILABLE
 */
export function registerHost(): void {
  if (!isRegistered) register(loadBinding())
}
