/** The shader of a pass, and the content of its uniform parameters. */
import { bytesPer, ceilDiv, type Pass } from '../../binding/gpu-pass.js'
import { type Binding, bindingsOf } from '../bindings.js'
import { accessors, conversionOf } from './accessors.js'

/** The least number of threads of a workgroup: one that every device supports, but for those of the level 'compatibility'. */
export const LEAST_THREADS = 256

/** Workgroups in x of a larger grid: the number that every device supports. */
const MOST_WORKGROUPS = 65535

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
  const bindings = bindingsOf(pass, limits)
  const uniforms = new Map<string, readonly ['u32' | 'f32', number]>()
  const add = (type: 'u32' | 'f32', entries: Readonly<Record<string, number>> = {}) => {
    for (const [name, value] of Object.entries(entries)) if (!uniforms.has(name)) uniforms.set(name, [type, value])
  }
  add('u32', common.params)
  add('f32', common.floats)
  const texts: string[] = []
  for (const [index, { offset, members, isAtomic }] of bindings.entries())
    for (const [name, operand] of members) {
      const at = (operand.byteOffset - offset) / bytesPer[operand.dtype]
      add('u32', { [`${name}_at`]: at, [`${name}_pitch`]: operand.pitch })
      add('u32', { [`${name}_rows`]: operand.rows, [`${name}_cols`]: operand.cols })
      add('u32', { [`${name}_quads`]: ceilDiv(operand.cols, 4) })
      if (operand.listed) add('u32', { [`${name}_all`]: operand.listed.rows })
      if (operand.isWritten) add('u32', { [`${name}_add`]: operand.accumulate ? 1 : 0 })
      texts.push(accessors(name, operand, `words${index}`, isAtomic))
    }
  for (const part of pass) {
    add('u32', { [`${part.name}_workgroups`]: part.workgroups })
    add('u32', part.params)
    add('f32', part.floats)
  }

  const shared = new Set([
    ...bindings.flatMap(({ members }) => members.flatMap(([, operand]) => conversionOf(operand) ?? [])),
    ...pass.flatMap(({ helpers = [] }) => helpers.filter((helper) => helper)),
  ])
  const tileLength = Math.max(0, ...pass.map((part) => part.tileLength ?? 0))
  const threads = Math.max(LEAST_THREADS, ...pass.map((part) => part.threads ?? 0))
  const code = [
    `struct Params { ${[...uniforms].map(([name, [type]]) => `${name}: ${type}`).join(', ')} }`,
    '@group(0) @binding(0) var<uniform> P: Params;',
    `const THREADS = ${threads}u;`,
    ...bindings.map(
      ({ isWritten, isAtomic }, i) =>
        `@group(0) @binding(${i + 1}) var<storage, ${isWritten ? 'read_write' : 'read'}> ` +
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
  return { code, bindings, uniforms: uniformBytes([...uniforms.values()]), grid }
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

function uniformBytes(values: readonly (readonly ['u32' | 'f32', number])[]): ArrayBuffer {
  const bytes = new ArrayBuffer(Math.ceil(values.length / 4) * 16)
  const [integers, floats] = [new Uint32Array(bytes), new Float32Array(bytes)]
  for (const [i, [type, value]] of values.entries()) (type === 'u32' ? integers : floats)[i] = value
  return bytes
}
