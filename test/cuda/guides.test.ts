/** The programs of the README and of docs/ that run on a CUDA device. */
import { testPrograms } from '../support/guides.js'

testPrograms('cuda')
