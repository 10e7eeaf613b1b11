/** The arithmetic roof of a GPU: cuBLASLt's rate if it is installed, for which the test builds a library of that name. */
import { spawnSync } from 'node:child_process'
import { delimiter } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import type { Roofs } from '../../bench/roofs/roofs.js'
import { isEmulated } from '../support/backend.js'
import { cublasLt } from '../support/cublaslt.js'
import { temporaryFolder } from '../support/temporary.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const empty = temporaryFolder()

const program = `
import { backends } from './lib/index.ts'
import { measureRoofs } from './bench/roofs/roofs.ts'
const [device] = backends().find(({ name }) => name === 'cuda').devices
console.log(JSON.stringify(await measureRoofs('cuda', device, new AbortController().signal)))
`

/** Measures the roofs of an emulated GPU with a small L2, with the libraries of a folder. */
function roofsWith(folder: string): { roofs: Roofs; text: string } {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '--eval', program],
    {
      cwd: root,
      encoding: 'utf8',
      env: {
        ...process.env,
        LD_LIBRARY_PATH: [folder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(delimiter),
        LILY_EMULATOR_SMS: '2',
        LILY_EMULATOR_L2: '16K',
      },
    },
  )
  expect(status, stderr).toBe(0)
  return { roofs: JSON.parse(stdout) as Roofs, text: stderr }
}

test("cuBLASLt's rate is the roof if it is installed", (context) => {
  if (!isEmulated) context.skip('the device is a GPU, whose cuBLASLt the test must not replace')
  const { roofs, text } = roofsWith(cublasLt())
  expect(roofs.bfloat16Source).toBe('cuBLASLt')
  expect(roofs.bfloat16Flops).toBeGreaterThan(0)
  expect(roofs.float16Flops).toBe(roofs.bfloat16Flops)
  // bfloat16 with float32 sums; the first matrix is transposed.
  const product = '"type":14,"computeType":68,"transposesA":true,"rows":128,"columns":128,"depth":128'
  expect(text).toContain(`{"call":"multiply",${product},"pitches":[128,128,128],"beta":0,"epilogue":1`)
  expect(text.match(/"call":"create"/g)).toHaveLength(1)
  expect(text.match(/"call":"destroy"/g)).toHaveLength(1)
})

test('without it, our own loop is, and the reason is given', (context) => {
  if (!isEmulated) context.skip('the device is a GPU, which may have cuBLASLt')
  const { roofs } = roofsWith(empty)
  expect(roofs.bfloat16Source).toMatch(/^a loop on registers \(.*cuBLASLt was not found/)
  expect(roofs.bfloat16Flops).toBeGreaterThan(0)
})
