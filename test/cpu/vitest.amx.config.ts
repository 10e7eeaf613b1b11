import { project } from '../support/project.js'

/** The AMX kernels on a model of their instructions, on every processor. */
export default project('amx', { env: { LILY_CPU_ISA: 'amx-model' } })
