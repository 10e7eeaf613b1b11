/**
 * The shader of a pass, and the content of its uniform parameters. Passes of different calls may share a dispatch, if their text
 * is the same and they bind the same buffers.
 */
import { bytesPer, ceilDiv, type Pass } from '../../binding/gpu-pass.js'
import { type Binding, bindingsOf, covering } from '../bindings.js'
import { accessors, conversionOf } from './accessors.js'

/** Fewest threads of a workgroup: every device supports them, except at the feature level 'compatibility'. */
export const LEAST_THREADS = 256

/** Workgroups in x of a larger grid: the number that every device supports. */
const MOST_WORKGROUPS = 65535

/** A pass as text, and the numbers that the text does not contain. */
export interface Shader {
  readonly pass: Pass
  readonly bindings: readonly Binding[]
  /** All of the module but its parameters and its entry point. */
  readonly text: string
  readonly workgroups: number
  readonly parameters: readonly Parameter[]
}

interface Parameter {
  readonly isFloat: boolean
  readonly value: number
  /** For the start of an operand: the binding that it counts from, and the bytes of an element. */
  readonly from?: { readonly binding: number; readonly bytes: number }
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

export function shaderOf(pass: Pass, common: Common, limits: GPUSupportedLimits): Shader {
  const bindings = bindingsOf(pass, limits)
  const workgroups = pass.reduce((sum, part) => sum + part.workgroups, 0)
  const parameters = new Map<string, Parameter>()
  const add = (entries: Readonly<Record<string, number>> = {}, of: Omit<Parameter, 'value'> = { isFloat: false }) => {
    for (const [name, value] of Object.entries(entries)) {
      if (!parameters.has(name)) parameters.set(name, { ...of, value })
    }
  }
  add({ workgroups, ...common.params })
  add(common.floats, { isFloat: true })
  const texts: string[] = []
  for (const [binding, { members, isAtomic }] of bindings.entries())
    for (const [name, operand] of members) {
      const bytes = bytesPer[operand.dtype]
      add({ [`${name}_at`]: operand.byteOffset / bytes }, { isFloat: false, from: { binding, bytes } })
      add({ [`${name}_pitch`]: operand.pitch, [`${name}_rows`]: operand.rows, [`${name}_cols`]: operand.cols })
      add({ [`${name}_quads`]: ceilDiv(operand.cols, 4) })
      if (operand.listed) add({ [`${name}_all`]: operand.listed.rows })
      if (operand.isWritten) add({ [`${name}_add`]: operand.accumulate ? 1 : 0 })
      texts.push(accessors(name, operand, `words${binding}`, isAtomic))
    }
  for (const part of pass) {
    add({ [`${part.name}_workgroups`]: part.workgroups })
    add(part.params)
    add(part.floats, { isFloat: true })
  }
  // Elements of an array in a uniform buffer begin at multiples of 16 bytes.
  while (parameters.size % 4 !== 0) add({ [`unused${parameters.size % 4}`]: 0 })

  const shared = new Set([
    ...bindings.flatMap(({ members }) => members.flatMap(([, operand]) => conversionOf(operand) ?? [])),
    ...pass.flatMap(({ helpers = [] }) => helpers.filter((helper) => helper)),
  ])
  const tileLength = Math.max(0, ...pass.map((part) => part.tileLength ?? 0))
  const threads = Math.max(LEAST_THREADS, ...pass.map((part) => part.threads ?? 0))
  const text = [
    `struct Params { ${[...parameters].map(([name, { isFloat }]) => `${name}: ${isFloat ? 'f32' : 'u32'}`).join(', ')} }`,
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
  ].join('\n')
  return { pass, bindings, text, workgroups, parameters: [...parameters.values()] }
}

/** Whether both can share a dispatch. Texts are long, so they are compared last. */
export const canShare = (one: Shader, other: Shader): boolean =>
  one.bindings.length === other.bindings.length &&
  one.bindings.every(({ buffer }, i) => buffer === other.bindings[i].buffer) &&
  one.text === other.text

/**
 * One dispatch of shaders that can share it: the workgroups of the first, then those of the next.
 *
 * @param length of the array of their parameters, at least their number
 */
export function moduleOf(shaders: readonly Shader[], length = 1): Module {
  const [{ pass, text, parameters }] = shaders
  const bindings = covering(shaders.map((shader) => shader.bindings))
  const uniforms = new ArrayBuffer(length * parameters.length * 4)
  const [integers, floats] = [new Uint32Array(uniforms), new Float32Array(uniforms)]
  let i = 0
  for (const shader of shaders)
    for (const { isFloat, value, from } of shader.parameters) {
      const start = from === undefined ? 0 : bindings[from.binding].offset / from.bytes
      ;(isFloat ? floats : integers)[i++] = value - start
    }
  const code = length === 1 ? ofOne(text, pass) : ofSeveral(text, pass, length)
  const workgroups = shaders.reduce((sum, shader) => sum + shader.workgroups, 0)
  const width = Math.min(workgroups, MOST_WORKGROUPS)
  return { code, bindings, uniforms, grid: [width, Math.ceil(workgroups / Math.max(width, 1))] }
}

const MAIN = `@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) tid: u32) {
  var id = group.x + group.y * grid.x;`

/** Every workgroup runs one part; the parts follow each other in the grid. */
const runPart = (parts: Pass, params: string, item: string) =>
  parts
    .map(
      ({ name }) => `
  if (id < ${params}.${name}_workgroups) { ${name}(id, tid, ${item}); return; }
  id -= ${params}.${name}_workgroups;`,
    )
    .join('')

const ofOne = (text: string, pass: Pass) => `${text}
@group(0) @binding(0) var<uniform> P: Params;
${MAIN}${runPart(pass, 'P', '0u')}
}`

/** P is then the element for the workgroup's shader in an array. */
const ofSeveral = (text: string, pass: Pass, length: number) => `${text.replaceAll('P.', 'items[item].')}
@group(0) @binding(0) var<uniform> items: array<Params, ${length}>;
var<private> item: u32;
${MAIN}
  var i = 0u;
  while (i < ${length - 1}u && id >= items[i].workgroups) {
    id -= items[i].workgroups;
    i++;
  }
  item = i;${runPart(pass, 'items[i]', 'i')}
}`
