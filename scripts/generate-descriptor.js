#!/usr/bin/env node
// Writes lib/binding/descriptor.ts from the lists of native/napi/descriptor.h; with --check it writes nothing and exits
// with 1 if the file is out of date.
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const header = 'native/napi/descriptor.h'
const output = 'lib/binding/descriptor.ts'

const source = readFileSync(join(root, header), 'utf8')

/** @type {(message: string) => never} */
function fail(message) {
  console.error(`lily-kernels: ${message}`)
  process.exit(1)
}

/**
 * The lines of the comment above a list's macro, and the arguments of each of its entries X(...).
 *
 * @type {(macro: string) => { comment: string[], entries: string[][] }}
 */
function readMacro(macro) {
  const match = new RegExp(String.raw`((?:^//.*\n)*)^#define ${macro}\(X\)((?:.*\\\n)*.*)$`, 'm').exec(source)
  if (match === null) return fail(`${header} has no list ${macro}`)
  const [, comment, body] = match
  const entries = [...body.matchAll(/X\(([^)]*)\)/g)].map(([, entry]) => entry.split(',').map((word) => word.trim()))
  return {
    comment: comment
      .trim()
      .split('\n')
      .map((line) => line.slice(3)),
    entries,
  }
}

/** @type {(name: string, macro: string) => string} */
function positions(name, macro) {
  const { comment, entries } = readMacro(macro)
  const lines = entries.map(([enumerator, field], i) => {
    const expected = `k${field[0].toUpperCase()}${field.slice(1)}`
    if (enumerator !== expected) fail(`${header}: the enumerator of ${field} in ${macro} must be ${expected}`)
    return `  ${field}: ${i},\n`
  })
  const text =
    comment.length === 1 ? `/** ${comment[0]} */` : `/**\n${comment.map((line) => ` * ${line}\n`).join('')} */`
  return `${text}\nexport const ${name} = {\n${lines.join('')}} as const\n`
}

const lists = readMacro('LILY_DESCRIPTOR_LISTS').entries.map(([, name, macro]) => ({ name, macro }))
const generated = `/**
 * The positions of a call's numbers and operands in what the addon is passed.
 *
 * Generated from ${header} by scripts/generate-descriptor.js. Do not edit: change that file and run
 * \`node scripts/generate-descriptor.js\`.
 */

${lists.map(({ name, macro }) => positions(name, macro)).join('\n')}
/** All lists, for the comparison with those of the addon. */
export const descriptor = {
${lists.map(({ name }) => `  ${name},\n`).join('')}} as const

/** How many numbers or operands each list has. */
export const lengths = {
${lists.map(({ name, macro }) => `  ${name}: ${readMacro(macro).entries.length},\n`).join('')}} as const
`

if (!process.argv.includes('--check')) {
  writeFileSync(join(root, output), generated)
} else if (readFileSync(join(root, output), 'utf8') !== generated) {
  fail(`${output} does not match ${header}; run node scripts/generate-descriptor.js`)
}
