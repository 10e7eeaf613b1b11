/** Objects of another copy of the package, as `require` and `import` of one process load it, and of another version. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { deviceTensor, lilyBackward, lilyForward, tensor, type TensorLike } from '../lib/index.js'
import { expectSameBits } from './support/compare.js'
import { expectRefused } from './support/refused.js'
import { smallOperands } from './support/small.js'

it('tensors, saved calls, models and errors of the CommonJS copy in the ES module copy, and the reverse', async () => {
  const cwd = fileURLToPath(new URL('programs/', import.meta.url))
  const { stdout } = await promisify(execFile)(process.execPath, ['copies.js'], { cwd })
  expect(stdout.trim()).toBe('right')
})

/** The public properties of a tensor, under which every version of this package can be read. */
class OtherTensor {
  constructor(
    readonly data: Float32Array,
    readonly shape: number[],
    readonly device: { type: string; id: number },
  ) {}
  get dtype() {
    return 'float32'
  }
  get strides() {
    return [this.shape[1], 1]
  }
  get byteOffset() {
    return 0
  }
  get buffer() {
    throw new Error('this tensor is on no GPUDevice')
  }
  [deviceTensor]() {
    throw new Error('this tensor is in host memory')
  }
}

it('a proxy of an object of the package is refused', async () => {
  const { dy, ...operands } = smallOperands()
  const saved = new Proxy(lilyForward(operands).saved, {})
  await expectRefused('ERR_LILY_ARGUMENT', 'saved: reading it threw', () => lilyBackward({ dy }, saved))
  const x = new Proxy(tensor(operands.x.data, operands.x.shape), {})
  await expectRefused('ERR_LILY_ARGUMENT', 'x: reading it threw', () => lilyForward({ ...operands, x }))
  const throwing = new Proxy(
    {},
    {
      has: () => {
        throw new Error()
      },
      get: () => {
        throw new Error()
      },
    },
  )
  await expectRefused('ERR_LILY_ARGUMENT', 'saved', () => lilyBackward({ dy }, throwing as never))
})

it('a host tensor of another version is read by its public properties', async () => {
  const { dy: _, x, ...rest } = smallOperands()
  const on = (type: string) => new OtherTensor(x.data, x.shape, { type, id: 0 }) as unknown as TensorLike
  const { y } = lilyForward({ x: on('cpu'), ...rest })
  expectSameBits('y', y.data, lilyForward({ x, ...rest }).y.data)
  // On a device its method counts.
  await expectRefused('ERR_LILY_ARGUMENT', 'this tensor is in host memory', () =>
    lilyForward({ x: on('cuda'), ...rest }),
  )
})
