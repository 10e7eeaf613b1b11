/**
 * Checks the doc comments of all public names, as typedoc has read them (build/api.json). `npm run docs` runs it.
 *
 * 1. Each name, and each member of a class or an interface, has a description.
 * 2. Each function, method and constructor has @throws with the codes of its errors, or "as" another public name has, or it
 *    says "Throws nothing". A getter has @throws if it throws.
 * 3. Each parameter, property and result that is a tensor or an array of numbers says which shape it has.
 * 4. Each parameter, property and result that is a number says what it counts, its unit or its range.
 * 5. Each function and each class has an example, and what computes names the source of its formula.
 *
 * A parameter or a result may be described by @param and @returns, or in the description of its function: then as `name`.
 */
import { readFileSync } from 'node:fs'

/**
 * @typedef {{ kind: string, text?: string, tag?: string, target?: unknown }} Part
 * @typedef {{ tag: string, name?: string, content: Part[] }} Tag
 * @typedef {{ summary?: Part[], blockTags?: Tag[], modifierTags?: string[] }} Comment
 * @typedef {{ type: string, name?: string, package?: string, types?: Type[], elementType?: Type, target?: unknown, typeArguments?: Type[], elements?: Type[], element?: Type, declaration?: Reflection }} Type
 * @typedef {{
 *   name: string, kind: number, comment?: Comment, children?: Reflection[], signatures?: Reflection[],
 *   getSignature?: Reflection, parameters?: Reflection[], type?: Type, sources?: { fileName: string }[],
 *   inheritedFrom?: object, flags?: { isExternal?: boolean },
 * }} Reflection
 */

/** The kinds of typedoc's models. */
const Kind = { variable: 32, function: 64, class: 128, interface: 256, typeAlias: 2097152, reference: 4194304 }

/** Types of operands and results, and of the arrays that hold their numbers. */
const TENSORS = new Set([
  'TensorLike',
  'HostTensorLike',
  'DeviceTensorLike',
  'OnnxTensorLike',
  'NdArrayLike',
  'Tensor',
  'DeviceBuffer',
  'MaskLike',
  'OffsetsLike',
  'WeightsLike',
  'HostData',
  'Float32Array',
  'Int32Array',
  'Uint16Array',
])

/** A shape in brackets, or a reference to one. */
const SHAPE = /\[[^\]]*\]|\bshapes?\b|\bscalar\b|\bdimensions?\b|\bbytes?\b/i

/** What makes a number a quantity: what it counts, a unit, a range, or a symbol of docs/math.md. */
const QUANTITY = new RegExp(
  `bytes?, elements?, milliseconds?, seconds?, number of, count, from, between, at least, at most,
  index, id, address, share, percent, ratio, factor, norm, seed, rank, handle, cosine,
  decay, cudaStream_t, tokens, entropy, sum, mean, d_in, d_out, values?, nats?, bits, dimensions?, numbers?`
    .split(/,\s+/)
    .map((word) => `\\b${word}\\b`)
    .join('|'),
  'i',
)

/** Folders whose functions compute what docs/math.md, a paper or another library defines. */
const COMPUTES = /^lib\/(operations|optimiser|analysis|model\/accounting)/
const SOURCE = /docs\/[\w-]+\.md|arXiv|https:\/\//

/** @param {Part[] | undefined} parts */
const textOf = (parts) => (parts ?? []).map(({ text = '' }) => text).join('')

/** @param {Reflection | undefined} reflection @param {string} tag */
const tagsOf = (reflection, tag) =>
  (reflection?.comment?.blockTags ?? []).filter((block) => block.tag === tag).map(({ content }) => textOf(content))

/** The description and all tags. @param {Reflection | undefined} reflection */
const wholeOf = (reflection) =>
  [
    textOf(reflection?.comment?.summary),
    ...(reflection?.comment?.blockTags ?? []).map(({ content }) => textOf(content)),
  ].join('\n')

/**
 * Whether a value of this type is, or may be, one for which `matches` holds: looks into unions, promises and arrays.
 *
 * @param {Type | undefined} type
 * @param {(type: Type) => boolean} matches
 * @returns {boolean}
 */
function includes(type, matches) {
  if (type === undefined) return false
  if (matches(type)) return true
  if (type.type === 'union') return (type.types ?? []).some((part) => includes(part, matches))
  if (type.type === 'array') return includes(type.elementType, matches)
  if (type.type === 'typeOperator') return includes(/** @type {Type} */ (type.target), matches)
  if (type.type === 'reference' && /^(Promise|Readonly|ReadonlyArray|Iterable)$/.test(type.name ?? '')) {
    return (type.typeArguments ?? []).some((part) => includes(part, matches))
  }
  return false
}

/** @param {Type} type */
const isTensor = ({ type, name = '' }) => type === 'reference' && TENSORS.has(name)
/** @param {Type} type */
const isNumber = ({ type, name }) => type === 'intrinsic' && (name === 'number' || name === 'bigint')

/** Checks names, and collects what is missing. */
class Checks {
  /** @type {Set<string>} */
  missing = new Set()

  /** @param {ReadonlySet<string>} names the names that "as" may refer to */
  constructor(names) {
    this.names = names
  }

  /** A public name, with its members. @param {string} name @param {Reflection} reflection */
  checkName(name, reflection) {
    if (reflection.kind === Kind.function) {
      for (const signature of reflection.signatures ?? []) this.checkSignature(name, signature)
    } else {
      if (textOf(reflection.comment?.summary).trim() === '') this.missing.add(`${name}: has no description`)
      // The members of a typed array are described by the language.
      if (reflection.name === 'HostData') return
      for (const member of reflection.children ?? []) this.checkMember(name, member)
      for (const member of reflection.type?.declaration?.children ?? []) this.checkMember(name, member)
    }
    if (reflection.kind === Kind.function || reflection.kind === Kind.class) this.checkExample(name, reflection)
  }

  /** @param {string} name @param {Reflection} reflection a function or a class */
  checkExample(name, reflection) {
    const signatures = [reflection, ...(reflection.signatures ?? [])]
    if (!signatures.some((signature) => tagsOf(signature, '@example').length > 0)) {
      this.missing.add(`${name}: has no @example`)
    }
    const computes = reflection.kind === Kind.function && COMPUTES.test(reflection.sources?.[0]?.fileName ?? '')
    if (computes && !signatures.some((signature) => SOURCE.test(wholeOf(signature)))) {
      this.missing.add(`${name}: does not name the source of its formula`)
    }
  }

  /** @param {string} path @param {Reflection} member */
  checkMember(path, member) {
    // A constructor that the class does not declare.
    if (
      member.name === 'constructor' &&
      member.signatures?.every(({ comment, parameters }) => !comment && !parameters)
    ) {
      return
    }
    if (member.name.startsWith('__')) return
    const name = `${path}.${member.name}`
    for (const signature of member.signatures ?? []) this.checkSignature(name, signature)
    if (member.signatures !== undefined) return
    const documented = member.getSignature ?? member
    const text = wholeOf(documented)
    if (text.trim() === '') this.missing.add(`${name}: has no description`)
    this.checkValue(name, documented.type, text)
  }

  /** @param {string} name @param {Reflection} signature */
  checkSignature(name, signature) {
    const summary = textOf(signature.comment?.summary)
    if (summary.trim() === '') this.missing.add(`${name}: has no description`)
    const throws = tagsOf(signature, '@throws').join('\n')
    const others = Array.from(throws.matchAll(/\bas `?(?:\w+\.)?(\w+)/g), ([, other]) => other)
    const isSaid = /ERR_LILY_\w+/.test(throws) || others.some((other) => this.names.has(other))
    if (!isSaid && !/throws\s+nothing/i.test(wholeOf(signature))) {
      this.missing.add(`${name}: has no @throws with a code, and does not say "Throws nothing"`)
    }
    for (const parameter of signature.parameters ?? []) {
      const own = textOf(parameter.comment?.summary)
      const inText = new RegExp(`\\b${parameter.name}\\b`).test(summary) ? summary : ''
      this.checkValue(`${name}(${parameter.name})`, parameter.type, `${own}\n${inText}`)
    }
    const returns = tagsOf(signature, '@returns').join('\n')
    this.checkValue(`${name}: its result`, signature.type, `${returns}\n${summary}`)
  }

  /** @param {string} name @param {Type | undefined} type @param {string} text */
  checkValue(name, type, text) {
    if (includes(type, isTensor) && !SHAPE.test(text)) this.missing.add(`${name}: which shape does it have?`)
    if (includes(type, isNumber) && !QUANTITY.test(text) && !SHAPE.test(text)) {
      this.missing.add(`${name}: what does it count, in which unit or range?`)
    }
  }
}

/**
 * What is missing in the doc comments of a project, one line each.
 *
 * @param {{ children: Reflection[] }} project the JSON of typedoc
 * @returns {string[]}
 */
function findMissing(project) {
  const reflections = project.children.flatMap(({ children = [] }) => children)
  const checks = new Checks(
    new Set(reflections.flatMap(({ name, children = [] }) => [name, ...children.map((member) => member.name)])),
  )
  const codes = new Set(JSON.stringify(project).match(/ERR_LILY_\w+/g))
  const declared = declaredCodes(project)
  for (const code of codes) if (!declared.has(code)) checks.missing.add(`${code} is not a LilyErrorCode`)
  for (const module of project.children) {
    for (const reflection of module.children ?? []) {
      if (reflection.kind === Kind.reference) continue // documented where it is defined
      checks.checkName(`${module.name}: ${reflection.name}`, reflection)
    }
  }
  return [...checks.missing]
}

/** The members of the type LilyErrorCode. @param {{ children: Reflection[] }} project */
function declaredCodes(project) {
  const type = project.children
    .flatMap(({ children = [] }) => children)
    .find(({ name, kind }) => name === 'LilyErrorCode' && kind !== Kind.reference)?.type
  return new Set((type?.types ?? []).map((member) => /** @type {{ value?: string }} */ (member).value))
}

/** @type {unknown} */
const project = JSON.parse(readFileSync('build/api.json', 'utf8'))
const missing = findMissing(/** @type {{ children: Reflection[] }} */ (project))
for (const line of missing) console.error(line)
if (missing.length > 0) {
  console.error(
    `${missing.length} public names lack a part of their documentation; scripts/check-docs.js has the rules`,
  )
  process.exitCode = 1
}
