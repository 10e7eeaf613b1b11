/** The files of an adapter that a command reads. */
import { join } from 'node:path'
import { COMPACT_FILE, CONFIG_FILE, FROZEN_FILE, PEFT_FILE } from '../lib/checkpoint/files.js'

export const adapterInputs = (folder: string): string[] =>
  [CONFIG_FILE, PEFT_FILE, COMPACT_FILE, FROZEN_FILE].map((name) => join(folder, name))
