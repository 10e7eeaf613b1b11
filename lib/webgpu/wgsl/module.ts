/** The shader of a pass, the ranges of buffers that it binds, and the content of its uniform parameters. */
import { bytesOf, bytesPer, ceilDiv, type Operand, type Pass, type Plan } from '../../binding/gpu-pass.js'
import { accessors, conversionOf, needsAtomics } from './accessors.js'

/** The least number of threads of a workgroup: one that every device supports. */
const LEAST_THREADS = 256

/** Workgroups in x of a larger grid: the number that every device supports. */
const MOST_WORKGROUPS = 65535

/** A range of one buffer; null: the workspace. */
export interface Binding {
  readonly buffer: GPUBuffer | null
  readonly offset: number
  readonly size: number
  readonly isWritten: boolean
}

export interface Module {
  readonly code: string
  readonly bindings: readonly Binding[]
  /** Content of the uniform buffer. */
  readonly uniforms: ArrayBuffer
  readonly grid: readonly [number, number]
}

/** The sizes of a call that all of its passes have as parameters. */
export interface Common {
  readonly params: Readonly<Record<string, number>>
  readonly floats: Readonly<Record<string, number>>
}

export function moduleOf(pass: Pass, common: Common, limits: GPUSupportedLimits): Module {
  const operands = mergedOperands(pass)
  const groups = groupByBuffer(operands, limits)
  const bindings = groups.map(({ binding }) => binding)
  const names: string[] = []
  const types: ('u32' | 'f32')[] = []
  const values: number[] = []
  const add = (type: 'u32' | 'f32', entries: Readonly<Record<string, number>>) => {
    for (const [name, value] of Object.entries(entries)) {
      if (names.includes(name)) continue
      names.push(name)
      types.push(type)
      values.push(value)
    }
  }
  add('u32', common.params)
  add('f32', common.floats)
  const texts: string[] = []
  for (const [index, { binding, members, isAtomic }] of groups.entries())
    for (const [name, operand] of members) {
      const at = (operand.byteOffset - binding.offset) / bytesPer[operand.dtype]
      add('u32', { [`${name}_at`]: at, [`${name}_pitch`]: operand.pitch })
      add('u32', { [`${name}_rows`]: operand.rows, [`${name}_cols`]: operand.cols })
      add('u32', { [`${name}_quads`]: ceilDiv(operand.cols, 4) })
      if (operand.isWritten) add('u32', { [`${name}_add`]: operand.accumulate ? 1 : 0 })
      texts.push(accessors(name, operand, `words${index}`, isAtomic))
    }
  for (const part of pass) {
    add('u32', { [`${part.name}_workgroups`]: part.workgroups })
    add('u32', part.params ?? {})
    add('f32', part.floats ?? {})
  }

  const shared = new Set([
    ...[...operands.values()].flatMap((operand) => conversionOf(operand) ?? []),
    ...pass.flatMap(({ helpers = [] }) => helpers.filter((helper) => helper)),
  ])
  const tileLength = Math.max(0, ...pass.map((part) => part.tileLength ?? 0))
  const threads = Math.max(LEAST_THREADS, ...pass.map((part) => part.threads ?? 0))
  const code = [
    `struct Params { ${names.map((name, i) => `${name}: ${types[i]}`).join(', ')} }`,
    '@group(0) @binding(0) var<uniform> P: Params;',
    `const THREADS = ${threads}u;`,
    ...groups.map(
      ({ binding, isAtomic }, i) =>
        `@group(0) @binding(${i + 1}) var<storage, ${binding.isWritten ? 'read_write' : 'read'}> ` +
        `words${i}: array<${isAtomic ? 'atomic<u32>' : 'u32'}>;`,
    ),
    tileLength > 0 ? `var<workgroup> tile: array<vec4f, ${tileLength}>;` : '',
    ...shared,
    ...texts,
    ...pass.map(({ wgsl }) => wgsl),
    entryPoint(pass),
  ].join('\n')
  const workgroups = pass.reduce((sum, part) => sum + part.workgroups, 0)
  const width = Math.min(workgroups, MOST_WORKGROUPS)
  const grid = [width, Math.ceil(workgroups / Math.max(width, 1))] as const
  return { code, bindings, uniforms: uniformBytes(types, values), grid }
}

/** Every workgroup runs one part; the parts follow each other in the grid. */
function entryPoint(parts: Pass): string {
  const calls = parts.map(
    ({ name }) => `
  if (id < P.${name}_workgroups) { ${name}(id, tid); return; }
  id -= P.${name}_workgroups;`,
  )
  return `@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) tid: u32) {
  var id = group.x + group.y * grid.x;${calls.join('')}
}`
}

function uniformBytes(types: readonly ('u32' | 'f32')[], values: readonly number[]): ArrayBuffer {
  const bytes = new ArrayBuffer(Math.ceil(values.length / 4) * 16)
  const [integers, floats] = [new Uint32Array(bytes), new Float32Array(bytes)]
  for (const [i, type] of types.entries()) (type === 'u32' ? integers : floats)[i] = values[i]
  return bytes
}

/** The operands of all parts by name. One that any part writes is written. */
function mergedOperands(pass: Pass): Map<string, Operand> {
  const operands = new Map<string, Operand>()
  for (const part of pass)
    for (const [name, operand] of Object.entries(part.operands)) {
      if (operand !== null && operands.get(name)?.isWritten !== true) operands.set(name, operand)
    }
  return operands
}

/** What a plan exceeds a limit with. */
export interface Excess {
  readonly argument: string
  readonly text: string
}

/** What of a plan does not fit into the limits of a device; null if all does. */
export function excessOf({ passes, workspaceBytes }: Plan, limits: GPUSupportedLimits): Excess | null {
  const { maxBufferSize, maxStorageBufferBindingSize } = limits
  if (workspaceBytes > maxBufferSize) {
    const text = `the call requires ${workspaceBytes} bytes, and the device allows buffers of ${maxBufferSize} (maxBufferSize)`
    return { argument: 'workspace', text }
  }
  for (const pass of passes)
    for (const { binding, members } of groupByBuffer(mergedOperands(pass), limits)) {
      if (binding.size <= maxStorageBufferBindingSize) continue
      const names = members.map(([name]) => name).join(', ')
      const text =
        `one pass binds ${binding.size} bytes of a buffer for ${names}, and the device allows ` +
        `${maxStorageBufferBindingSize} (maxStorageBufferBindingSize)`
      return { argument: binding.buffer === null ? 'workspace' : names, text }
    }
  return null
}

interface Group {
  readonly binding: Binding
  readonly members: readonly (readonly [string, Operand])[]
  readonly isAtomic: boolean
}

/**
 * One binding for each buffer: operands may share a buffer, which a pass cannot bind both for reading and for writing, and
 * they may begin at any element. The binding is the smallest range of whole 32-bit words that covers them; the binding of the
 * device has checked that buffers of the caller hold these.
 */
function groupByBuffer(operands: ReadonlyMap<string, Operand>, limits: GPUSupportedLimits): Group[] {
  const byBuffer = new Map<GPUBuffer | null, [string, Operand][]>()
  for (const [name, operand] of operands) {
    const isEmpty = operand.rows * operand.cols === 0
    // Nothing of an empty operand is loaded; its buffer may be too short to bind.
    const placed = isEmpty ? { ...operand, buffer: null, byteOffset: 0 } : operand
    const members = byBuffer.get(placed.buffer) ?? []
    members.push([name, placed])
    byBuffer.set(placed.buffer, members)
  }
  const alignment = limits.minStorageBufferOffsetAlignment
  return [...byBuffer].map(([buffer, members]) => {
    const first = Math.min(...members.map(([, { byteOffset }]) => byteOffset))
    const offset = Math.floor(first / alignment) * alignment
    const end = Math.max(4, ...members.map(([, operand]) => endOf(operand)))
    const size = Math.ceil((end - offset) / 4) * 4
    const isWritten = members.some(([, operand]) => operand.isWritten)
    const isAtomic = members.some(([, operand]) => needsAtomics(operand))
    return { binding: { buffer, offset, size, isWritten }, members, isAtomic }
  })
}

function endOf(operand: Operand): number {
  const { byteOffset, rows, cols, pitch, dtype } = operand
  if (bytesOf(operand) === 0) return byteOffset
  return byteOffset + ((rows - 1) * pitch + cols) * bytesPer[dtype]
}
