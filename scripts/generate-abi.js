#!/usr/bin/env node
// Writes lib/binding/wasm/abi.ts from native/include/lily/backend.h: where the fields of its structs lie in the memory of
// a WebAssembly module. With --check it writes nothing and exits with 1 if the file is out of date.
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const header = 'native/include/lily/backend.h'
const output = 'lib/binding/wasm/abi.ts'

const source = readFileSync(join(root, header), 'utf8').replace(/\/\*[\s\S]*?\*\//g, '')

/** @type {(message: string) => never} */
function fail(message) {
  console.error(`lily-kernels: ${message}`)
  process.exit(1)
}

/** @type {(name: string) => string} */
const camelCase = (name) => name.toLowerCase().replace(/_\w/g, (pair) => pair.slice(1).toUpperCase())

/**
 * Sizes in wasm32 of the types that fields have; a scalar is aligned to its size.
 *
 * @type {Map<string, { bytes: number, alignment: number }>}
 */
const types = new Map(
  Object.entries({
    char: 1,
    int32_t: 4,
    uint32_t: 4,
    float: 4,
    size_t: 4,
    lily_stream: 4,
    int64_t: 8,
    uint64_t: 8,
    double: 8,
  }).map(([name, bytes]) => [name, { bytes, alignment: bytes }]),
)
const POINTER = { bytes: 4, alignment: 4 }

/** @type {(value: number, alignment: number) => number} */
const roundUp = (value, alignment) => Math.ceil(value / alignment) * alignment

/**
 * The offsets of the fields of a struct.
 *
 * @type {(name: string, body: string) => Map<string, number>}
 */
function layOut(name, body) {
  /** @type {Map<string, number>} */
  const offsets = new Map()
  let end = 0
  let widest = 1
  /** @type {(field: string, type: { bytes: number, alignment: number }, count: number) => void} */
  const place = (field, { bytes, alignment }, count) => {
    const offset = roundUp(end, alignment)
    offsets.set(camelCase(field), offset)
    end = offset + bytes * count
    widest = Math.max(widest, alignment)
  }
  for (const declaration of body.split(';').map((text) => text.trim())) {
    if (declaration === '') continue
    const method = /\(\*(\w+)\)/.exec(declaration)
    if (method !== null) {
      place(method[1], POINTER, 1)
      continue
    }
    const [, type, fields] =
      /^(?:const )?(\w+) ([\s\S]*)$/.exec(declaration) ?? fail(`${name}: cannot read ${declaration}`)
    for (const field of fields.split(',').map((text) => text.trim())) {
      const [, star, identifier, count = '1'] =
        /^(\*?)(\w+)(?:\[(\d+)\])?$/.exec(field) ?? fail(`${name}: cannot read ${field}`)
      place(
        identifier,
        star === '*' ? POINTER : (types.get(type) ?? fail(`${name}: unknown type ${type}`)),
        Number(count),
      )
    }
  }
  types.set(name, { bytes: roundUp(end, widest), alignment: widest })
  return offsets
}

/** @type {(entries: Iterable<[string, number]>) => string} */
const object = (entries) => `{\n${[...entries].map(([name, value]) => `  ${name}: ${value},\n`).join('')}} as const\n`

const version = /#define LILY_ABI_VERSION (\d+)/.exec(source)?.[1] ?? fail('no LILY_ABI_VERSION')

const enums = [...source.matchAll(/typedef enum lily_(\w+) \{([\s\S]*?)\} lily_\w+;/g)].map(([, name, body]) => {
  const prefix = `LILY_${name.toUpperCase()}_`
  const members = [...body.matchAll(/(LILY_\w+) = (\d+)/g)].map(([, member, value]) => {
    const short = member.startsWith(prefix) ? member.slice(prefix.length) : member.slice('LILY_'.length)
    return /** @type {[string, number]} */ ([camelCase(short), Number(value)])
  })
  return `/** \`lily_${name}\`. */\nexport const ${camelCase(name)} = ${object(members)}`
})

const structs = [...source.matchAll(/typedef struct (lily_(\w+)) \{([\s\S]*?)\} lily_\w+;/g)].map(
  ([, name, short, body]) => {
    const offsets = layOut(name, body)
    const { bytes } = types.get(name) ?? fail(name)
    return `/** \`${name}\`. */\nexport const ${camelCase(short)}Struct = ${object([['bytes', bytes], ...offsets])}`
  },
)

const generated = `/**
 * The C ABI in the memory of a WebAssembly module: values of its enumerations, sizes of its structs and offsets of their
 * fields, in bytes.
 *
 * Generated from ${header} by scripts/generate-abi.js. Do not edit: change that file and run
 * \`node scripts/generate-abi.js\`.
 */

export const ABI_VERSION = ${version}

${[...enums, ...structs].join('\n')}`

if (!process.argv.includes('--check')) {
  writeFileSync(join(root, output), generated)
} else if (readFileSync(join(root, output), 'utf8') !== generated) {
  fail(`${output} does not match ${header}; run node scripts/generate-abi.js`)
}
