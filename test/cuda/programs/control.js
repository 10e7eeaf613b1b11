// The files in the folder LILY_EMULATOR_CONTROL, which the emulator obeys; see emulator/README.md.
import { unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const path = (name) => join(process.env.LILY_EMULATOR_CONTROL, name)

/** Work stays queued until release(). */
export const hold = () => writeFileSync(path('hold'), '')
export const release = () => unlinkSync(path('hold'))

/** Before the next call of CUDA, other code of the process resets all devices. @param name 'reset' or 'restart' */
export const reset = (name) => writeFileSync(path(name), '')
