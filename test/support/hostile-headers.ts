/**
 * Headers of the largest permitted size that are made to be expensive, each opened in a process of its own, which reports
 * what that took. This file is both sides.
 */
import { appendFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { LilyError, SafetensorsFile } from '../../lib/index.js'
import { answer, ask } from './fork.js'

const SIZE = 100_000_000

/** As many as a header may have. */
const NAMES = 2 ** 18

const EMPTY = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'

/** `begin`, then `part`, perhaps of a counter, as often as it fits (or `most` times), then `end`, padded with spaces. */
function repeated(begin: string, part: string | ((i: number) => string), end: string, most = Infinity): Buffer {
  const bytes = Buffer.alloc(SIZE, ' ')
  let at = bytes.write(begin, 'latin1')
  if (typeof part === 'string') {
    const count = Math.min(Math.floor((SIZE - begin.length - end.length) / part.length), most)
    bytes.fill(part, at, (at += count * part.length), 'latin1')
  } else {
    const limit = SIZE - 2 * part(SIZE).length - end.length
    for (let i = 0; i < most && at < limit; i++) at += bytes.write(part(i), at, 'latin1')
  }
  const isComma = end !== '' && bytes[at - 1] === ','.charCodeAt(0) && !end.startsWith('0')
  bytes.write(end, isComma ? at - 1 : at, 'latin1')
  return bytes
}

const inExtra = (part: string | ((i: number) => string), [open, close] = ['[', ']']) =>
  repeated(`{"x":{"extra":${open}`, part, `${close},${EMPTY.slice(1)}}`)
const padded = (i: number, digits = 7) => String(i).padStart(digits, '0')

export const HEADERS: Readonly<Record<string, () => Buffer>> = {
  'as many tensors as permitted': () => repeated('{', (i) => `"${i.toString(36)}":${EMPTY},`, '}', NAMES),
  'as many tensors, in no order, with long names': () =>
    repeated(
      '{',
      (i) => {
        const place = (i * 161_293) % NAMES
        return `"${'model.layers.self_attn.q_proj'.repeat(3)}${padded(place)}":{"dtype":"U8","shape":[1],"data_offsets":[${place},${place + 1}]},`
      },
      '}',
      NAMES,
    ),
  'as many tensors as fit': () => repeated('{', (i) => `"${i.toString(36)}":${EMPTY},`, '}'),
  'names of digits': () => repeated('{', (i) => `"${i * 256}":${EMPTY},`, '}', NAMES),
  'one tensor again and again': () => repeated('{', `"x":${EMPTY},`, '}'),
  'long names that differ at their end': () =>
    repeated('{', (i) => `"${'x'.repeat(9_900)}${padded(i)}":${EMPTY},`, '}'),
  'names too long that differ at their end': () =>
    repeated('{', (i) => `"${'x'.repeat(20_000)}${padded(i)}":${EMPTY},`, '}'),
  'one long name': () => repeated('{"', 'xxxxxxxxxx', `":${EMPTY}}`),
  'one long name of escapes': () => repeated('{"', '\\u20ac', `":${EMPTY}}`),
  'keys of metadata': () => repeated('{"__metadata__":{', (i) => `"${i.toString(36)}":"",`, '}}'),
  'as many keys of metadata as permitted': () =>
    repeated('{"__metadata__":{', (i) => `"${i.toString(36)}":"${padded(i, 160)}",`, '}}', NAMES),
  'metadata of escapes': () => repeated('{"__metadata__":{"x":"', '\\u0041', '"}}'),
  'metadata of surrogate pairs': () => repeated('{"__metadata__":{"x":"', '\\ud83d\\ude00', '"}}'),
  'metadata of lone surrogates': () => repeated('{"__metadata__":{"x":"', '\\ud83d', '"}}'),
  'metadata in UTF-8': () => repeated('{"__metadata__":{"x":"\xe2\x82\xac', 'xxxxxxxxxx', '"}}'),
  'one long shape': () => repeated('{"x":{"dtype":"U8","shape":[', '0,', '],"data_offsets":[0,0]}}'),
  'a long shape as permitted': () =>
    repeated('{"x":{"dtype":"U8","shape":[0,', '1000000000,', '0],"data_offsets":[0,0]}}', 2 ** 22 - 10),
  'shapes as permitted': () =>
    repeated('{', (i) => `"${i.toString(36)}":{"dtype":"U8","shape":[0,1,1,1,1,0],"data_offsets":[0,0]},`, '}', NAMES),
  'a long type': () => repeated('{"x":{"dtype":"', 'F32', '","shape":[0],"data_offsets":[0,0]}}'),
  'long offsets': () => repeated('{"x":{"dtype":"U8","shape":[0],"data_offsets":[', '0,', ']}}'),
  'a long number': () => repeated('{"x":{"dtype":"U8","data_offsets":[0,0],"shape":[', '1', ']}}'),
  'ignored fields': () => repeated('{"x":{', (i) => `"${i.toString(36)}":0,`, `${EMPTY.slice(1)}}`),
  'ignored keys': () => inExtra((i) => `"${i.toString(36)}":0,`, ['{', '}']),
  'ignored empty arrays': () => inExtra('[],'),
  'ignored empty objects': () => inExtra('{},'),
  'ignored digits': () => inExtra('0,'),
  'ignored exponents': () => inExtra('1e308,'),
  'ignored nesting': () => inExtra(`${'['.repeat(120)}${']'.repeat(120)},`),
  'ignored words': () => inExtra('null,'),
  'ignored escapes': () => inExtra('"\\n",'),
  'deep arrays': () => repeated('', '[', ''),
  'deep objects': () => repeated('', '{"":', ''),
  'white space': () => repeated('', '  ', '{}'),
  'no UTF-8': () => Buffer.alloc(SIZE, 0xff),
  zeros: () => Buffer.alloc(SIZE),
}

/** What opening one took. */
export interface Cost {
  /** Of a processor, not of a clock: other processes may run. */
  milliseconds: number
  /** Growth of the largest resident set. */
  bytes: number
  /** The message of its error; null: it was accepted. */
  refused: string | null
}

export async function openHostile(name: string): Promise<Cost> {
  const folder = mkdtempSync(join(tmpdir(), 'lily-header-'))
  try {
    const header = HEADERS[name]()
    const prefix = Buffer.alloc(8)
    prefix.writeBigUInt64LE(BigInt(header.length))
    const path = join(folder, 'x.safetensors')
    const data = Buffer.alloc(name.includes('in no order') ? NAMES : 0)
    for (const part of [prefix, header, data]) appendFileSync(path, part)
    return await ask<Cost>(fileURLToPath(import.meta.url), { path }, {})
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Of this program: what getrusage tells begins with the process that started it. */
function largestResidentSet(): number {
  const [, kilobytes] = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? []
  return Number(kilobytes) * 1024
}

async function measure({ path }: { path: string }): Promise<Cost> {
  const before = largestResidentSet()
  const start = process.cpuUsage()
  let refused: string | null = null
  try {
    await (await SafetensorsFile.open(path)).close()
  } catch (error) {
    if (!(error instanceof LilyError)) throw error
    refused = error.message
  }
  const { user, system } = process.cpuUsage(start)
  return { milliseconds: (user + system) / 1000, bytes: largestResidentSet() - before, refused }
}

answer(measure)
