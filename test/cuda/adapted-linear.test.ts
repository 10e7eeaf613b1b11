/** The frozen layer and its adapter in one call, on a device: the results of the host, within rounding. */
import { expect, test } from 'vitest'
import {
  captureGraph,
  cast,
  deviceTensor,
  foldB,
  lilyBackward,
  lilyBackwardAsync,
  lilyForward,
  lilyForwardAsync,
  linearForward,
  loraBackward,
  loraForward,
  packLinear,
  type DeviceTensorLike,
  Stream,
  type Tensor,
  tensor,
} from '../../lib/index.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import { gaussian, randomFrom } from '../support/random.js'

const [tokens, dIn, dOut, rank, experts] = [70, 40, 52, 5, 3]
const device = { type: 'cuda', id: 0 } as const

function operands(isLora: boolean): Record<'x' | 'a' | 'b' | 'weight' | 'bias' | 'dy', Tensor> & { router?: Tensor } {
  const random = randomFrom(3)
  const made = (...shape: number[]) =>
    tensor(
      gaussian(
        random,
        shape.reduce((p, q) => p * q),
      ),
      shape,
    )
  return {
    x: made(tokens, dIn),
    a: made(rank, dIn),
    weight: made(dOut, dIn),
    bias: made(dOut),
    dy: made(tokens, dOut),
    b: isLora ? made(dOut, rank) : made(experts, rank, dOut),
    ...(!isLora && { router: made(experts, rank) }),
  }
}

async function expectSameAsHost(
  isLora: boolean,
  run: (given: ReturnType<typeof operands>) => Record<string, Tensor | undefined>,
): Promise<void> {
  const host = operands(isLora)
  const moved = Object.fromEntries(
    Object.entries(host).map(([name, value]) => [name, value.to(device)]),
  ) as unknown as typeof host
  const expected = run(host)
  for (const [name, result] of Object.entries(run(moved))) {
    if (result === undefined) continue
    const actual = await result.toHost()
    expect(actual.shape, name).toEqual(expected[name]?.shape)
    expect(relativeError(actual.data as Float32Array, expected[name]?.data as Float32Array), name).toBeLessThan(1e-5)
  }
}

test('Lily, with a packed weight', async () => {
  await expectSameAsHost(false, ({ dy, weight, bias, ...rest }) => {
    const packed = packLinear(weight)
    const { y, saved } = lilyForward({ ...rest, weight: packed, bias })
    return { y, ...lilyBackward({ dy }, saved) }
  })
})

test('LoRA', async () => {
  await expectSameAsHost(true, ({ dy, weight, bias, x, a, b }) => {
    const { y, saved } = loraForward({ x, a, b, weight, bias })
    return { y, ...loraBackward({ dy }, saved) }
  })
})

test('Async forms enqueue both at once: operands may be disposed of meanwhile', async () => {
  const host = operands(false)
  const moved = () =>
    Object.fromEntries(Object.entries(host).map(([name, value]) => [name, value.to(device)])) as unknown as typeof host
  /** Disposes of tensors and overwrites their memory, which the pool gives to others of their size. */
  const overwrite = (...tensors: (Tensor | undefined)[]) => {
    for (const old of tensors) {
      const other = tensor(new Float32Array(size(old)).fill(NaN), [size(old)])
      old?.dispose()
      other.to(device)
    }
  }
  const { dy, ...expectedOperands } = moved()
  const expected = lilyForward(expectedOperands)
  const gradients = lilyBackward({ dy }, expected.saved)

  const { dy: _, ...given } = moved()
  const pending = lilyForwardAsync(given, { save: false })
  overwrite(given.x, given.weight, given.a, given.router, given.b)
  expectSameBits('y', (await (await pending).y.toHost()).data, (await expected.y.toHost()).data)

  const { dy: dyAgain, ...again } = moved()
  const { saved } = lilyForward(again)
  const backward = lilyBackwardAsync({ dy: dyAgain }, saved)
  overwrite(dyAgain, again.x, again.weight, again.a, again.router, again.b)
  for (const name of ['dx', 'da', 'dRouter', 'db'] as const) {
    const actual = await (await backward)[name].toHost()
    expectSameBits(name, actual.data, (await gradients[name].toHost()).data)
  }
})

test('a graph holds the weight and the bias; foldB adds a deferred gradient of b', async () => {
  const onDevice = () =>
    Object.fromEntries(
      Object.entries(operands(false)).map(([name, value]) => [name, value.to(device)]),
    ) as unknown as ReturnType<typeof operands>
  const { dy, ...given } = onDevice()
  const expected = lilyForward(given)
  const { dx } = lilyBackward({ dy }, expected.saved, { retain: true })

  const { dy: dyAgain, ...again } = onDevice()
  let results: Tensor[] = []
  const graph = captureGraph(() => {
    const { y, saved } = lilyForward(again)
    results = [y, lilyBackward({ dy: dyAgain }, saved).dx]
  })
  again.weight.dispose()
  again.bias.dispose()
  const stranger = tensor(new Float32Array(size(given.weight)).fill(NaN), [size(given.weight)]).to(device)
  for (let i = 0; i < 2; i++) {
    graph.replay()
    expectSameBits('y', (await results[0].toHost()).data, (await expected.y.toHost()).data)
    expectSameBits('dx', (await results[1].toHost()).data, (await dx.toHost()).data)
  }
  stranger.dispose()
  graph.dispose()

  const { db } = lilyBackward({ dy }, expected.saved, { retain: true })
  lilyBackward({ dy }, expected.saved, { deferB: true })
  const folded = await foldB(expected.saved).toHost()
  expect(relativeError(folded.data as Float32Array, (await db.toHost()).data as Float32Array)).toBeLessThan(1e-6)
})

// The emulator fails for work that nothing orders.
test('a given y and dx without a stream, and a weight in another stream than x: the call waits for both', async () => {
  const { dy, weight, bias: _, ...rest } = operands(false)
  const y = tensor(new Float32Array(tokens * dOut), [tokens, dOut])
  const dx = tensor(new Float32Array(tokens * dIn), [tokens, dIn])
  const host = { dy, weight, ...rest }
  const expected = lilyForward({ ...rest, weight })
  const gradients = lilyBackward({ dy }, expected.saved)

  const onDevice = [...Object.entries(host), ...Object.entries({ y, dx })].map(
    ([name, value]) => [name, value.to(device)] as const,
  )
  await Stream.default(device).synchronize()
  const withoutStream = Object.fromEntries(
    onDevice.map(([name, value]) => [name, { ...value[deviceTensor](), stream: undefined }]),
  ) as unknown as Record<keyof ReturnType<typeof operands> | 'y' | 'dx', DeviceTensorLike>
  // With one stream the call would run there, and with two it runs in the default stream, in which the results are read.
  const given = {
    ...withoutStream,
    x: { ...withoutStream.x, stream: Stream.default(device).handle },
    weight: { ...withoutStream.weight, stream: Stream.create(device).handle },
  }
  const { x, a, router, b } = given
  const { y: actual, saved } = lilyForward({ x, a, router, b, weight: given.weight, y: given.y })
  const { dx: actualDx } = lilyBackward({ dy: given.dy, dx: given.dx }, saved)
  for (const [result, of] of [
    [actual, expected.y],
    [actualDx, gradients.dx],
  ]) {
    expect(relativeError((await result.toHost()).data as Float32Array, of.data as Float32Array)).toBeLessThan(1e-5)
  }
})

function size(of: Tensor | undefined): number {
  return of?.shape.reduce((product, length) => product * length) ?? 0
}

test('a weight of 16 bits under float32, and its bias, have the bits of the same ones in float32', async () => {
  const { dy: _, ...given } = operands(false)
  const moved = Object.fromEntries(
    Object.entries(given).map(([name, value]) => [name, value.to(device)]),
  ) as unknown as typeof given
  const [weight, bias] = [cast(given.weight, 'bfloat16'), cast(given.bias, 'bfloat16')]
  const of = (dtype: 'bfloat16' | 'float32') => ({
    weight: cast(weight, dtype).to(device),
    bias: cast(bias, dtype).to(device),
  })
  const floats = async (y: Tensor) => (await y.toHost()).data as Float32Array
  for (const run of [
    (layer: ReturnType<typeof of>) => lilyForward({ ...moved, ...layer }).y,
    (layer: ReturnType<typeof of>) => linearForward({ x: moved.x, ...layer }).y,
    // A bias in float32 beside it.
    ({ weight }: ReturnType<typeof of>) => linearForward({ x: moved.x, weight, bias: of('float32').bias }).y,
  ])
    expectSameBits('y', await floats(run(of('bfloat16'))), await floats(run(of('float32'))))
})
