// The shapes of tiles, with their layout in shared memory, and other sizes that kernels and plans share. Host code that
// does not use CUDA includes this file: of an engine it requires only the size of its elements and kStepK.
#pragma once

#include <stdint.h>

namespace lily::cuda {

constexpr int kWarp = 32;

// Threads per block, except for tiles of eight warps.
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;

// Minimum number of resident blocks per multiprocessor for the tiled kernels: the copies of one block overlap with the
// products of another. Without this bound the compiler spills registers to fit more blocks.
constexpr int kBlocks = 2;

// The limit of the ABI.
constexpr int kMostExperts = 64;

// The threads of a block, as members of its tile.
template <int kWarps_>
struct BlockOf {
  static constexpr int kWarps = kWarps_, kThreads = kWarps * kWarp;
  // Minimum number of resident blocks: eight warps.
  static constexpr int kBlocks = 8 / kWarps;
};

// ---- The products of small ranks ----

constexpr int kTileBytes = 128, kSplitTiles = 8, kHalves = 2;

// Elements of the long dimension per split, which has one partial sum.
template <typename Scalar>
constexpr int kSplitDepth = kSplitTiles * kTileBytes / static_cast<int>(sizeof(Scalar));

template <typename Engine_, int kBlockM_, int kBlockN_, int kWarps_ = kWarps>
struct ShrinkTile : BlockOf<kWarps_> {
  using BlockOf<kWarps_>::kWarps, BlockOf<kWarps_>::kBlocks;
  using Engine = Engine_;
  using Scalar = typename Engine::Scalar;
  static constexpr int kBlockM = kBlockM_, kBlockN = kBlockN_;
  // A stage has a tile of 128 bytes per row; with eight warps half of one, so that more of them are in flight.
  static constexpr int kStageHalves = kWarps > 4 ? 1 : kHalves;
  static constexpr int kHalf = kTileBytes / kHalves / static_cast<int>(sizeof(Scalar));
  static constexpr int kBlockK = kStageHalves * kHalf, kSplitSteps = kSplitTiles * kHalves / kStageHalves;
  // With 4 stages the smallest tile has few copies in flight; with 8 it loads a whole split at once. With 3 the largest
  // tiles fit into the 64 KiB of Turing.
  static constexpr int kStages = kWarps > 4 ? 5 : kBlockM + kBlockN <= 32 ? 8 : kBlockM + kBlockN >= 128 ? 3 : 4;
  static constexpr int kStage = (kBlockM + kBlockN) * kBlockK;  // elements
  static constexpr int kProductPitch = kBlockN + 8;             // no bank conflicts between the rows of a fragment
  static constexpr int kProduct = kBlockM * kProductPitch;      // floats
  static constexpr int kRing = kStages * kStage * static_cast<int>(sizeof(Scalar));
  // Each warp's share is as square as possible, which minimises the fragment loads per product. In the smallest tile
  // two of the warps only copy.
  static constexpr int kWarpsM = kBlockN < 64 ? kBlockM / 16 : (kBlockM + 31) / 32;
  static constexpr int kWarpsN = kWarps / kWarpsM < kBlockN / 8 ? kWarps / kWarpsM : kBlockN / 8;
  static constexpr int kWarpM = kBlockM / 16 / kWarpsM, kWarpN = kBlockN / 8 / kWarpsN;
  // Each element has three accumulators: two for the halves of a split, and one for the sum over splits.
  static constexpr int kAccumulators = 3 * 4 * kWarpM * kWarpN;
  // Resident blocks for which the shared memory of an H100 has room, where the registers allow as many.
  static constexpr int kShrinkBlocks = kAccumulators <= 12   ? 6
                                       : kAccumulators <= 24 ? 5
                                       : kAccumulators <= 48 ? 4
                                                             : kBlocks;
  static constexpr int kBytes = kRing > kProduct * 4 ? kRing : kProduct * 4;
  static_assert(kHalf % Engine::kStepK == 0 && kWarpM * kWarpsM * 16 == kBlockM);
};

// With more experts than this, each row is long enough that element-wise loads waste no bandwidth.
constexpr int kMostStagedExperts = 8;

// Floats of shared memory for DHiddenScratch (d_hidden.cuh).
inline int d_hidden_scratch(int tokens, int experts) {
  return tokens + tokens * experts * (experts <= kMostStagedExperts ? 3 : 1) + experts;
}

// Into how many parts along its rows the warps divide a product of m x n elements. Each warp loads the fragments of its
// rows and of its columns: these are as few as possible. Of equal divisions the one with the fewest columns per warp
// needs the fewest registers.
constexpr int warps_along_rows(int warps, int m, int n) {
  int best = 0, fewest = 0;
  for (int rows = 1; rows <= warps; rows *= 2) {
    const int columns = warps / rows, loads = m * columns + n * rows;
    if (m % (16 * rows) != 0 || n % (8 * columns) != 0 || (best != 0 && loads >= fewest)) continue;
    best = rows;
    fewest = loads;
  }
  return best;
}

// Experts whose dw a block computes at a time: floats for their sums in each warp follow z in shared memory.
constexpr int kDWeightExperts = 4;

template <typename Engine_, int kBlockM_, int kBlockK_, int kBlockN_, int kWarps_ = kWarps>
struct StripTile : BlockOf<kWarps_> {
  using BlockOf<kWarps_>::kWarps;
  using Engine = Engine_;
  using Scalar = typename Engine::Scalar;
  static constexpr int kBlockM = kBlockM_, kBlockK = kBlockK_, kBlockN = kBlockN_;
  static constexpr int kLhs = kBlockM * kBlockK, kStrip = kBlockM * kBlockN, kRhs = kBlockK * kBlockN;
  static constexpr int kExpandWarpsM = warps_along_rows(kWarps, kBlockM, kBlockN),
                       kExpandWarpsN = kWarps / kExpandWarpsM;
  static constexpr int kExpandM = kBlockM / 16 / kExpandWarpsM, kExpandN = kBlockN / 8 / kExpandWarpsN;
  static constexpr int kOuterWarpsM = warps_along_rows(kWarps, kBlockK, kBlockN), kOuterWarpsN = kWarps / kOuterWarpsM;
  static constexpr int kOuterM = kBlockK / 16 / kOuterWarpsM, kOuterN = kBlockN / 8 / kOuterWarpsN;
  static constexpr int kResultRows = kBlockK, kResultPitch = kBlockN + 8;  // of z in shared memory; pitch in floats
  static_assert(kExpandN > 0 && kOuterN > 0);

  // Bytes of shared memory. `streams`: lhs has more than one K tile, so w is loaded again for each.
  static constexpr int bytes(bool expands, bool has_outer, bool streams) {
    int elements = 2 * kLhs;
    if (expands) elements += 2 * kStrip + (streams ? 2 : 1) * kRhs;
    if (has_outer) elements += 2 * kStrip;
    const int ring = elements * static_cast<int>(sizeof(Scalar)) + kBlockM * static_cast<int>(sizeof(int));
    const int result = has_outer ? (kBlockK * kResultPitch + kDWeightExperts * kWarps) * 4 : 0;
    return ring > result ? ring : result;
  }
};

// Shared memory of the kernels with the strip: of y, of D, and of dx and dA. Larger ranks than BLOCK_K need more.
template <typename Tile>
constexpr int kExpandBytes = Tile::bytes(true, false, false);
template <typename Tile>
constexpr int kOuterBytes = Tile::bytes(false, true, false);
template <typename Tile>
constexpr int kBothBytes = Tile::bytes(true, true, false);

// Backward of small ranks, if dy does not fit into L2: backward_dy_once.cuh.
template <typename Engine_, int kBlockK_>
struct OnceTile : BlockOf<kWarps> {
  using Engine = Engine_;
  using Scalar = typename Engine::Scalar;
  // A column tile is one split of the sum in `shrink` (kSplitDepth elements), and two warps share the rows of C of each
  // half. The order of additions and therefore the bits are the same.
  static constexpr int kBlockM = 16, kBlockK = kBlockK_, kBlockN = kSplitDepth<Scalar>, kStages = 3;
  static constexpr int kHalf = kBlockN / kSplitTiles / kHalves, kWarpRank = kBlockK * kHalves / kWarps;
  static constexpr int kWarpColumns = kBlockN / kWarps;
  static constexpr int kStrip = kBlockM * kBlockN, kLhs = kBlockM * kBlockK, kRhs = kBlockK * kBlockN;
  static constexpr int kQPitch = kBlockK + 8;  // floats per row of one half's partial sum of q
  static constexpr int kQTile = kBlockM * kQPitch;
  static constexpr int kResultRows = kBlockK, kResultPitch = kBlockN + 8;  // of D in shared memory; pitch in floats
  static constexpr int kRing =
      (kStages * (kStrip + kLhs) + kRhs) * static_cast<int>(sizeof(Scalar)) + kHalves * kQTile * 4;
  static constexpr int kResult = (kBlockK * kResultPitch + kDWeightExperts * kWarps) * 4;
  static constexpr int kBytes = kRing > kResult ? kRing : kResult;
};

// ---- Forward with weights per token, and of few tokens ----

// Bytes of shared memory for the logits and R.
inline int route_bytes(int tokens, int experts, int rank) {
  return (tokens * (experts | 1) + experts * (rank | 1)) * static_cast<int>(sizeof(float));
}

// Forward with weights per token: forward_mix.cuh. Tiles of tokens in flight, with the one in use, if u has `k_tiles`
// tiles of columns: a copy is issued at least three steps before its first use.
constexpr int mix_stages(int k_tiles) { return k_tiles >= 3 ? 2 : k_tiles == 2 ? 3 : 4; }

template <typename Engine_, int kBlockM_, int kBlockN_, int kBlockK_>
struct MixTile {
  using Engine = Engine_;
  using Scalar = typename Engine::Scalar;
  static constexpr int kBlockM = kBlockM_, kBlockN = kBlockN_, kBlockK = kBlockK_;
  static constexpr int kStrip = kBlockM * kBlockN, kRhs = kBlockK * kBlockN;
  static constexpr int kVector = 16 / static_cast<int>(sizeof(Scalar));
  // As square as possible, which minimises the fragment loads.
  static constexpr int kWarpsM = kBlockM >= 32 ? 2 : 1, kWarpsN = kWarps / kWarpsM;
  static constexpr int kM = kBlockM / 16 / kWarpsM, kN = kBlockN / 8 / kWarpsN;
  static constexpr int kRhsStages = 3;  // if B does not stay in shared memory

  // Pitch of a row of h: an odd number of vectors, so that 8 rows of one column of vectors have no bank conflicts.
  static constexpr int hidden_pitch(int rank) { return ((rank + kVector - 1) / kVector | 1) * kVector; }
  static constexpr int k_tiles(int columns) { return (columns + kBlockK - 1) / kBlockK; }

  // Bytes of shared memory. `stays`: all rows of a block's columns of B stay there.
  static constexpr int bytes(int experts, int rank, bool stays) {
    const int tiles = k_tiles(experts * rank);
    const int of_tokens = kBlockM * hidden_pitch(rank) + kStrip, of_b = (stays ? tiles : kRhsStages) * kRhs;
    return (mix_stages(tiles) * of_tokens + of_b) * static_cast<int>(sizeof(Scalar)) +
           mix_stages(tiles) * kBlockM * experts * static_cast<int>(sizeof(float));
  }
  // With the number of experts for which h and their weights are smallest, of those that are powers of two.
  static constexpr int least_bytes() {
    int least = bytes(1, 1, true);
    for (int columns = kBlockK + 1; columns <= 2 * kBlockK + 1; columns += kBlockK)
      for (int experts = 1; experts <= kMostExperts; experts *= 2)
        for (const bool stays : {false, true}) {
          const int needed = bytes(experts, (columns + experts - 1) / experts, stays);
          least = needed < least ? needed : least;
        }
    return least;
  }
};

template <typename Tile>
constexpr int kMixBytes = Tile::least_bytes();

// Limits of forward_decode. The warps of one block do all of the pooling. Every block adds all partial sums of h: of
// more than this (128 KiB), it takes less time to add them once, in one more launch.
constexpr int kDecodeTokens = 64, kDecodeGroups = 64, kDecodeRank = 128;
constexpr int64_t kDecodePartials = 32768;

// Bytes of shared memory of forward_route, of `tokens` per block: h, if it adds partial sums, logits, and R.
inline int forward_route_bytes(int tokens, int experts, int rank, bool has_partials, bool routes) {
  const int hidden = has_partials ? tokens * (rank + 8) : 0;
  const int logits = routes ? tokens * (experts | 1) : 0, router = routes && has_partials ? experts * (rank | 1) : 0;
  return (hidden + logits + router) * static_cast<int>(sizeof(float));
}

// Stages of B that are in flight before the first one is used.
constexpr int kDecodeStages = 3;

// BLOCK_M and BLOCK_N of its first launch. The tile of the smallest rank gives the most blocks; results do not depend
// on the tile's rank.
constexpr int kDecodeShrinkTile = 16;

// How a block's columns of B pass through shared memory: in stages of whole units.
struct DecodeStages {
  int unit_rows;    // of B: an expert's, if the experts are combined; otherwise a BLOCK_K tile
  int units;        // of all of B
  int stage_units;  // per stage

  int rows() const { return unit_rows * stage_units; }
  // In shared memory: whole tiles.
  int slot_rows(int block_k) const { return (rows() + block_k - 1) / block_k * block_k; }
  int count() const { return (units + stage_units - 1) / stage_units; }
};

template <typename Engine_, int kBlockM_>
struct DecodeTile {
  using Engine = Engine_;
  using Scalar = typename Engine::Scalar;
  // 8 columns per warp: the largest number of blocks that still load whole 32-byte sectors.
  static constexpr int kBlockM = kBlockM_, kBlockN = 8 * kWarps, kBlockK = 64, kStages = kDecodeStages;
  static constexpr int kStrip = kBlockM * kBlockN, kRhs = kBlockK * kBlockN;
  // Resident blocks per multiprocessor that the registers must allow: an H100 then holds all blocks of d_out = 12672.
  // With four sm_120 spills.
  static constexpr int kMinBlocks = 3;
  // Each thread forms four columns of every kStep-th row of C.
  static constexpr int kVec4PerRow = kBlockN / 4, kStep = kThreads / kVec4PerRow, kCombinedRows = kDecodeRank / kStep;

  // Elements of C, or of a tile of B that is converted.
  static int operand_elements(int rank, bool combines, int parameter_bytes) {
    if (combines) return (rank + 15) / 16 * 16 * kBlockN;
    return parameter_bytes == static_cast<int>(sizeof(Scalar)) ? 0 : kRhs;
  }

  // Bytes of shared memory: the tiles, the stages of B, then h, logits, R, and the pooled sums. Of lhs, h and the
  // logits only the fragments of 16 rows that have tokens.
  static int bytes(int tokens, int rank, int experts, int groups, bool combines, int parameter_bytes,
                   const DecodeStages &stages) {
    const int rows = (tokens + 15) / 16 * 16;
    const int elements = rows * kBlockK + kStrip + operand_elements(rank, combines, parameter_bytes);
    const int slots = stages.count() < kStages ? stages.count() : kStages;
    const int floats = rows * (rank + 8) + route_bytes(rows, experts, rank) / 4 + groups * (experts + 1);
    return elements * static_cast<int>(sizeof(Scalar)) + slots * stages.slot_rows(kBlockK) * kBlockN * parameter_bytes +
           floats * 4;
  }
};

// ---- Large ranks ----

// wgmma: warps and rows of a warpgroup, the unit of its columns, and the most bytes of a row that the swizzle permutes.
constexpr int kGroupWarps = 4, kGroupRows = 64, kGroupColumns = 32, kPanelBytes = 128;

// Alignment of the shared memory of these tiles: 8 rows of a panel, after which its permutation repeats.
constexpr int kLargeAlignment = 8 * kPanelBytes;

template <typename Scalar>
constexpr int panel_columns(int columns) {
  constexpr int kMost = kPanelBytes / static_cast<int>(sizeof(Scalar));
  return columns < kMost ? columns : kMost;
}

// The instruction of a product decides how its operands lie in shared memory: mma.sync reads tiles of whole rows;
// wgmma, which four warps execute together, panels of 128 bytes, each of which holds all rows.
enum class Instruction { kMma, kWgmma };

template <typename Engine_, int kBlockM_, int kBlockN_, int kBlockK_, int kStages_, int kWarps_ = kWarps,
          Instruction kInstruction_ = Instruction::kMma>
struct LargeTile : BlockOf<kWarps_> {
  using BlockOf<kWarps_>::kWarps;
  using Engine = Engine_;
  using Scalar = typename Engine::Scalar;
  static constexpr int kBlockM = kBlockM_, kBlockN = kBlockN_, kBlockK = kBlockK_, kStages = kStages_;
  static constexpr int kA = kBlockM * kBlockK, kStage = (kBlockM + kBlockN) * kBlockK;  // elements
  static constexpr Instruction kInstruction = kInstruction_;
  // With wgmma each warp has 16 rows of the 64 of its warpgroup, and all columns.
  static constexpr bool kHasGroups = kInstruction == Instruction::kWgmma;
  static constexpr int kWarpsM = kHasGroups ? kWarps : kBlockM >= 32 ? 2 : 1, kWarpsN = kWarps / kWarpsM;
  static constexpr int kWarpM = kBlockM / 16 / kWarpsM, kWarpN = kBlockN / 8 / kWarpsN;
  static_assert(!kHasGroups || (kBlockM * kGroupWarps == kGroupRows * kWarps && kBlockN % kGroupColumns == 0));
  // Columns of a panel, if the columns of a tile are not along the sum.
  static constexpr int kPanelM = kHasGroups ? panel_columns<Scalar>(kBlockM) : kBlockM;
  static constexpr int kPanelN = kHasGroups ? panel_columns<Scalar>(kBlockN) : kBlockN;
  // From one fragment of a warp to its next, in rows and columns: the warps take turns, so that each has its share of a
  // tile at the edge of the matrix too.
  static constexpr int kStrideM = 16 * kWarpsM, kStrideN = 8 * kWarpsN;
  // Minimum number of resident blocks, for at least eight warps per multiprocessor: of large_outer, and of
  // large_product.
  static constexpr int kAccumulators = 4 * kWarpM * kWarpN;
  static constexpr int kBlocks = kAccumulators <= (kHasGroups ? 64 : 32) ? 3 : 8 / kWarps;
  static constexpr int kProductBlocks = kAccumulators <= 4                           ? 5
                                        : kAccumulators <= 32 && Engine::kStepK >= 8 ? 4
                                                                                     : kBlocks;
  // The result in shared memory, in floats. finish_outer reads kResultRows x kBlockN of it.
  static constexpr int kResultRows = kBlockM, kResultPitch = kBlockN + 8, kResult = kBlockM * kResultPitch;
  static constexpr int kRing = kStages * kStage * static_cast<int>(sizeof(Scalar));
  static constexpr int kSteps = kBlockK / Engine::kStepK;
  // The tile of an output that is added to. With four warps it is in slices of as many rows as fit into one stage of
  // the ring. A block of eight, which nothing else on its multiprocessor overlaps, computes several tiles in turn:
  // their output has memory of its own behind the ring, which takes the copies of the next tile.
  static constexpr bool kContinues = kWarps > 4;
  static constexpr int kSliceRows = !kContinues && kStage / kBlockN < kBlockM ? kStage / kBlockN / 16 * 16 : kBlockM;
  static constexpr int kSlices = (kBlockM + kSliceRows - 1) / kSliceRows;
  static_assert(kContinues || kSlices < kStages);

  // Bytes of shared memory. Of large_outer: the ring, whose memory the result reuses, and sums of dw.
  static constexpr int kScratch = kRing > kResult * 4 ? kRing : kResult * 4;
  static constexpr int kOuterBytes = kScratch + kDWeightExperts * kWarps * 4;
  // Shared memory of large_product: an output, or h and dh, with the scratch memory for dl.
  static constexpr int kOutputBytes = kRing + (kContinues ? kBlockM * kBlockN * static_cast<int>(sizeof(Scalar)) : 0);
  static int hidden_bytes(int experts) { return kScratch + d_hidden_scratch(kBlockM, experts) * 4; }
};

// ---- Other kernels ----

// Tile of C per block.
constexpr int kCombineRows = 16, kCombineColumns = 64;

// Tokens (one split) and elements of dR per block. Splits are short, because the other blocks finish early if
// there are few tokens, and long enough that `reduce` adds about kRouterSplits partial sums.
constexpr int kLeastRouterTokens = 64, kMostRouterTokens = 256, kRouterSplits = 32;
constexpr int kRouterTile = 32, kRouterElements = 4 * kThreads;

// Bytes of shared memory of a router block: dl of a tile, and the sums.
inline int router_bytes(int experts) {
  return (kRouterTile * experts + kRouterElements) * static_cast<int>(sizeof(float));
}

// Slices of a sequence that is pooled, each added by one warp.
constexpr int kPoolSlices = 16;

// backward_hidden: tokens per tile, one per lane of a warp, and groups whose slices are in shared memory at a time.
constexpr int kHiddenTokens = kWarp, kPoolRound = 8;

// Resident blocks of backward_hidden that the registers must allow.
constexpr int kHiddenBlocks = 4;

// Bytes of shared memory of backward_hidden. `adds_groups`: it adds dw of each group.
inline int backward_hidden_bytes(int experts, bool adds_groups) {
  const int groups = adds_groups ? kHiddenTokens * (experts + 2) + kPoolRound * kPoolSlices * 5 : 0;
  return (d_hidden_scratch(kHiddenTokens, experts) + groups) * static_cast<int>(sizeof(float));
}

// cast: matrices of a call, and vectors of four elements per thread.
constexpr int kMostCasts = 5, kCastVectors = 4;

// Blocks of `cast` for one matrix, of whose copy it writes so many columns.
inline int cast_blocks(int64_t rows, int64_t columns) {
  return static_cast<int>((rows * ((columns + 3) / 4) + kCastVectors * kThreads - 1) / (kCastVectors * kThreads));
}

// Blocks of `reduce` and `fold`: each thread adds four elements.
inline int reduce_blocks(int rows, int columns) {
  return static_cast<int>((static_cast<int64_t>(rows) * ((columns + 3) / 4) + kThreads - 1) / kThreads);
}

}  // namespace lily::cuda
