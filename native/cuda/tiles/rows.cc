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

template <typename Tile>
constexpr ShrinkRow shrink_row() {
  return {tile_of(Tile{}),     Tile::kBytes,  Tile::kProduct * 4, Tile::kStages, {Tile::kWarpsM, Tile::kWarpsN},
          Tile::kAccumulators, Tile::kThreads};
}

template <typename... Tile>
constexpr std::array<ShrinkRow, sizeof...(Tile)> shrink_rows(Table<Tile...>) {
  return {shrink_row<Tile>()...};
}

template <typename Tile>
constexpr StripRow strip_row() {
  return {tile_of(Tile{}),
          Tile::bytes,
          {Tile::kExpandWarpsM, Tile::kExpandWarpsN},
          {Tile::kOuterWarpsM, Tile::kOuterWarpsN},
          4 * Tile::kExpandM * Tile::kExpandN,
          4 * Tile::kOuterM * Tile::kOuterN,
          Tile::kThreads};
}

template <typename... Tile>
constexpr std::array<StripRow, sizeof...(Tile)> strip_rows(Table<Tile...>) {
  return {strip_row<Tile>()...};
}

template <typename... Pair>
constexpr std::array<DyRow, sizeof...(Pair)> dy_rows(Table<Pair...>) {
  return {DyRow{shrink_row<typename Pair::Shrink>(), strip_row<typename Pair::Strip>()}...};
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
  return {LargeRow{tile_of(Tile{}), Tile::kOutputBytes, Tile::hidden_bytes, Tile::kOuterBytes, Tile::kContinues,
                   Tile::kStages, Warps{Tile::kWarpsM, Tile::kWarpsN}, 4 * Tile::kWarpM * Tile::kWarpN,
                   Tile::kHasGroups}...};
}

template <typename... Some, typename... Others>
constexpr Table<Some..., Others...> operator+(Table<Some...>, Table<Others...>) {
  return {};
}

// The rows that plans choose for code of an architecture.
template <int kArchitecture, typename... Rows>
constexpr auto offered(Table<Rows...>) {
  return (Table<>{} + ... + std::conditional_t<is_offered<Rows>(kArchitecture), Table<Rows>, Table<>>{});
}

template <typename Engine, int kArchitecture>
const TileRows &rows_of() {
  using Table = Tiles<Engine>;
  static constexpr auto kShrink = shrink_rows(typename Table::Shrink{});
  static constexpr auto kExpand = strip_rows(typename Table::Expand{});
  static constexpr auto kDy = dy_rows(typename Table::Dy{});
  static constexpr auto kX = strip_rows(typename Table::X{});
  static constexpr auto kMix = mix_rows(typename Table::Mix{});
  static constexpr auto kDecode = decode_rows(typename Table::Decode{});
  static constexpr auto kOnce = once_rows(typename Table::Once{});
  static constexpr auto kLarge = large_rows(offered<kArchitecture>(typename Table::Large{}));
  static constexpr TileRows kRows = {
      sizeof(typename Engine::Scalar), kShrink, kExpand, kDy, kX, kMix, kDecode, kOnce, kLarge};
  return kRows;
}

template <int kArchitecture>
const TileRows &rows_of(int scalar_bytes) {
  return scalar_bytes == 2 ? rows_of<Sizes<2, 16>, kArchitecture>() : rows_of<Sizes<4, 8>, kArchitecture>();
}

}  // namespace

const TileRows &tile_rows(int scalar_bytes, int architecture) {
  switch (architecture) {
    case kHopperArchitecture: return rows_of<kHopperArchitecture>(scalar_bytes);
    case kHopperWithoutWgmma: return rows_of<kHopperWithoutWgmma>(scalar_bytes);
    default: return rows_of<90>(scalar_bytes);
  }
}

}  // namespace lily::cuda
