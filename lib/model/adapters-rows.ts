/** Calls of a layer with an adapter per row (docs/math.md, "Adapters per row"): which adapters they name. */
import { describe, fail } from '../base/errors.js'
import { elementsOf, type Known, readFlag, readProperties } from '../base/options.js'
import { checkPerSegment, checkScale, segmentsOf } from '../operations/assignment.js'
import type { RowsOf } from '../operations/rows.js'
import { type AdapterLayer, type LayerForwardInputs, readLayerForward } from './adapter-layer.js'
import type { AdapterModel } from './adapter-model.js'
import { LAYER_OPTIONS } from './lily-layer.js'

/** The options `rows` and `strict`, read once. */
export interface NamedRows {
  /** The adapter of each sequence or token as the caller names it; null: none. */
  readonly names: readonly unknown[]
  /** Whether an adapter that does not adapt the layer is an error. */
  readonly isStrict: boolean
}

/** A forward call of a layer of several adapters, read once. */
export interface AdaptersForwardInputs {
  readonly inputs: LayerForwardInputs
  /** Null: all active adapters compute all rows. */
  readonly rows: NamedRows | null
}

const OPTIONS: Known = new Set([...LAYER_OPTIONS, 'rows', 'scale', 'strict'])

export function readAdaptersForward(operands: object, options: object = {}): AdaptersForwardInputs {
  const inputs = readLayerForward(operands, options, OPTIONS)
  const rows = readProperties('options', options, OPTIONS, readRows)
  const { scale, weights } = inputs.settings
  if (rows === null && scale !== null) refuseWithoutRows('scale')
  if (rows !== null && weights !== null) {
    fail('ERR_LILY_ARGUMENT', 'weights', 'does not go with rows, whose adapters have weights of their own; freeze them')
  }
  return { inputs, rows }
}

function readRows({ rows, strict }: { readonly rows?: unknown; readonly strict?: unknown }): NamedRows | null {
  const isStrict = readFlag('strict', strict, null)
  if (rows === undefined) return isStrict === null ? null : refuseWithoutRows('strict')
  const names = elementsOf(rows)
  if (names !== null) return { names, isStrict: isStrict === true }
  return fail('ERR_LILY_ARGUMENT', 'rows', `expected an array of adapter names and null, got ${describe(rows)}`)
}

function refuseWithoutRows(argument: string): never {
  fail('ERR_LILY_ARGUMENT', argument, 'is given without rows; pass rows, or leave it out')
}

/** The adapters of a call. */
export interface NamedLayers extends RowsOf {
  /** By the names of those that adapt the layer, in the order in which `rows` first names them. */
  readonly layers: ReadonlyMap<string, AdapterLayer>
}

/** Finds the adapters that the rows of a call of the layer `layerName` name. */
export function findLayers(
  layerName: string,
  { names, isStrict }: NamedRows,
  { x, settings }: LayerForwardInputs,
  models: ReadonlyMap<unknown, AdapterModel>,
): NamedLayers {
  const segments = segmentsOf(x, settings)
  checkPerSegment('rows', [names.length], 'adapter name or null', segments, x)
  const layers = new Map<string, AdapterLayer>()
  const indices = new Map<unknown, number>([[null, -1]])
  const of = new Array<number>(names.length)
  for (let i = 0; i < names.length; i++) {
    const name = names[i]
    let index = indices.get(name)
    if (index === undefined) {
      const model = models.get(name) ?? failUnknown('rows', name, models, `element ${i}: `, ', or null for the base')
      const layer = model.layers.get(layerName)
      if (layer === undefined && isStrict) failLacking(i, name, layerName)
      index = layer === undefined ? -1 : layers.size
      if (layer !== undefined) layers.set(name as string, layer)
      indices.set(name, index)
    }
    of[i] = index
  }
  return { segments, of, scale: settings.scale && checkScale(settings.scale, segments, x), layers }
}

function failLacking(i: number, name: unknown, layerName: string): never {
  fail(
    'ERR_LILY_ARGUMENT',
    'rows',
    `element ${i}: expected an adapter of layer '${layerName}', got ${describe(name)}, which does not adapt it; ` +
      'leave strict out to add nothing there',
  )
}

/** The most names that an error lists. */
const LISTED = 8

/** Fails because no adapter has a name. `before` precedes what was expected in the message, and `further` follows it. */
export function failUnknown(
  argument: string,
  name: unknown,
  models: ReadonlyMap<unknown, unknown>,
  before = '',
  further = '',
): never {
  const known = Array.from(models.keys(), String)
  const listed = known.length === 0 ? '(none)' : known.slice(0, LISTED).join(', ')
  const others = known.length > LISTED ? ` and ${known.length - LISTED} others` : ''
  const message = `${before}expected one of the adapters ${listed}${others}${further}, got ${describe(name)}`
  return fail('ERR_LILY_ARGUMENT', argument, message)
}
