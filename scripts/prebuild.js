#!/usr/bin/env node
// Makes prebuilds/<platform>-<arch>/lily.<libc>.node, which the published package carries instead of an install script.
//
// prebuildify strips and moves what it finds in build/Release; it gets a folder of its own for that, so that the addon
// in the checkout, which a running program may have mapped, stays as it is.
import { spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const stage = join(root, 'build', 'prebuild')
const builder = join(root, 'scripts', 'build-native.js')
const prebuildify = join(root, 'node_modules', 'prebuildify', 'bin.js')
mkdirSync(stage, { recursive: true })

const options = ['--napi', '--strip', '--tag-libc', '--name', 'lily']
const { status } = spawnSync(
  process.execPath,
  [prebuildify, ...options, '--cwd', stage, '--out', root, '--node-gyp', builder],
  { stdio: 'inherit' },
)
process.exitCode = status ?? 1
