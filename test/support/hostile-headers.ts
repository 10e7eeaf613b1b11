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

const SIZE = 32 * 2 ** 20

/** As many tensors as a header may have. */
const NAMES = 2 ** 18 - 1

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

const inExtra = (part: string | ((i: number) => string), most?: number) =>
  repeated('{"x":{"extra":[', part, `],${EMPTY.slice(1)}}`, most)
const padded = (i: number, digits = 7) => String(i).padStart(digits, '0')

/** Numbers whose hashes are equal modulo 2^17 where V8 hashes them by their value. */
const meeting = (i: number) => ((i * 2 ** 17) % 2 ** 32) + Math.floor(i / 2 ** 15)

export const HEADERS: Readonly<Record<string, () => Buffer>> = {
  'as many tensors as permitted': () => repeated('{', (i) => `"${i.toString(36)}":${EMPTY},`, '}', NAMES),
  'as many tensors as permitted, in no order, with long names': () =>
    repeated(
      '{',
      (i) => {
        const place = (i * 161_293) % NAMES
        return `"model.layers.self_attn.q_proj${padded(place)}":{"dtype":"U8","shape":[1],"data_offsets":[${place},${place + 1}]},`
      },
      '}',
      NAMES,
    ),
  'as many tensors as fit': () => repeated('{', (i) => `"${i.toString(36)}":${EMPTY},`, '}'),
  'names of equal hash': () => repeated('{', (i) => `"${meeting(i)}":${EMPTY},`, '}', NAMES),
  'ignored strings of equal hash': () => inExtra((i) => `"\\u003${String(meeting(i))}",`),
  'long names that differ at their end, as permitted': () =>
    repeated('{', (i) => `"${'x'.repeat(9_900)}${padded(i)}":${EMPTY},`, '}'),
  'names too long that differ at their end': () =>
    repeated('{', (i) => `"${'x'.repeat(16_384)}${padded(i)}":${EMPTY},`, '}'),
  'one long name of escapes': () => repeated('{"', '\\u20ac', `":${EMPTY}}`),
  'as many keys of metadata as permitted': () =>
    repeated('{"__metadata__":{', (i) => `"${i.toString(36)}":"${padded(i, 400)}",`, '}}', 2 ** 16),
  'a long shape': () => repeated('{"x":{"dtype":"U8","shape":[', '0,', '0],"data_offsets":[0,0]}}'),
  'ignored keys as permitted': () => inExtra((i) => `{"${i.toString(36)}":0},`, 2 ** 20 - 8),
  'ignored empty arrays': () => inExtra('[],'),
  'deep arrays': () => repeated('', '[', ''),
  'no UTF-8': () => Buffer.alloc(SIZE, 0xff),
}

/** What opening one took. */
export interface Cost {
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
  let refused: string | null = null
  try {
    await (await SafetensorsFile.open(path)).close()
  } catch (error) {
    if (!(error instanceof LilyError)) throw error
    refused = error.message
  }
  return { bytes: largestResidentSet() - before, refused }
}

answer(measure)
