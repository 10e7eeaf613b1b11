// Lists the devices and reads the statistics of their pools, which uses none of them.
import { backends, memoryStats } from 'lily-kernels'

const [, { devices }] = backends()
for (const { id } of devices) memoryStats({ type: 'cuda', id })
console.log(devices.length)
