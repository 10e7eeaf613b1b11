/** The programs of the README and of docs/ that run on a CUDA device. */
import { testPrograms, usesCuda } from '../support/guides.js'

testPrograms('README.md', 1, usesCuda)
testPrograms('docs/device-api.md', 2)
