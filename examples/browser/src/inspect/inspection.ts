/** What the page shows of an adapter, as plain data. It runs in a Worker. */
import { AdapterModel, analyse, type Analysis, LilyModel, type LoraAnalysis, LoraModel } from 'lily-kernels'
import { randomInputs } from './random-inputs.js'

export interface ParameterShape {
  readonly name: string
  readonly shape: readonly number[]
  readonly elements: number
}

export interface LilyInspection {
  readonly kind: 'Lily'
  readonly parameters: readonly ParameterShape[]
  /** Number of elements; shared ones count once. */
  readonly total: number
  /** Number of elements of the adapted weights of the base model. */
  readonly baseParameters: number
  /** Rank of LoRA with as many parameters. */
  readonly loraRank: number
  readonly analysis: Analysis
}

export interface LoraInspection {
  readonly kind: 'LoRA'
  readonly parameters: readonly ParameterShape[]
  readonly total: number
  readonly baseParameters: number
  readonly analysis: LoraAnalysis
}

export type Inspection = LilyInspection | LoraInspection

export type OnLayer = (name: string, done: number, layers: number) => void

/**
 * Reads an adapter and analyses it.
 *
 * @throws LilyError (as a rejection) if the files are no adapter
 */
export async function inspectAdapter(files: readonly File[], onProgress: OnLayer): Promise<Inspection> {
  const model = await AdapterModel.fromPretrained(files)
  if (model instanceof LilyModel) return inspectLily(model, onProgress)
  if (model instanceof LoraModel) return inspectLora(model, onProgress)
  throw new TypeError('There are adapters of Lily and of LoRA only.')
}

async function inspectLily(model: LilyModel, onProgress: OnLayer): Promise<LilyInspection> {
  const layers = Array.from(model.layers.values(), ({ name, shape: { inFeatures, outFeatures } }) => ({
    name,
    inFeatures,
    outFeatures,
  }))
  const { routing } = model.config
  const hasRouters = routing !== 'uniform' && routing !== 'learned'
  const samples = hasRouters ? randomInputs(layers) : undefined
  const analysis = await analyse(model, { samples, onProgress })
  const total = sumOf(analysis.targets, ({ parameters }) => parameters)
  return {
    kind: 'Lily',
    parameters: shapesOf(model),
    total,
    baseParameters: sumOf(layers, ({ inFeatures, outFeatures }) => inFeatures * outFeatures),
    loraRank: total / sumOf(layers, ({ inFeatures, outFeatures }) => inFeatures + outFeatures),
    analysis,
  }
}

async function inspectLora(model: LoraModel, onProgress: OnLayer): Promise<LoraInspection> {
  const parameters = shapesOf(model)
  const analysis = await analyse(model, { onProgress })
  return {
    kind: 'LoRA',
    parameters,
    total: sumOf(parameters, ({ elements }) => elements),
    baseParameters: sumOf(analysis.layers, ({ inFeatures, outFeatures }) => inFeatures * outFeatures),
    analysis,
  }
}

const sumOf = <T>(items: readonly T[], numberOf: (item: T) => number): number =>
  items.reduce((sum, item) => sum + numberOf(item), 0)

function shapesOf(model: AdapterModel): ParameterShape[] {
  return Array.from(model.parameters().values(), ({ name, value: { shape } }) => ({
    name,
    shape: [...shape],
    elements: shape.reduce((product, size) => product * size, 1),
  }))
}
