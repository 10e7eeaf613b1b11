/** The second addon of the DLPack tests, test/dlpack/programs/dlpack.c. */
import { execFileSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { packageRoot } from '../../lib/binding/root.js'
import type { DType, HostData } from '../../lib/index.js'

const require = createRequire(import.meta.url)

/** How a tensor is made. */
export interface Made {
  /** Copied, with everything around the view. */
  readonly data?: ArrayBuffer
  readonly address?: bigint
  readonly shape: readonly number[]
  readonly strides?: readonly number[]
  readonly byteOffset: number
  readonly code: number
  readonly bits: number
  readonly lanes: number
  readonly deviceType: number
  readonly deviceId: number
  readonly flags: number
  readonly major: number
  readonly minor: number
  /** In the place of the length of the shape. */
  readonly ndim?: number
  /** 0: none, 1: that of DLPack, 2: another. */
  readonly tag: number
  readonly withoutDeleter?: true
}

/** A tensor that the addon has taken. */
export interface Taken extends Omit<Made, 'data' | 'major' | 'tag' | 'ndim' | 'withoutDeleter'> {
  readonly index: number
  readonly strides: readonly number[]
  readonly address: bigint
}

export interface SecondAddon {
  produce(of: Made): object
  /** How often the deleter of each tensor has run, in the order of their production. */
  deletions(): number[]
  /** Undefined if the capsule has no tensor that it accepts. */
  take(capsule: object): Taken | undefined
  /** Writes a number to a float32 tensor and returns the old one. */
  exchange(index: number, element: number, value: number): number
  giveBack(index: number, inThread: number): void
  /** Another capsule with a tensor that was taken. */
  passOn(index: number): object
}

/** Compiles a program in C to an addon in `folder`. */
export function buildAddon(source: string, folder: string): string {
  const { include_dir: headers } = require('node-api-headers') as { include_dir: string }
  const path = join(folder, 'dlpack.node')
  const include = [join(packageRoot, 'native', 'napi'), headers].flatMap((at) => ['-I', at])
  const flags = ['-std=c11', '-Wall', '-Wextra', '-Werror', '-DNAPI_VERSION=9', '-shared', '-fPIC', '-pthread', '-g']
  execFileSync(process.env.CC ?? 'cc', [...flags, ...include, source, '-o', path])
  return path
}

export function loadAddon(path: string): SecondAddon {
  return require(path) as SecondAddon
}

/** Type codes and bits of DLPack. */
export const DLPACK_TYPES: Readonly<Record<DType, readonly [code: number, bits: number]>> = {
  float32: [2, 32],
  float16: [2, 16],
  bfloat16: [4, 16],
  int32: [0, 32],
  uint8: [1, 8],
}

/** A float32 tensor of the host over a copy of `data`, with changes. */
export function made(data: HostData, shape: readonly number[], changes: Partial<Made> = {}): Made {
  return {
    data: (data.buffer as ArrayBuffer).slice(data.byteOffset, data.byteOffset + data.byteLength),
    shape,
    byteOffset: 0,
    code: 2,
    bits: 32,
    lanes: 1,
    deviceType: 1,
    deviceId: 0,
    flags: 0,
    major: 1,
    minor: 1,
    tag: 1,
    ...changes,
  }
}
