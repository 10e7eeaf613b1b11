/** Runs an inspection and writes its output. */
import { writeFileSync } from 'node:fs'
import type { Command } from 'commander'
import {
  analyse,
  type AnalysisOptions,
  LilyError,
  LilyModel,
  SafetensorsFile,
  type StoredTensor,
} from '../../lib/index.js'
import { startProgress } from '../report/progress.js'
import type { Inspection } from './inspection.js'
import type { InspectOptions } from './options.js'
import { inspectionText } from './text.js'

export async function inspect(
  folder: string,
  options: InspectOptions,
  command: Command,
  version: string,
): Promise<void> {
  const inspection = await inspectFolder(folder, options, version).catch((error: unknown) => {
    if (error instanceof LilyError) command.error(`${error.code}: ${error.message}`)
    throw error
  })
  const json = `${JSON.stringify(inspection, null, 2)}\n`
  if (options.json === true) process.stdout.write(json)
  else console.log(inspectionText(inspection))
  if (typeof options.json === 'string') writeFileSync(options.json, json)
  if (options.html === false) return
  // The chart libraries are large; load them only for a page.
  const { inspectionPage } = await import('./page.js')
  writeFileSync(options.html, inspectionPage(inspection))
  console.error(`charts: ${options.html}`)
}

async function inspectFolder(folder: string, { samples }: InspectOptions, version: string): Promise<Inspection> {
  const model = await LilyModel.fromPretrained(folder)
  const sampled: AnalysisOptions = samples === undefined ? {} : { samples: await readSamples(samples) }
  // Show progress in a terminal only: a log does not need one line per layer.
  const progress = process.stderr.isTTY ? startProgress() : null
  try {
    const analysis = await analyse(model, {
      ...sampled,
      onProgress: (name, done, layers) => progress?.update(name, done / layers),
    })
    return { version, folder, samples: samples ?? null, analysis }
  } finally {
    progress?.stop()
  }
}

async function readSamples(path: string): Promise<Map<string, StoredTensor[]>> {
  const file = await SafetensorsFile.open(path)
  const samples = new Map<string, StoredTensor[]>()
  for (const name of file.tensors.keys()) samples.set(name, [await file.read(name)])
  await file.close()
  return samples
}
