#!/usr/bin/env node
// Runs on this machine those commands of .github/workflows that the gate has not run by then, so that no workflow names what
// does not exist or fails:
//
//     node scripts/run-workflows.js FILE
//
// FILE has the commands that the gate has run, one in a line (.ci/run writes it).
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { hasRun, readWorkflows } from './workflow-commands.js'

const root = dirname(dirname(fileURLToPath(import.meta.url)))

/**
 * What cannot run here, and why.
 *
 * @type {readonly (readonly [command: RegExp, reason: string])[]}
 */
const ELSEWHERE = [
  [/\bapt-get install\b/, 'the gate has installed its packages'],
  [/^gh run download /, 'this is no run of GitHub'],
  [/^mkdir prebuilds && cp -r build\/addons/, 'the addons of other systems are not here'],
  [/^npm pkg set /, 'it changes package.json'],
  [/^npm run check:package -- --gathered$/, 'the addons for macOS are not here'],
  [/^npm run prebuild -- --target=linux-x64$/, 'the CUDA library for all GPUs takes too long'],
  [/^npm publish /, 'it publishes'],
]

/** Alpine Linux, as far as the package can tell. */
const DOCKER = /^docker run --rm --volume "\$PWD:\/lily:ro" "node:\$NODE-alpine" /

/** @type {unknown} */
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const { scripts } = /** @type {{ scripts: Record<string, string | undefined> }} */ (manifest)
const [file = ''] = process.argv.slice(2)
const ran = readFileSync(file, 'utf8').split('\n').filter(Boolean)

let hasFailed = false
/** @type {Set<string>} */
const seen = new Set()
for (const [name, { jobs }] of readWorkflows()) {
  for (const [job, { env, steps }] of Object.entries(jobs)) {
    for (const step of steps) {
      const command = step.run
      if (command === undefined || seen.has(command)) continue
      seen.add(command)
      const reason = ELSEWHERE.find(([pattern]) => pattern.test(command))?.[1]
      const where = `${name}, ${job}: ${command}`
      if (reason !== undefined || hasRun(command, ran, scripts)) {
        console.log(`lily-kernels: ${where}: ${reason ?? 'the gate has run it'}`)
        continue
      }
      const isAlpine = DOCKER.test(command)
      const local = isAlpine ? command.replace(DOCKER, 'LIBC=musl ').replaceAll('/lily/', '') : command
      console.log(`::: ${where}`)
      /** @type {[string, string][]} */
      const variables = Object.entries({ ...env, ...step.env }).flatMap(([name, value]) =>
        String(value).includes('${{') ? [] : [[name, String(value)]],
      )
      const { status } = spawnSync('bash', ['-e', '-o', 'pipefail', '-c', local], {
        cwd: root,
        env: { ...process.env, ...Object.fromEntries(variables) },
        stdio: ['ignore', 'inherit', 'inherit'],
      })
      if (status === 0) continue
      console.error(`lily-kernels: ${where} failed`)
      hasFailed = true
    }
  }
}
if (hasFailed) process.exit(1)
