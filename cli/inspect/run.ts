/** Runs an inspection and writes its output. */
import { AdapterModel, analyse, type AnalysisOptions, LilyModel, LoraModel } from '../../lib/index.js'
import { adapterInputs } from '../../report/adapter-inputs.js'
import { attemptAll, CommandError } from '../../report/failure.js'
import { checkWritable, writeOutput } from '../../report/output-file.js'
import { note, print } from '../../report/print.js'
import { jsonText, printable, withPrintableStrings } from '../../report/printable.js'
import { startProgress } from '../../report/progress.js'
import type { Inspection } from './inspection.js'
import type { LoraInspection } from './lora-inspection.js'
import { loraText } from './lora-text.js'
import type { InspectOptions } from './options.js'
import { readSamples } from './samples.js'
import { inspectionText } from './text.js'

export async function inspect(folder: string, options: InspectOptions, version: string): Promise<void> {
  const { json, html, samples } = options
  const inputs = adapterInputs(folder)
  // Report a file that cannot be written now, not after minutes of analysis.
  checkWritable(
    { '--json': json === true ? undefined : json, '--html': html },
    samples === undefined ? inputs : [...inputs, samples],
  )
  const model = await AdapterModel.fromPretrained(folder)
  if (model instanceof LoraModel) {
    const inspection = await inspectLora(model, folder, options, version)
    await write(inspection, options, loraText, async () => (await import('./lora-page.js')).loraPage)
  }
  if (model instanceof LilyModel) {
    const inspection = await inspectLily(model, folder, options, version)
    await write(inspection, options, inspectionText, async () => (await import('./page.js')).inspectionPage)
  }
}

/**
 * Writes all outputs.
 *
 * @param loadPage returns the page's function. The chart libraries are large; it loads them only for a page
 */
async function write<T>(
  inspection: T,
  { json, html }: InspectOptions,
  textOf: (shown: T) => string,
  loadPage: () => Promise<(shown: T, data: T) => string>,
): Promise<void> {
  // The analysis has the names as they are in the files.
  const shown = withPrintableStrings(inspection)
  const text = jsonText(inspection, 2)
  await attemptAll([
    () => {
      if (typeof json === 'string') writeOutput('--json', json, `${text}\n`)
    },
    () => print(json === true ? text : textOf(shown)),
    async () => {
      if (html === undefined) return
      const pageOf = await loadPage()
      writeOutput('--html', html, pageOf(shown, inspection))
      note(`charts: ${printable(html)}`)
    },
  ])
}

async function inspectLily(
  model: LilyModel,
  folder: string,
  { samples }: InspectOptions,
  version: string,
): Promise<Inspection> {
  const sampled: AnalysisOptions = samples === undefined ? {} : { samples: await readSamples(samples, model) }
  const analysis = await withProgress((onProgress) => analyse(model, { ...sampled, onProgress }))
  return { version, folder, samples: samples ?? null, analysis }
}

async function inspectLora(
  model: LoraModel,
  folder: string,
  { samples }: InspectOptions,
  version: string,
): Promise<LoraInspection> {
  if (samples !== undefined) {
    throw new CommandError('--samples are for the routers of Lily, which LoRA does not have; leave them out')
  }
  return { version, folder, analysis: await withProgress((onProgress) => analyse(model, { onProgress })) }
}

async function withProgress<T>(
  run: (onProgress: NonNullable<AnalysisOptions['onProgress']>) => Promise<T>,
): Promise<T> {
  // A log does not need one line per layer.
  const progress = startProgress(() => undefined)
  try {
    return await run((name, done, layers) => progress.update(name, done / layers))
  } finally {
    progress.stop()
  }
}
