/** The file of lily-kernels/webgpu in the place of stream.ts: a GPUDevice has no streams. */
import { fail } from '../base/errors.js'

export function readStreamValue(_value: unknown): never {
  fail(
    'ERR_LILY_ARGUMENT',
    'stream',
    'expected none, since a GPUDevice has one queue; a GPUCommandEncoder goes to the option encoder; leave it out',
  )
}
