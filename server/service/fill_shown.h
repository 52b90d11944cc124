// A chunk that a fill shows: in its window, in readers' hands, or on its way to their sockets.
#pragma once

#include <memory>
#include <utility>

#include "server/service/fill.h"

namespace cistern::service {

// Keeps the chunk's account: of a passing fill a share of its window, of a kept one its room. The
// last one to let go of it, on any thread, gives the share back.
struct Fill::Shown {
  base::ChunkPtr chunk;
  std::optional<l2::RawForm> compressed;  // unless these are the raw bytes
  base::Reservation share;
  std::shared_ptr<l1::Room> room;
  std::weak_ptr<Fill> fill;

  Shown(l2::StoredChunk the_chunk, base::Reservation the_share, std::shared_ptr<l1::Room> the_room,
        std::weak_ptr<Fill> the_fill)
      : chunk(std::move(the_chunk.bytes)),
        compressed(the_chunk.raw_form()),
        share(std::move(the_share)),
        room(std::move(the_room)),
        fill(std::move(the_fill)) {}
  Shown(const Shown&) = delete;
  Shown& operator=(const Shown&) = delete;
  ~Shown() {
    chunk.reset();
    if (!share) return;
    if (const auto alive = fill.lock()) alive->given_back(std::move(share));
  }
};

}  // namespace cistern::service
