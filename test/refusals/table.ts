/** One table of refusals: a valid call of each function, and the values of its arguments with which it is refused. */
import { describe, expect, it } from 'vitest'
import { LilyError, Tensor } from '../../lib/index.js'
import { bits } from '../support/compare.js'

/** The values that replace each argument, by their names in the tables. */
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
} satisfies Record<string, () => unknown>
type Value = `${keyof typeof VALUES}`

/** The kinds of arguments, by the values that are valid. */
const KINDS = {
  required: [],
  optional: ['undefined'],
  nullable: ['undefined', 'null'],
  flag: ['undefined', 'true'],
  number: ['5'],
  numberOrNot: ['undefined', '5'],
  text: ['x'],
  textOrNull: ['undefined', 'null', 'x'],
  list: ['[]'],
  listOrNot: ['undefined', '[]'],
  object: ['{}'],
  options: ['undefined', '{}'],
  map: ['{}', 'map'],
  mapOrNot: ['undefined', '{}', 'map'],
  mapOrNull: ['undefined', 'null', '{}', 'map'],
  function: ['function'],
  functionOrNot: ['undefined', 'function'],
} satisfies Record<string, readonly Value[]>

/** The paths of the arguments of each kind, as 'x x.data options.scaling'. */
export type Kinds = Partial<Record<keyof typeof KINDS, string>>

/** The paths of properties of one object. */
export const at = (path: string, names: string) => names.replace(/[^ ]+/g, `${path}.$&`)

/** A function: a valid call of it, in new memory each time, and what it refuses. */
export interface Subject<Call extends object> {
  call: () => Call | Promise<Call>
  run: (call: Call) => unknown
  /** Each of these arguments is replaced by values of all kinds. */
  kinds?: Kinds
  /** What the errors of an argument name. Default: the last part of its path; outside of options, also the first. */
  names?: Readonly<Record<string, RegExp>>
  /** Values that an argument is not given. */
  without?: Readonly<Record<string, readonly Value[]>>
  rows?: readonly Row<Call>[]
  /** The call is valid on other machines only. */
  isInvalid?: boolean | undefined
}

/**
 * A value that is refused. A function makes the value from the call, and may change the call. `message` is a part of the
 * error's message, or the name of the argument in the error if that is another one.
 */
export type Row<Call> = [
  path: string,
  what: string,
  value: object | Primitive | ((call: Call) => unknown),
  code: 'ARGUMENT' | 'SHAPE' | 'DTYPE' | 'DEVICE' | 'DISPOSED' | 'BACKEND_UNAVAILABLE' | 'CHECKPOINT',
  message?: string,
]
type Primitive = string | number | bigint | boolean | symbol | null | undefined

/** Stands for no property. */
export const MISSING = Symbol('missing')

/** A message says what was expected and what came, or what is wrong and what to do. */
const FORM = /(expected|must) [^]*got |; /

/** Most characters of a message. */
const MOST_CHARACTERS = 800

/** The tests of a function. After each refused call, all memory that the call refers to is as it was. */
export function refuse<Call extends object>(name: string, subject: Subject<Call>): void {
  const { kinds = {}, names = {}, without = {}, rows = [], isInvalid = false } = subject
  if (rows.length === 0 && Object.keys(kinds).length === 0) return
  describe(name, () => {
    if (!isInvalid) {
      it('accepts the valid call', async () => {
        await subject.run(await subject.call())
      })
    }

    if (Object.keys(kinds).length > 0)
      it('refuses other kinds of values', async () => {
        const wrong: string[] = []
        for (const [kind, paths] of Object.entries(kinds)) {
          const valid: readonly string[] = KINDS[kind as keyof typeof KINDS]
          for (const path of paths.split(' ')) {
            for (const [value, make] of Object.entries(VALUES)) {
              if (without[path]?.includes(value as Value) === true) continue
              const error = await errorOf(subject, path, () => ({ value: make() }))
              const isNamed = error !== null && (names[path] ?? nameOf(path)).test(error.argument ?? error.message)
              if (valid.includes(value) ? error !== null : !isNamed || error.message.length > MOST_CHARACTERS)
                wrong.push(`${path} = ${value}: ${error === null ? 'accepted' : `${error.argument}; ${error.message}`}`)
            }
          }
        }
        expect(wrong).toEqual([])
      })

    it.for(rows)('refuses %s: %s', async ([path, , value, code, message = '']) => {
      const make = async (call: Call) => ({
        value: typeof value === 'function' ? ((await value(call)) as unknown) : value,
      })
      const error = await errorOf(subject, path, make)
      const argument = String(error?.argument)
      const isName = /^\w*$/.test(message)
      const isArgument = message === '' ? nameOf(path).test(argument) : argument === message
      expect({ code: error?.code, message: error?.message, isArgument: isArgument || !isName }).toEqual({
        code: `ERR_LILY_${code}`,
        message: isName ? (expect.stringMatching(FORM) as string) : (expect.stringContaining(message) as string),
        isArgument: true,
      })
      expect(error?.message.length).toBeLessThan(MOST_CHARACTERS)
    })
  })
}

/** What an error names: 'x' of 'options.x', 'x[0]' of 'x.0', and 'x' or 'data' of 'x.data'. */
function nameOf(path: string): RegExp {
  const parts = path.replace(/\.(\d+)$/, '\\[$1\\]').split('.')
  const names = parts[0] === 'options' ? parts.slice(-1) : [parts[0], parts.at(-1)]
  return new RegExp(`(^|\\W)(${names.join('|')})(\\W|$)`)
}

/**
 * The error of the call with one argument replaced; null: it has none. Throws an error that is no LilyError, and if a call
 * that is refused has written.
 */
async function errorOf<Call extends object>(
  { call, run }: Subject<Call>,
  path: string,
  make: (call: Call) => { value: unknown } | Promise<{ value: unknown }>,
): Promise<LilyError | null> {
  const changed = await call()
  const memory = new Set(memoryOf(changed))
  const { value } = await make(changed)
  set(changed, path.split('.'), value)
  for (const data of memoryOf(changed)) memory.add(data)
  // A detached view has no length.
  const before = [...memory]
    .filter((data) => data.byteLength > 0)
    .map((data) => [data, Buffer.from(bits(data))] as const)
  try {
    await run(changed)
    return null
  } catch (error) {
    const isWritten = before.some(([data, old]) => data.byteLength > 0 && !bits(data).equals(old))
    if (error instanceof LilyError && !isWritten) return error
    throw new Error(`${path}: ${isWritten ? 'wrote, and then' : 'expected a LilyError,'} threw ${String(error)}`)
  }
}

/** Replaces a property, and the objects that lead to it, which other calls may have too. */
function set(of: object, [name, ...rest]: string[], value: unknown): void {
  const properties = of as Record<string, unknown>
  if (rest.length > 0) {
    const inner = properties[name] as object
    properties[name] = Array.isArray(inner) ? [...(inner as unknown[])] : { ...inner }
    set(properties[name] as object, rest, value)
  } else if (value === MISSING) Reflect.deleteProperty(of, name)
  else properties[name] = value
}

/** All memory that plain objects, lists and maps of a call refer to. */
function memoryOf(value: unknown): ArrayBufferView[] {
  if (ArrayBuffer.isView(value)) return [value]
  if (value instanceof Map) return [...value.values()].flatMap(memoryOf)
  if (value instanceof Tensor && !value.isDisposed && value.device.type === 'cpu') return memoryOf(value.data)
  const isPlain = Array.isArray(value) || Object.getPrototypeOf(value ?? 0) === Object.prototype
  return isPlain ? Object.values(value as object).flatMap(memoryOf) : []
}
