/** Finds the nodes of an ONNX model that compute the adapted layers. */
import { fail } from '../base/errors.js'
import { nameDistance } from '../base/nearest.js'
import { quote } from '../checkpoint/errors.js'
import { type Candidate, candidatesOf, TELLERS } from './candidates.js'
import { commonEnd, firstCall, normal } from './names.js'
import type { OnnxModel } from './read.js'
import { scopesOf } from './scopes.js'
import type { Site, SoughtLayer } from './sites.js'

/** The candidates whose names are compared for a message, and those that it lists. */
const MAX_COMPARED = 2 ** 11
const MAX_LISTED = 4
/** The end of a path tells more than its beginning. */
const COMPARED = 48

/** For messages. */
const KINDS = 'MatMul, Gemm, MatMulNBits or MatMulInteger with a constant weight'

/**
 * The nodes of the adapted layers, in the order of `layers`: several of one layer have one weight, or are in graphs of their
 * own, as the branches of an If.
 *
 * @param path name of the model in messages
 * @param model of `readModel`
 * @param layers the adapted layers
 * @param names by the name of a layer, the model's name of its node or of its weight
 * @throws LilyError ERR_LILY_ARGUMENT for a layer with no node, or with more than one weight; ERR_LILY_CHECKPOINT
 */
export function findSites(
  path: string,
  model: OnnxModel,
  layers: readonly SoughtLayer[],
  names: Readonly<Record<string, string>> = {},
): Site[] {
  const candidates = scopesOf(path, model.graph).flatMap(candidatesOf)
  checkKeys(layers, names)
  const bySize = groupBySize(candidates)
  const owners = new Map<Candidate, string>()
  return layers.flatMap((layer) => {
    const name = Object.hasOwn(names, layer.name) ? names[layer.name] : null
    const fitting = bySize.get(sizeOf(layer)) ?? []
    const found = name === null ? findByPath(layer, fitting) : findByName(layer, name, fitting)
    if (found === null) return notFound(layer, name, candidates)
    return found.map((candidate) => {
      checkOwner(owners.get(candidate), layer.name, candidate)
      owners.set(candidate, layer.name)
      const { graph, node, x, y, type, rank } = candidate
      return { layer: layer.name, graph, node, x, y, type, rank }
    })
  })
}

const sizeOf = ({ inFeatures, outFeatures }: Pick<SoughtLayer, 'inFeatures' | 'outFeatures'>) =>
  `${inFeatures} x ${outFeatures}`

function groupBySize(candidates: readonly Candidate[]): ReadonlyMap<string, Candidate[]> {
  const groups = new Map<string, Candidate[]>()
  for (const candidate of candidates) {
    const size = sizeOf(candidate)
    groups
      .set(size, groups.get(size) ?? [])
      .get(size)
      ?.push(candidate)
  }
  return groups
}

/** A candidate, and the name by which it was found. */
type Match = readonly [Candidate, string]

/** The candidates of a name that the caller gave. */
function findByName(layer: SoughtLayer, name: string, fitting: readonly Candidate[]): Candidate[] | null {
  const found = fitting.filter(({ names }) => names.includes(name))
  checkOne(
    layer,
    found.map((candidate) => [candidate, name]),
  )
  return found.length === 0 ? null : found
}

/** The candidates whose module's path is the layer's name, or ends with it, or is its end. */
function findByPath(layer: SoughtLayer, fitting: readonly Candidate[]): Candidate[] | null {
  const path = normal(layer.name)
  const matches = bestMatches(path, fitting)
  if (matches.length === 0) return null
  const ownMatches = matches.filter(([candidate]) => !isOfOther(candidate, path))
  const certain = ownMatches.length === 0 ? matches : ownMatches
  checkOne(layer, certain)
  const found = distinct(certain.map(([candidate]) => candidate))
  const sharing = fitting.filter((candidate) => found.some((each) => haveOneMatrix(candidate, each)))
  const own = sharing.filter((candidate) => !isOfOther(candidate, path))
  return own.length === 0 ? sharing : own
}

/** The candidates whose paths have most in common with a path: by the best teller, if several tell as much. */
function bestMatches(path: string, candidates: readonly Candidate[]): Match[] {
  let [best, matches] = [0, [] as Match[]]
  for (const teller of TELLERS) {
    const before = best
    for (const candidate of candidates) {
      for (const each of candidate.paths[teller]) {
        const score = commonEnd(each, path)
        if (score > best) [best, matches] = [score, []]
        if (score > before && score === best) matches.push([candidate, each])
      }
    }
  }
  return matches
}

/** Whether candidates multiply by one matrix. A square weight and its transpose are two. */
const haveOneMatrix = (left: Candidate, right: Candidate) =>
  left.weight === right.weight && left.isTransposed === right.isTransposed

/** Whether the names of a node tell that it belongs to another module, whose weight is tied to the layer's. */
function isOfOther({ node, paths }: Candidate, path: string): boolean {
  const told = [...paths.scope, ...(node.name.includes('/') ? paths.node : [])].flatMap((each) => [
    each,
    firstCall(each),
  ])
  return told.length > 0 && told.every((each) => commonEnd(each, path) === 0)
}

/** Candidates of all the matrices, one of each. */
const distinct = (candidates: readonly Candidate[]) =>
  candidates.filter((each, i) => i === candidates.findIndex((first) => haveOneMatrix(first, each)))

/** Checks that candidates have one matrix in each graph, and one name. */
function checkOne(layer: SoughtLayer, matches: readonly Match[]): void {
  const known = new Map<Candidate['graph'], Candidate>()
  const candidates = matches.map(([candidate]) => candidate)
  for (const [candidate, name] of matches) {
    const other = known.get(candidate.graph) ?? candidate
    known.set(candidate.graph, candidate)
    if (haveOneMatrix(candidate, candidates[0])) continue
    if (name === matches[0][1] && haveOneMatrix(candidate, other)) continue
    fail(
      'ERR_LILY_ARGUMENT',
      'layers',
      `expected one weight for ${quote(layer.name)}, got ${distinct(candidates).length}: ${list(candidates)}; pass layers: { [layer]: name of the node or of the weight }`,
    )
  }
}

function checkOwner(owner: string | undefined, layer: string, candidate: Candidate): void {
  if (owner === undefined) return
  fail(
    'ERR_LILY_ARGUMENT',
    'layers',
    `expected a node for each layer, got ${label(candidate)} for ${quote(owner)} and ${quote(layer)}; pass layers: ` +
      '{ [layer]: name of the node or of the weight }',
  )
}

function checkKeys(layers: readonly SoughtLayer[], names: Readonly<Record<string, string>>): void {
  const known = new Set(layers.map(({ name }) => name))
  const unknown = Object.keys(names).find((name) => !known.has(name))
  if (unknown !== undefined) {
    fail('ERR_LILY_ARGUMENT', 'layers', `expected names of adapted layers as keys, got ${quote(unknown)}`)
  }
}

function notFound(layer: SoughtLayer, name: string | null, candidates: readonly Candidate[]): never {
  const size = sizeOf(layer)
  const expected = `expected a ${KINDS} of ${size} for ${quote(layer.name)}, got`
  const refuse = (rest: string) => fail('ERR_LILY_ARGUMENT', 'layers', `${expected} ${rest}`)
  if (candidates.length === 0) {
    return refuse(
      'none: the model has no such node; export it without fused operators, or inject before a tool fuses them',
    )
  }
  const others =
    name === null
      ? bestMatches(normal(layer.name), candidates).map(([candidate]) => candidate)
      : candidates.filter(({ names }) => names.includes(name))
  const got = others.length === 0 ? `none of the name ${quote(name ?? layer.name)}` : list([...new Set(others)])
  if (name === null && others.length > 0) return refuse(`${got}; inject into the model that was adapted`)
  const fitting = candidates.filter((candidate) => sizeOf(candidate) === size)
  const near = list(nearest(name ?? layer.name, fitting.length > 0 ? fitting : candidates))
  return refuse(`${got}. The model has ${near}; pass layers: { [layer]: name of the node or of the weight }`)
}

/** The candidates of the most similar names. */
function nearest(name: string, candidates: readonly Candidate[]): Candidate[] {
  const distances = candidates.slice(0, MAX_COMPARED).map((candidate) => {
    const distances = Object.values(candidate.paths)
      .flat()
      .map((path) => nameDistance(path.slice(-COMPARED), normal(name).slice(-COMPARED)))
    return [candidate, Math.min(...distances)] as const
  })
  return distances.sort(([, left], [, right]) => left - right).map(([candidate]) => candidate)
}

const label = ({ names: [name] }: Candidate) => quote(name)

function list(candidates: readonly Candidate[]): string {
  const listed = candidates.slice(0, MAX_LISTED).map((candidate) => `${label(candidate)} (${sizeOf(candidate)})`)
  const more = candidates.length - listed.length
  return `${listed.join(', ')}${more === 0 ? '' : ` and ${more} more`}`
}
