/** The ranges of buffers that a pass binds, and which of them a device cannot bind. */
import { bytesOf, bytesPer, type Operand, type Operands, type Pass, type Plan, usedBy } from '../binding/gpu-pass.js'
import { needsAtomics } from './wgsl/accessors.js'

/** A range of one buffer. */
export interface Binding {
  /** Null: the workspace. */
  readonly buffer: GPUBuffer | null
  readonly offset: number
  readonly size: number
  readonly isWritten: boolean
  readonly isAtomic: boolean
  /** The operands in it, by name. */
  readonly members: readonly (readonly [string, Operand])[]
}

/**
 * One binding for each buffer: operands may share a buffer, which a pass cannot bind both for reading and for writing, and
 * they may begin at any element. The binding is the smallest range of whole 32-bit words that covers them; the binding of the
 * device has checked that buffers of the caller hold these.
 */
export function bindingsOf(pass: Pass, limits: GPUSupportedLimits): Binding[] {
  const byBuffer = new Map<GPUBuffer | null, [string, Operand][]>()
  for (const [name, operand] of mergedOperands(pass)) {
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
    return { buffer, offset, size, isWritten, isAtomic, members }
  })
}

/** The bindings of a dispatch of passes that bind the same buffers: the bindings of the first pass, with all ranges. */
export function covering(passes: readonly (readonly Binding[])[]): Binding[] {
  return passes[0].map((binding, i) => {
    const offset = Math.min(...passes.map((bindings) => bindings[i].offset))
    const end = Math.max(...passes.map((bindings) => bindings[i].offset + bindings[i].size))
    return { ...binding, offset, size: end - offset }
  })
}

function endOf(operand: Operand): number {
  const { byteOffset, rows, cols, pitch, dtype, listed } = operand
  if (bytesOf(operand) === 0) return byteOffset
  return byteOffset + (((listed?.rows ?? rows) - 1) * pitch + cols) * bytesPer[dtype]
}

/** The operands of all parts by name. One that any part writes is written. */
function mergedOperands(pass: Pass): Map<string, Operand> {
  const operands = new Map<string, Operand>()
  const add = (of: Operands) => {
    for (const [name, operand] of Object.entries(of)) {
      if (operand === null) continue
      if (operands.get(name)?.isWritten !== true) operands.set(name, operand)
      add(usedBy(operand))
    }
  }
  for (const part of pass) add(part.operands)
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
    for (const { buffer, size, members } of bindingsOf(pass, limits)) {
      if (size <= maxStorageBufferBindingSize) continue
      const names = members.map(([name]) => name).join(', ')
      const text =
        `one pass binds ${size} bytes of a buffer for ${names}, and the device allows ` +
        `${maxStorageBufferBindingSize} (maxStorageBufferBindingSize)`
      return { argument: buffer === null ? 'workspace' : names, text }
    }
  return null
}
