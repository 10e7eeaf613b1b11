/** Runs an inspection and writes its output. */
import { analyse, type AnalysisOptions, LilyModel } from '../../lib/index.js'
import { attemptAll } from '../report/failure.js'
import { checkWritable, writeOutput } from '../report/output-file.js'
import { note, print } from '../report/print.js'
import { jsonText, printable, withPrintableStrings } from '../report/printable.js'
import { startProgress } from '../report/progress.js'
import type { Inspection } from './inspection.js'
import type { InspectOptions } from './options.js'
import { readSamples } from './samples.js'
import { inspectionText } from './text.js'

export async function inspect(folder: string, options: InspectOptions, version: string): Promise<void> {
  const { json, html } = options
  // Report a file that cannot be written now, not after minutes of analysis.
  checkWritable({ '--json': json === true ? undefined : json, '--html': html === false ? undefined : html })
  const inspection = await inspectFolder(folder, options, version)
  // The analysis has the names as they are in the files.
  const shown = withPrintableStrings(inspection)
  const text = jsonText(inspection, 2)
  await attemptAll([
    () => {
      if (typeof json === 'string') writeOutput('--json', json, `${text}\n`)
    },
    () => print(json === true ? text : inspectionText(shown)),
    async () => {
      if (html === false) return
      // The chart libraries are large; load them only for a page.
      const { inspectionPage } = await import('./page.js')
      writeOutput('--html', html, inspectionPage(shown, inspection))
      note(`charts: ${printable(html)}`)
    },
  ])
}

async function inspectFolder(folder: string, { samples }: InspectOptions, version: string): Promise<Inspection> {
  const model = await LilyModel.fromPretrained(folder)
  const sampled: AnalysisOptions = samples === undefined ? {} : { samples: await readSamples(samples, model) }
  // A log does not need one line per layer.
  const progress = startProgress(() => undefined)
  try {
    const analysis = await analyse(model, {
      ...sampled,
      onProgress: (name, done, layers) => progress.update(name, done / layers),
    })
    return { version, folder, samples: samples ?? null, analysis }
  } finally {
    progress.stop()
  }
}
