/** The programs of the README and of docs/ that run on WebGPU. */
import { testPrograms } from '../support/guides.js'

testPrograms('webgpu')
