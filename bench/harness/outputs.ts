/**
 * Compares outputs on a device with the cpu backend, which is another implementation: a time says little about a
 * call with wrong results.
 */
import type { Graph, Tensor } from '../../lib/index.js'
import { makeContenders } from '../methods/contenders.js'
import type { Method } from '../methods/methods.js'
import { LIMITS } from '../peers/agreement.js'
import type { Case } from '../workload/cases.js'
import { decode, type Float } from '../workload/dtypes.js'
import type { Place } from '../workload/operands.js'

/** Smaller than the tiles of the kernels, so that the norm of a whole array does not hide a wrong tile. */
const [BLOCK_ROWS, BLOCK_COLUMNS] = [8, 32]

type Numbers = Pick<Tensor, 'data' | 'shape' | 'dtype'>

const valuesOf = ({ data, dtype }: Numbers): Float32Array => decode(data, dtype as Float)

/** The largest relative difference of a block of two arrays of the same shape, in the Frobenius norm; NaN counts as Infinity. */
export function blockDifference(found: Numbers, expected: Numbers): number {
  const [mine, theirs] = [valuesOf(found), valuesOf(expected)]
  const columns = expected.shape.at(-1) ?? 1
  const across = Math.ceil(columns / BLOCK_COLUMNS)
  let worst = 0
  for (let row = 0; row * columns < theirs.length; row += BLOCK_ROWS) {
    const [distances, norms] = [new Float64Array(across), new Float64Array(across)]
    for (let i = row * columns; i < Math.min((row + BLOCK_ROWS) * columns, theirs.length); i++) {
      const block = Math.floor((i % columns) / BLOCK_COLUMNS)
      distances[block] += (mine[i] - theirs[i]) ** 2
      norms[block] += theirs[i] ** 2
    }
    for (let i = 0; i < across; i++) {
      if (distances[i] === 0) continue
      const difference = Math.sqrt(distances[i] / norms[i])
      worst = Math.max(worst, Number.isNaN(difference) ? Infinity : difference)
    }
  }
  return worst
}

const isFused = (method: Method): boolean => !/-composed$|layer$/.test(method)

/**
 * The largest relative difference of each fused method and its replay as a graph, from one call of forward and backward.
 * `place` copies operands to the device. Throws an error that names the method and the array if more differs than rounding
 * explains.
 */
export async function compareOutputs(
  selected: readonly Method[],
  benchCase: Case,
  equalRank: number,
  place: Place,
  keep: <T extends Tensor | Graph>(resource: T) => T,
): Promise<Map<Method, number>> {
  /** The outputs of a method: they begin with zeros, as no input does. */
  const run = (method: Method, to: Place): Tensor[] => {
    const outputs: Tensor[] = []
    const recorded: Place = (tensor) => {
      const there = to(tensor)
      if (tensor.data[0] === 0) outputs.push(there)
      return there
    }
    const resources = { place: recorded, keep: keep as never, tensorFlow: null }
    const [calls] = makeContenders([method], benchCase, equalRank, () => 1, resources)
    calls['forward+backward']()
    return outputs
  }
  const limit = LIMITS[benchCase.dtype]
  const differences = new Map<Method, number>()
  for (const fused of selected.filter((method) => isFused(method) && !method.endsWith('-graph'))) {
    const expected = run(fused, (tensor) => tensor)
    for (const method of selected.filter((each) => each === fused || each === `${fused}-graph`)) {
      let worst = 0
      for (const [i, there] of run(method, place).entries()) {
        const difference = blockDifference(await there.toHost(), expected[i])
        if (difference > limit) {
          const what = `output ${i} of ${method}, of shape [${String(there.shape)}],`
          throw new Error(
            `wrong results: a block of ${what} differs from the cpu backend's by ${difference.toPrecision(2)} ` +
              `(relative; at most ${limit} is rounding)`,
          )
        }
        worst = Math.max(worst, difference)
      }
      differences.set(method, worst)
    }
  }
  return differences
}
