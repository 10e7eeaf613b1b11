/**
 * `npx tsx bench/distributed/model.ts`: what a step of LoRA and of Lily exchanges between 8 to 1024 ranks, and how long that
 * takes by an alpha-beta model. docs/distributed.md has its tables.
 */
import { parsePositive, readOptions } from '../harness/options.js'
import { DEFAULTS, tablesOf } from './tables.js'

const usage = `npx tsx bench/distributed/model.ts [options]
  --alpha SECONDS   latency of a message (default: ${DEFAULTS.alpha})
  --beta RATE       bytes per second of a rank, in each direction (default: ${DEFAULTS.beta}, 100 Gbit/s)
  --bucket BYTES    bucketBytes (default: ${DEFAULTS.bucketBytes})
  --tokens COUNT    of a rank in a step (default: ${DEFAULTS.tokens})
  --flops RATE      of a rank, per second of backward (default: ${DEFAULTS.flops})
  --copies RATE     bytes per second between the memory of a device and the host (default: ${DEFAULTS.copies})
  --help            show this help`

const options = readOptions(usage, {
  alpha: { type: 'string' },
  beta: { type: 'string' },
  bucket: { type: 'string' },
  tokens: { type: 'string' },
  flops: { type: 'string' },
  copies: { type: 'string' },
})

const { bucket: bucketBytes, ...others } = options
const given = Object.entries({ bucketBytes, ...others }).flatMap(([name, text]) =>
  text === undefined ? [] : [[name, parsePositive(name, text)] as const],
)
for (const { title, lines } of tablesOf({ ...DEFAULTS, ...Object.fromEntries(given) })) {
  console.log(`${title}:\n\n${lines.join('\n')}\n`)
}
