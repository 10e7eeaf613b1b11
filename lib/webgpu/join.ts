/** The dispatches of plans that run together: plans of a list over disjoint rows, or of one call. */
import type { Operand, Pass, Plan } from '../binding/gpu-pass.js'
import { canShare, type Common, type Module, moduleOf, type Shader, shaderOf } from './wgsl/module.js'

/** A call whose passes are known. */
export interface Planned {
  readonly plan: Plan
  readonly common: Common
}

/** Dispatches, in order, and the workspace that they share. */
export interface Dispatches {
  readonly modules: readonly Module[]
  readonly workspaceBytes: number
}

/** Passes of a dispatch, as lengths of the array of their parameters. They are few, because each is a shader to compile. */
const LENGTHS = [1, 16, 64]
const MOST = Math.max(...LENGTHS)

/**
 * Pass i of all plans is one dispatch for each shader and set of buffers, and for each MOST plans that share them. It follows
 * the dispatches of pass i - 1: a pass depends on passes of its own plan only. Each plan has a workspace of its own, one
 * behind the other. Where that or a binding exceeds a limit, two halves run one after the other.
 */
export function join(plans: readonly Planned[], limits: GPUSupportedLimits): Dispatches[] {
  let workspaceBytes = 0
  const shaders = plans.map(({ plan, common }) => {
    const start = workspaceBytes
    workspaceBytes += plan.workspaceBytes
    return plan.passes.map((pass) => shaderOf(start === 0 ? pass : moved(pass, start), common, limits))
  })
  const modules: Module[] = []
  for (let i = 0; i < Math.max(0, ...shaders.map(({ length }) => length)); i++) {
    const groups: Shader[][] = []
    for (const { [i]: shader } of shaders) {
      if (shader === undefined || shader.workgroups === 0) continue
      const group = groups.find((group) => group.length < MOST && canShare(group[0], shader))
      if (group === undefined) groups.push([shader])
      else group.push(shader)
    }
    for (const group of groups) {
      const length = LENGTHS.find((most) => group.length <= most)
      modules.push(moduleOf(group, length))
    }
  }
  const { maxBufferSize, maxStorageBufferBindingSize } = limits
  const fits =
    workspaceBytes <= maxBufferSize &&
    modules.every(({ bindings }) => bindings.every(({ size }) => size <= maxStorageBufferBindingSize))
  return fits || plans.length <= 1 ? [{ modules, workspaceBytes }] : halves(plans, limits)
}

function halves(plans: readonly Planned[], limits: GPUSupportedLimits): Dispatches[] {
  const half = Math.ceil(plans.length / 2)
  return [...join(plans.slice(0, half), limits), ...join(plans.slice(half), limits)]
}

/** A pass whose workspace begins at an offset. */
function moved(pass: Pass, start: number): Pass {
  const place = (operand: Operand | null) =>
    operand?.buffer === null ? { ...operand, byteOffset: operand.byteOffset + start } : operand
  return pass.map((part) => ({
    ...part,
    operands: Object.fromEntries(Object.entries(part.operands).map(([name, operand]) => [name, place(operand)])),
  }))
}
