#include "cuda/tiles/rows.h"

#include <array>

namespace lily::cuda {
namespace {

// An engine without its arithmetic.
template <int kScalarBytes, int kStepK_>
struct Sizes {
  struct Scalar {
    char bytes[kScalarBytes];
  };
  static constexpr int kStepK = kStepK_;
};

template <typename... Tile>
constexpr std::array<ShrinkRow, sizeof...(Tile)> shrink_rows(Table<Tile...>) {
  return {ShrinkRow{tile_of(Tile{}), Tile::kBytes, Tile::kProduct * 4, Tile::kStages,
                    Warps{Tile::kWarpsM, Tile::kWarpsN}, Tile::kAccumulators, Tile::kThreads}...};
}

template <typename... Tile>
constexpr std::array<StripRow, sizeof...(Tile)> strip_rows(Table<Tile...>) {
  return {StripRow{tile_of(Tile{}), Tile::kExpands, Tile::kComputesBoth, Tile::bytes,
                   Warps{Tile::kExpandWarpsM, Tile::kExpandWarpsN}, Warps{Tile::kOuterWarpsM, Tile::kOuterWarpsN},
                   4 * Tile::kExpandM * Tile::kExpandN, 4 * Tile::kOuterM * Tile::kOuterN, Tile::kThreads}...};
}

template <typename... Tile>
constexpr std::array<MixRow, sizeof...(Tile)> mix_rows(Table<Tile...>) {
  return {MixRow{tile_of(Tile{}), Tile::bytes, Warps{Tile::kWarpsM, Tile::kWarpsN}, 4 * Tile::kM * Tile::kN}...};
}

template <typename... Tile>
constexpr std::array<DecodeRow, sizeof...(Tile)> decode_rows(Table<Tile...>) {
  return {DecodeRow{tile_of(Tile{}), Tile::bytes}...};
}

template <typename... Tile>
constexpr std::array<OnceRow, sizeof...(Tile)> once_rows(Table<Tile...>) {
  return {OnceRow{tile_of(Tile{}), Tile::kBytes, Tile::kStages}...};
}

template <typename... Tile>
constexpr std::array<LargeRow, sizeof...(Tile)> large_rows(Table<Tile...>) {
  return {LargeRow{tile_of(Tile{}), Tile::bytes, Tile::kStripBytes, Tile::kContinues, Tile::kStages,
                   Warps{Tile::kWarpsM, Tile::kWarpsN}, 4 * Tile::kWarpM * Tile::kWarpN}...};
}

template <typename... Some, typename... Others>
constexpr Table<Some..., Others...> operator+(Table<Some...>, Table<Others...>) {
  return {};
}

// The rows that code of an architecture has.
template <int kArchitecture, typename... Rows>
constexpr auto with_code(Table<Rows...>) {
  return (Table<>{} + ... + std::conditional_t<has_code<Rows>(kArchitecture, 0), Table<Rows>, Table<>>{});
}

// Whether every pair of tiles that a plan may select has a kernel.
template <typename Dy, size_t kShrink, size_t kStrip>
constexpr bool has_all_pairs(Dy dy, const std::array<ShrinkRow, kShrink> &shrink,
                             const std::array<StripRow, kStrip> &strip) {
  for (const ShrinkRow &of_tokens : shrink) {
    for (const StripRow &of_columns : strip) {
      if (pairs(of_tokens, of_columns) && !has_kernel(dy, of_tokens.tile, of_columns.tile)) return false;
    }
  }
  return true;
}

template <typename Engine, int kArchitecture>
const TileRows &rows_of() {
  using Table = Tiles<Engine>;
  static constexpr auto kShrink = shrink_rows(with_code<kArchitecture>(typename Table::Shrink{}));
  static constexpr auto kStrip = strip_rows(with_code<kArchitecture>(typename Table::Strip{}));
  static_assert(has_all_pairs(typename Table::Dy{}, kShrink, kStrip));
  static constexpr auto kMix = mix_rows(with_code<kArchitecture>(typename Table::Mix{}));
  static constexpr auto kDecode = decode_rows(with_code<kArchitecture>(typename Table::Decode{}));
  static constexpr auto kOnce = once_rows(with_code<kArchitecture>(typename Table::Once{}));
  static constexpr auto kLarge = large_rows(with_code<kArchitecture>(typename Table::Large{}));
  static constexpr TileRows kRows = {sizeof(typename Engine::Scalar), kShrink, kStrip, kMix, kDecode, kOnce, kLarge};
  return kRows;
}

template <int kArchitecture>
const TileRows &rows_of(int scalar_bytes) {
  return scalar_bytes == 2 ? rows_of<Sizes<2, 16>, kArchitecture>() : rows_of<Sizes<4, 8>, kArchitecture>();
}

}  // namespace

const TileRows &tile_rows(int scalar_bytes, int architecture) {
  constexpr int kAnyWithMachineCode = 80;
  return architecture == kPtxArchitecture ? rows_of<kPtxArchitecture>(scalar_bytes)
                                          : rows_of<kAnyWithMachineCode>(scalar_bytes);
}

}  // namespace lily::cuda
