/** The frozen layer and its adapter in one call, on a device: the results of the host, within rounding. */
import { expect, test } from 'vitest'
import {
  lilyLinearBackward,
  lilyLinearForward,
  loraLinearBackward,
  loraLinearForward,
  packLinear,
  type Tensor,
  tensor,
} from '../../lib/index.js'
import { relativeError } from '../support/compare.js'
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
    ...{ x: made(tokens, dIn), a: made(rank, dIn), weight: made(dOut, dIn), bias: made(dOut), dy: made(tokens, dOut) },
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
    const { y, saved } = lilyLinearForward({ ...rest, weight: packed, bias })
    return { y, ...lilyLinearBackward({ dy, weight: packed }, saved) }
  })
})

test('LoRA', async () => {
  await expectSameAsHost(true, ({ dy, weight, bias, x, a, b }) => {
    const { y, saved } = loraLinearForward({ x, a, b, weight, bias })
    return { y, ...loraLinearBackward({ dy, weight }, saved) }
  })
})
