/**
 * The reader beside the format's reference implementation, python3-safetensors of Debian: both accept a file, with the same
 * contents, or both refuse it. The differences that are meant are listed here. FAST_CHECK_RUNS is for more files than
 * usual, FAST_CHECK_SEED repeats a failure.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { afterAll, describe, expect, it } from 'vitest'
import { LilyError, SafetensorsFile } from '../../lib/index.js'
import { problems } from '../support/runs.js'
import { temporaryFolder } from '../support/temporary.js'

/** The one of Debian, whatever else is on PATH. */
const PYTHON = '/usr/bin/python3'
const missing =
  spawnSync(PYTHON, ['-c', 'import safetensors, numpy']).status === 0
    ? undefined
    : 'python3-safetensors and python3-numpy are not there: apt-get install python3-safetensors python3-numpy'

interface Contents {
  tensors: Record<string, [dtype: string, shape: number[], bytes: string]>
  metadata: Record<string, string>
}

/** Why a file may be accepted by one alone; what matches is in the message or in the header. */
const OURS_REFUSES: Record<string, RegExp> = {
  'a size above 2^53 - 1, which no number holds, beside a zero': /shape of at most 64 integers from 0 to 2\^53 - 1/,
  'an entry as an array of its fields, which the format does not describe': /an object with dtype.*, got \[/s,
  'a type as an object, which the format does not describe': /one of the data types .*, got an object/s,
}
const OURS_ACCEPTS: Record<string, RegExp> = {
  'a type that is newer than the reference of Debian': /"(?:F4|F6_E2M3|F6_E3M2|F8_E8M0|F8_E4M3FNUZ|F8_E5M2FNUZ|C64)"/,
  'an integer in another spelling': /\d\.\d|\d[eE]|-0/,
  'a number above 1e308, or half of a surrogate pair, in a field that is ignored': /1e999|\\ud/,
  'sizes whose product is 2^64 or more before a zero': /\d{10},/,
}

/** Whether an object has one: the reference refuses an error in the first value of some. */
function hasKeyTwice(header: string): boolean {
  const keysIn = (value: unknown): number =>
    typeof value !== 'object' || value === null
      ? 0
      : Object.values(value).reduce<number>((sum, each) => sum + keysIn(each), 0) +
        (Array.isArray(value) ? 0 : Object.keys(value).length)
  const colons = header.replace(/"(?:[^"\\]|\\.)*"/g, '').split(':').length - 1
  return keysIn(JSON.parse(header)) < colons
}

const folder = temporaryFolder()
let files = 0
let child: ChildProcess | undefined
let lines: AsyncIterator<string> | undefined

async function askReference(path: string): Promise<Contents | null> {
  if (child === undefined || lines === undefined) {
    const script = fileURLToPath(new URL('../support/safetensors-reference.py', import.meta.url))
    child = spawn(PYTHON, [script], { stdio: ['pipe', 'pipe', 'inherit'] })
    lines = createInterface(child.stdout!)[Symbol.asyncIterator]()
  }
  child.stdin!.write(`${path}\n`)
  const { value, done } = (await lines.next()) as IteratorResult<string, undefined>
  if (done === true) throw new Error('the reference implementation has ended')
  return JSON.parse(value) as Contents | null
}

afterAll(() => {
  child?.stdin?.end()
})

async function askOurs(path: string): Promise<Contents | LilyError> {
  try {
    const file = await SafetensorsFile.open(path)
    const tensors: [string, Contents['tensors'][string]][] = []
    for (const [name, { dtype, shape }] of file.tensors) {
      tensors.push([name, [dtype, [...shape], Buffer.from(await file.readBytes(name)).toString('hex')]])
    }
    await file.close()
    return { tensors: Object.fromEntries(tensors), metadata: Object.fromEntries(file.metadata) }
  } catch (error) {
    if (error instanceof LilyError) return error
    throw error
  }
}

/** @returns whether the reference accepts it */
async function compare(header: Buffer, data: Buffer, length = header.length): Promise<boolean> {
  const path = join(folder, `${files++ % 64}.safetensors`)
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(length))
  writeFileSync(path, Buffer.concat([prefix, header, data]))
  const [reference, ours] = [await askReference(path), await askOurs(path)]
  const text = header.toString()
  if (ours instanceof LilyError) {
    if (reference === null) return false
    const { message } = ours
    const isMeant = Object.values(OURS_REFUSES).some((reason) => reason.test(message))
    expect(isMeant, `accepted by the reference, but here ${message}: ${text}`).toBe(true)
    return true
  }
  if (reference === null) {
    const isMeant = hasKeyTwice(text) || Object.values(OURS_ACCEPTS).some((reason) => reason.test(text))
    expect(isMeant, `accepted here, but not by the reference: ${text}`).toBe(true)
    return false
  }
  expect(ours, text).toEqual({ tensors: reference.tensors, metadata: reference.metadata })
  return true
}

const parameters = problems(300, 8000)

/** Spellings of JSON that a reader may get wrong, in any place. */
// prettier-ignore
const anyToken = fc.constantFrom(
  '0', '-0', '1', '1.0', '1e0', '0e9', '1E+2', '-1', '01', '.5', '5.', '1e', '+1', 'NaN', 'Infinity', '1e999', '1e-999',
  '9007199254740991', '9007199254740993', '18446744073709551615', '18446744073709551616', '4294967296',
  'null', 'true', 'false', 'nul', '""', '"x"', '"F32"', '"U8"', '"F4"', '{}', '[]', '[0,0]', '[[]]', '{"a":1}',
  '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\u00e9"', '"\\x"', '"\\/"', '"\\u12"', '"\t"', '"\\u0000"',
  '{"U8":null}', '["U8",[0],[0,0]]', '{"a":1,"a":2}', '"é"', '"\u2028"', '"\x7f"', "'x'", '/**/', '\ufeff',
)
const anyName = fc.constantFrom(
  '"x"',
  '"y"',
  '"__metadata__"',
  '"\\u0078"',
  '"_\\u005fmetadata__"',
  '"é"',
  '""',
  '"__proto__"',
)
const anySpace = fc.oneof(
  { weight: 20, arbitrary: fc.constantFrom('', ' ', '\n', '\t\r') },
  fc.constantFrom('\0', '\v', '\u00a0'),
)

const DTYPES = ['F32', 'U8', 'F16', 'I64', 'BOOL', 'F8_E4M3', 'F4', 'C64']
const anySize = fc.oneof(
  { weight: 25, arbitrary: fc.nat({ max: 3 }) },
  fc.constantFrom(2 ** 31, 2 ** 32, 2 ** 32 - 1, 2 ** 32 + 1, 2 ** 40, 2 ** 53 - 1),
)
const bytesOf = (dtype: string, shape: number[]) =>
  (shape.reduce((product, size) => product * size, 1) *
    (dtype === 'F4' ? 4 : dtype === 'BOOL' ? 8 : Number(/\d+/.exec(dtype)![0]))) /
  8

/** One of two files has it: null otherwise. */
const seldom = (arbitrary: fc.Arbitrary<string>) => fc.option(arbitrary, { freq: 1 })

/** A file that is whole, but for sizes that are too large; some of its tokens are exchanged then. */
const anyFile = fc
  .record({
    tensors: fc.array(
      fc.record({
        name: anyName,
        dtype: fc.constantFrom(...DTYPES),
        shape: fc.array(anySize, { maxLength: 4 }),
        extra: seldom(anyToken),
      }),
      { maxLength: 3 },
    ),
    metadata: seldom(fc.oneof(fc.constantFrom('{"a":"b"}', '{}', 'null', '{"a":"b","a":"c"}'), anyToken)),
    order: fc.boolean(),
    space: fc.tuple(anySpace, anySpace),
  })
  .map(({ tensors, metadata, order, space }) => {
    let end = 0
    const members = tensors.map(({ name, dtype, shape, extra }) => {
      const begin = end
      const bytes = bytesOf(dtype, shape)
      end += Number.isInteger(bytes) && bytes < 1000 ? bytes : 0
      const fields = [`"dtype":"${dtype}"`, `"shape":[${shape.join()}]`, `"data_offsets":[${begin},${end}]`]
      if (extra !== null) fields.push(`"extra":${extra}`)
      return `${name}:{${(order ? fields : fields.reverse()).join()}}`
    })
    if (metadata !== null) members.push(`"__metadata__":${metadata}`)
    const text = `${space[0]}{${(order ? members : members.reverse()).join()}}${space[1]}`
    return { text, data: Buffer.from(Uint8Array.from({ length: end }, (_, i) => i)) }
  })

/** A value or a key of a header, with what is put in its place. */
const anyExchange = fc.record({ at: fc.nat(), token: fc.oneof(anyToken, anyName) })

const anyExchanges = fc.oneof(fc.constant([]), fc.array(anyExchange, { minLength: 1, maxLength: 2 }))

describe('the reader beside the reference implementation', () => {
  // Thousands of files, and two readers.
  const timeout = Math.max(parameters.numRuns * 40, 60_000)

  it('accepts the same files, and reads the same', { timeout }, async ({ skip }) => {
    if (missing !== undefined) skip(missing)
    let accepted = 0
    await fc.assert(
      fc.asyncProperty(anyFile, anyExchanges, async ({ text, data }, exchanges) => {
        let changed = text
        for (const { at, token } of exchanges) {
          const places = [...changed.matchAll(/"[^"]*"|\d+|[[\]{},:]/g)]
          const place = places[at % places.length] as RegExpExecArray | undefined
          if (place === undefined) continue
          changed = changed.slice(0, place.index) + token + changed.slice(place.index + place[0].length)
        }
        if (await compare(Buffer.from(changed), data)) accepted++
      }),
      parameters,
    )
    expect(accepted).toBeGreaterThan(parameters.numRuns / 15)
  })

  it('agrees about files whose bytes are damaged', { timeout }, async ({ skip }) => {
    if (missing !== undefined) skip(missing)
    const anyDamage = fc.array(fc.tuple(fc.nat(), fc.nat({ max: 255 }), fc.boolean()), { minLength: 1, maxLength: 3 })
    await fc.assert(
      fc.asyncProperty(anyFile, anyDamage, fc.integer({ min: -1, max: 1 }), async ({ text, data }, damage, shift) => {
        let header = Buffer.from(text)
        for (const [at, byte, isNew] of damage) {
          const place = at % (header.length + 1)
          const behind = header.subarray(isNew ? place : place + 1)
          header = Buffer.concat([header.subarray(0, place), Buffer.from([byte]), behind])
        }
        await compare(header, data, Math.max(header.length + shift * (damage.length === 3 ? 1 : 0), 0))
      }),
      parameters,
    )
  })
})
