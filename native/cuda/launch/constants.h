// Constants of GPUs by compute capability: what predicted times assume of a device beyond the properties that it
// reports. No number was measured by this project; each row says where its numbers are from. scripts/gpu-verify fits
// them to measured launches.
#pragma once

#include "cuda/device.h"

namespace lily::cuda {

struct Constants {
  int capability;
  // Multiply-adds per clock and multiprocessor that mma.sync reaches with 16-bit operands and float32 sums, and with
  // TF32 operands; and of ordinary float32 instructions.
  double tensor, tf32, fma;
  double wgmma;                     // 16-bit operands; 0: the GPU has none
  double l2_bytes;                  // per clock and multiprocessor, all multiprocessors together
  double l2_latency, dram_latency;  // clocks
  // The share of the memory bandwidth of the data sheet that streaming kernels reach: about 3.0 of 3.35 TB/s on an
  // H100.
  double dram_share = 0.9;
  // Seconds between two dependent launches of a stream: the first drains and the second starts.
  double launch_gap = 1.5e-6;
};

// Dense rates of the data sheets, over clock and multiprocessors. Consumer GPUs (86, 89, 120) have half the rate of
// their workstation siblings with float32 sums; a plan cannot tell them apart, so the rows have the lower rate.
// Bandwidths of L2 come from public microbenchmarks: Chips and Cheese for A100 (5.4 TB/s), H100 PCIe (6.9), H200
// (9.8), L40 (5.2); Jia et al., "Dissecting the NVidia Turing T4 GPU", for T4 (1.27 TB/s).
constexpr Constants kConstants[] = {
    // Latencies of Jia et al.
    {75, 512, 0, 64, 0, 20, 190, 440},
    // Latencies of "Demystifying the Nvidia Ampere Architecture": 200 and 290 beyond L1, 466 to
    // 570.
    {80, 1024, 512, 64, 0, 35, 240, 560},
    {86, 256, 128, 128, 0, 15, 240, 560},
    {89, 256, 128, 128, 0, 15, 270, 600},
    // mma.sync reaches 62 % of the rate of wgmma (2048): Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU
    // Architecture via Microbenchmarking".
    {90, 1280, 640, 128, 2048, 37, 265, 650},
    // Assumption: mma.sync and L2 of Hopper, with a longer way to memory.
    {100, 1280, 640, 128, 0, 37, 360, 900},
    // Assumption: L2 of Ada.
    {120, 256, 128, 128, 0, 15, 300, 650},
};

// Those that the device names, or the row of its capability, or the last one below it.
inline const Constants &constants_of(const Device &device) {
  if (device.constants != nullptr) return *device.constants;
  const int capability = 10 * device.compute_major + device.compute_minor;
  const Constants *found = &kConstants[0];
  for (const Constants &row : kConstants)
    if (row.capability <= capability) found = &row;
  return *found;
}

}  // namespace lily::cuda
