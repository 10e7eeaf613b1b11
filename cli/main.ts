#!/usr/bin/env node
/** `npx lily-kernels`: the command line with its commands bench, doctor and inspect. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { packageRoot } from '../lib/binding/root.js'
import { benchCommand } from './bench/command.js'
import { doctorCommand } from './doctor/command.js'
import { inspectCommand } from './inspect/command.js'

const { version } = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { version: string }

await new Command('lily-kernels')
  .description(
    'fused Lily and LoRA kernels for Node.js: benchmark, diagnosis of the installation, analysis of trained adapters',
  )
  .version(version)
  .addCommand(benchCommand(version))
  .addCommand(doctorCommand(version))
  .addCommand(inspectCommand(version))
  .parseAsync()
