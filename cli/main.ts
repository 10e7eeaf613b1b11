#!/usr/bin/env node
/** `npx lily-kernels`: the microbenchmark of bench/, the doctor, and a look at adapters. */
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
    'Fused Lily and LoRA kernels: what they cost here, whether they work here, and what an adapter has learnt',
  )
  .version(version)
  .addCommand(benchCommand(version))
  .addCommand(doctorCommand(version))
  .addCommand(inspectCommand(version))
  .parseAsync()
