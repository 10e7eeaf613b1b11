/** What enqueued work reports once it has run. Nothing is read back for it until the program awaits its device anyway. */
import type { Device } from './device.js'

/** Rejects with what the work has to report. */
export type Report = () => Promise<void>

const waiting = new Map<Device, Set<Report>>()

/** Calls `report` with the next promise of the device, once. */
export function reportLater(device: Device, report: Report): void {
  const reports = waiting.get(device)
  if (reports === undefined) waiting.set(device, new Set([report]))
  else reports.add(report)
}

/** Rejects with the first error that enqueued work of the device has to report. */
export async function reported(device: Device): Promise<void> {
  const reports = waiting.get(device) ?? []
  waiting.delete(device)
  await Promise.all([...reports].map((report) => report()))
}
