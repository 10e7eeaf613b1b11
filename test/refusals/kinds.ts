/** Calls whose arguments are replaced by values of other kinds; see test/refusals/arguments.test.ts. */
import { expect, it } from 'vitest'
import { LilyError } from '../../lib/index.js'
import { bits } from '../support/compare.js'

const throws = () => {
  throw new RangeError('thrown by a trap')
}
const TRAPS: ProxyHandler<object> = Object.fromEntries(
  ['get', 'has', 'ownKeys', 'getOwnPropertyDescriptor', 'getPrototypeOf', 'set', 'isExtensible'].map((trap) => [
    trap,
    throws,
  ]),
)
const revoked = (target: object) => {
  const { proxy, revoke } = Proxy.revocable(target, {})
  revoke()
  return proxy
}

/** The values that replace an argument, by their names in the rows. */
const VALUES = {
  undefined: () => undefined,
  null: () => null,
  5: () => 5,
  NaN: () => NaN,
  x: () => 'x',
  true: () => true,
  '{}': () => ({}),
  '[]': () => [],
  '[null]': () => [null],
  '[undefined]': () => [undefined],
  '[symbol]': () => [Symbol('s')],
  symbol: () => Symbol('s'),
  bigint: () => 5n,
  function: () => () => undefined,
  map: () => new Map(),
  promise: () => Promise.resolve({}),
  date: () => new Date(0),
  'typed array': () => new Float64Array(3),
  'throwing proxy': () => new Proxy({}, TRAPS),
  'throwing proxy of an array': () => new Proxy([], TRAPS),
  'revoked proxy': () => revoked({}),
  'revoked proxy of an array': () => revoked([]),
} satisfies Record<string, () => unknown>
type Value = `${keyof typeof VALUES}`
const NAMES = Object.keys(VALUES) as Value[]

export interface Row {
  /** What the message names. */
  argument: RegExp
  /** The values with which the call is valid. */
  valid?: readonly Value[]
  /** The values that are left out. */
  without?: readonly Value[]
  /** Calls with the value. `outputs` takes memory that a refused call leaves unchanged. */
  call: (value: never, outputs: Outputs) => unknown
}

/** Takes the memory of outputs. */
export type Outputs = (...data: object[]) => void

/** A row per property of `base`, whose call takes `base` with that property replaced. */
export function fields(
  base: object,
  rows: Record<string, Omit<Row, 'call' | 'argument'> & { argument?: RegExp }>,
  call: (changed: never, outputs: Outputs) => unknown,
): Record<string, Row> {
  return Object.fromEntries(
    Object.entries(rows).map(([name, row]) => [
      name,
      {
        argument: new RegExp(`\\b${name}\\b`),
        ...row,
        call: (value, outputs) => call({ ...base, [name]: value } as never, outputs),
      } satisfies Row,
    ]),
  )
}

/** A test for each group of rows. */
export function testRows(groups: Record<string, Record<string, Row>>): void {
  for (const [group, rows] of Object.entries(groups)) {
    it(`${group}: ${Object.keys(rows).join(', ')}`, async () => {
      const wrong: string[] = []
      for (const [name, row] of Object.entries(rows)) {
        for (const value of NAMES.filter((each) => row.without?.includes(each) !== true)) {
          const outcome = await outcomeOf(row, value)
          if (outcome !== null) wrong.push(`${name} = ${value}: ${outcome}`)
        }
      }
      expect(wrong).toEqual([])
    })
  }
}

/** What is wrong with the outcome of a call; null: nothing. */
async function outcomeOf({ argument, valid = [], call }: Row, value: Value): Promise<string | null> {
  const before: (readonly [Float32Array, Buffer])[] = []
  try {
    await call(VALUES[value as keyof typeof VALUES]() as never, (...data) => {
      for (const each of data as Float32Array[]) before.push([each, Buffer.from(bits(each))])
    })
  } catch (error) {
    if (!(error instanceof LilyError)) return `threw ${String(error)}`
    if (valid.includes(value)) return `is valid, but threw ${error.message}`
    if (!argument.test(error.message)) return `does not name ${String(argument)}: ${error.message}`
    const isUnchanged = before.every(([data, old]) => bits(data).equals(old))
    return isUnchanged ? null : `wrote, and then threw ${error.message}`
  }
  return valid.includes(value) ? null : 'was accepted'
}
