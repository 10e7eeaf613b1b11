/**
 * A bundle for Node.js that has the package in it, which has no files there: the error says what to do.
 *
 * @project cpu
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buildSync } from 'esbuild'
import { afterAll, expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'

const folder = mkdtempSync(join(tmpdir(), 'lily-bundled-'))
afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

const ofProgram = join(folder, 'program')
mkdirSync(join(ofProgram, 'build', 'Release'), { recursive: true })
writeFileSync(join(ofProgram, 'package.json'), '{ "name": "program" }')
writeFileSync(join(ofProgram, 'build', 'Release', 'other.node'), 'an addon of the program')
const alone = join(folder, 'alone')
mkdirSync(alone)

// As users do who have met the error that there is no `require` in an ES module.
const REQUIRE = "import { createRequire } from 'node:module'\nconst require = createRequire(import.meta.url)"
const formats = [
  ['esm', 'bundle.mjs', ''],
  ['esm', 'with-require.mjs', REQUIRE],
  ['cjs', 'bundle.cjs', ''],
] as const
const places = { 'in a package': ofProgram, 'in none': alone }
const cases = formats.flatMap((format) =>
  Object.entries(places).map((place) => [place[0], format[0], place[1], format[1], format[2]] as const),
)

test.each(cases)('%s: %s', (_, format, place, name, banner) => {
  const file = join(place, name)
  buildSync({
    entryPoints: [join(packageRoot, 'dist', 'index.js')],
    banner: { js: banner },
    bundle: true,
    format,
    logLevel: 'error',
    outfile: file,
    platform: 'node',
  })
  for (const LILY_CPU_ISA of ['', 'wasm']) {
    const { status, stderr } = spawnSync(process.execPath, [file], {
      cwd: place,
      env: { ...process.env, LILY_CPU_ISA },
      encoding: 'utf8',
    })
    expect(status).toBe(1)
    expect(stderr).toMatch(
      /LilyError.*: a bundler has copied lily-kernels into another file.*leave the package external/,
    )
    expect(stderr).toContain("code: 'ERR_LILY_BACKEND_UNAVAILABLE'")
  }
})
