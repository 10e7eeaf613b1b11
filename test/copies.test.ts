/** Objects of another copy of the package, as `require` and `import` of one process load it, and of another version. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import {
  analyse,
  deviceTensor,
  LilyAdapters,
  lilyBackward,
  lilyForward,
  linearForward,
  tensor,
  type TensorLike,
} from '../lib/index.js'
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
    readonly byteOffset = 0,
  ) {}
  get dtype() {
    return 'float32'
  }
  get strides() {
    return [this.shape[1], 1]
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

/** Such a tensor with the method of its version. */
class VersionedTensor extends OtherTensor {
  [Symbol.for('lily-kernels.1.Tensor')]() {
    return null
  }
}

it('the data of a host tensor of another version begin at its first element', () => {
  const { dy: _, x, ...rest } = smallOperands()
  const expected = lilyForward({ x, ...rest }).y.data
  // As the y of a call that was given a part of a larger array.
  const other = new VersionedTensor(x.data, x.shape, { type: 'cpu', id: 0 }, 64)
  expectSameBits('y', lilyForward({ x: other as unknown as TensorLike, ...rest }).y.data, expected)
  // Those of other libraries begin byteOffset before it.
  const longer = Float32Array.of(...new Float32Array(16), ...x.data)
  const foreign = new OtherTensor(longer, x.shape, { type: 'cpu', id: 0 }, 64)
  expectSameBits('y', lilyForward({ x: foreign as unknown as TensorLike, ...rest }).y.data, expected)
})

it('other objects of another version are called so', async () => {
  const { dy, x, a } = smallOperands()
  const classOf = (name: string) =>
    ({
      [name]: class {
        [Symbol.for(`lily-kernels.1.${name}`)]() {
          return null
        }
      },
    })[name]
  const make = (name: string): never => new (classOf(name))() as never
  const got = (name: string) => `got an object of type ${name} of another version of lily-kernels; install one version`
  await expectRefused('ERR_LILY_ARGUMENT', got('Saved'), () => lilyBackward({ dy }, make('Saved')))
  await expectRefused('ERR_LILY_ARGUMENT', got('PackedLinear'), () =>
    linearForward({ x, weight: make('PackedLinear') }),
  )
  await expectRefused('ERR_LILY_ARGUMENT', got('LilyModel'), () => analyse(make('LilyModel')))
  await expectRefused('ERR_LILY_ARGUMENT', got('LoraModel'), () =>
    new LilyAdapters().addAdapter('one', make('LoraModel')),
  )
  // An object of this version in the wrong place is none.
  const { message } = await expectRefused('ERR_LILY_ARGUMENT', 'saved', () =>
    lilyBackward({ dy }, tensor(a.data, a.shape) as never),
  )
  expect(message).not.toContain('version')
})
