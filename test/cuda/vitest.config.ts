import { project } from '../support/project.js'
import { findCuda } from './find.js'

/** A GPU, otherwise the emulator. */
export default project('cuda', { needs: findCuda, env: { LILY_TEST_BACKEND: 'cuda' } })
