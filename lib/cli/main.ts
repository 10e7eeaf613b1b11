#!/usr/bin/env node
/** `npx lily-kernels`: the microbenchmark of bench/, the doctor, and a look at adapters. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { benchCommand } from '../../bench/command.js'
import { packageRoot } from '../root.js'
import { doctorCommand } from './doctor.js'
import { inspectCommand } from './inspect.js'

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
