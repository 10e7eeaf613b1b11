#!/usr/bin/env node
// Writes lib/binding/slots.ts from the lists of native/binding/descriptor.h and the enumerations of
// native/include/lily/backend.h; with --check it writes nothing and exits with 1 if the file is out of date.
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { format, resolveConfig } from 'prettier'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const header = 'native/binding/descriptor.h'
const abi = 'native/include/lily/backend.h'
const output = 'lib/binding/slots.ts'

const source = readFileSync(join(root, header), 'utf8')
const abiSource = readFileSync(join(root, abi), 'utf8')

/** @type {(message: string) => never} */
function fail(message) {
  console.error(`lily-kernels: ${message}`)
  process.exit(1)
}

/**
 * The lines of the comment above a list's macro, and the words of each of its entries X(...), with the entries of the
 * lists that it begins with.
 *
 * @type {(macro: string) => { comment: string[], entries: string[][] }}
 */
function readList(macro) {
  const match = new RegExp(String.raw`((?:^//.*\n)*)^#define ${macro}\(X\)((?:.*\\\n)*.*)$`, 'm').exec(source)
  if (match === null) return fail(`${header} has no list ${macro}`)
  const [, comment, body] = match
  const entries = [...body.matchAll(/(\w+)\(([^)]*)\)/g)].flatMap(([, of, words]) =>
    of === 'X' ? [words.split(',').map((word) => word.trim())] : readList(of).entries,
  )
  const lines = comment.split('\n').filter((line) => line !== '')
  return { comment: lines.map((line) => line.slice(3)), entries }
}

/** @type {(lines: string[]) => string} */
const commentOf = (lines) => {
  if (lines.length < 2) return lines.map((line) => `/** ${line} */\n`).join('')
  return `/**\n${lines.map((line) => ` * ${line}\n`).join('')} */\n`
}

/** @type {(name: string) => string} */
const camelCase = (name) => name.toLowerCase().replace(/_\w/g, (pair) => pair.slice(1).toUpperCase())

/** @type {(name: string, macro: string) => string} */
function positions(name, macro) {
  const { comment, entries } = readList(macro)
  return `${commentOf(comment)}export const ${name} = { ${entries.map(([field], i) => `${field}: ${i}`).join(', ')} } as const\n`
}

/** @type {(macro: string) => string} */
const rowsOf = (macro) =>
  `[\n${readList(macro)
    .entries.map((words) => `  [${words.map((word) => `'${word}'`).join(', ')}],\n`)
    .join('')}]`

/** The text that the header makes of its lists. @type {(macro: string) => string} */
const textOf = (macro) =>
  readList(macro)
    .entries.map((words) => `${words.join(', ')};`)
    .join('')

const tables = readList('LILY_TABLES').entries
const signature = [
  ...tables.map(([name, ...lists]) => `${name}:${lists.map(textOf).join('')}`),
  textOf('LILY_SLOT_FIELDS'),
  textOf('LILY_ACCESSES'),
  `${/#define LILY_ABI_VERSION (\d+)/.exec(abiSource)?.[1] ?? fail(`${abi} has no version`)};`,
].join('')

const enumerations = [...abiSource.matchAll(/typedef enum lily_(\w+) \{([\s\S]*?)\} lily_\w+;/g)]
  .filter(([, name]) => name !== 'memory_kind')
  .map(([, name, body]) => {
    const prefix = `LILY_${name.toUpperCase()}_`
    const members = [...body.matchAll(/(LILY_\w+) = (\d+)/g)].map(([, member, value]) => {
      const short = member.startsWith(prefix) ? member.slice(prefix.length) : member.slice('LILY_'.length)
      return `${camelCase(short)}: ${value}`
    })
    if (name === 'dtype') members.push('uint8: 3', 'int32: 4')
    return `/** \`lily_${name}\`. */\nexport const ${camelCase(name)} = { ${members.join(', ')} } as const\n`
  })

const slots = tables.flatMap(([name, , , list, items]) => [
  `${commentOf(readList(list).comment)}export const ${name}Slots = ${rowsOf(list)} as const\n`,
  ...(items === 'LILY_NONE'
    ? []
    : [`${commentOf(readList(items).comment)}export const ${name}ItemSlots = ${rowsOf(items)} as const\n`]),
])

const text = `/**
 * How a call is written down: its numbers and its operands, and in which order they are passed to the binding.
 *
 * Generated from ${header} by scripts/generate-slots.js. Do not edit: change that file and run
 * \`node scripts/generate-slots.js\`.
 */

${positions('operation', 'LILY_TABLES')}
/** The backends by number. */
export const backend = { cpu: 0, cuda: 1 } as const

${enumerations.join('\n')}
${['placement', 'adapter', 'rows', 'rows_item', 'linear', 'matmul', 'attention', 'elementwise', 'fold', 'adamw', 'adamw_item', 'slot'].map((name) => positions(camelCase(`${name}_fields`), `LILY_${name.toUpperCase()}_FIELDS`)).join('\n')}
${positions('access', 'LILY_ACCESSES')}
${positions('size', 'LILY_SIZES')}
/** Name, rows, columns, kind of type, and what the call does with an operand. */
export type Row = readonly [
  name: string,
  rows: keyof typeof size,
  columns: keyof typeof size,
  type: ${readList('LILY_TYPES')
    .entries.map(([type]) => `'${type}'`)
    .join(' | ')},
  use: 'read' | 'output' | 'update' | 'copy',
]

${slots.join('\n')}
/** The text of all lists, for the comparison with the addon's. */
export const signature =
  '${signature}'
`

const generated = await format(text, { ...(await resolveConfig(output)), parser: 'typescript' })
if (!process.argv.includes('--check')) {
  writeFileSync(join(root, output), generated)
} else if (readFileSync(join(root, output), 'utf8') !== generated) {
  fail(`${output} does not match ${header}; run node scripts/generate-slots.js`)
}
