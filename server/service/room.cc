#include "server/service/room.h"

#include <utility>

namespace cistern::service {
namespace {

// Some 800 of the smallest entries: 0.1 ms.
constexpr std::uint64_t kStepBytes = 128 * proto::kKiB;

struct Making : std::enable_shared_from_this<Making> {
  std::shared_ptr<Worker> worker;
  Key key;
  l1::Room room;
  std::weak_ptr<const void> owner;
  std::function<void(l1::Room)> done;

  Making(std::shared_ptr<Worker> the_worker, const Key& the_key, l1::Room claimed,
         std::weak_ptr<const void> the_owner, std::function<void(l1::Room)> the_done)
      : worker(std::move(the_worker)),
        key(the_key),
        room(std::move(claimed)),
        owner(std::move(the_owner)),
        done(std::move(the_done)) {}

  void step() {
    const auto held = owner.lock();
    if (!held) return;
    if (!worker->cache.make(room, key.bytes(), key.hash, kStepBytes, worker->loop.now())) {
      return done({});
    }
    if (room.missing_bytes() == 0) return done(std::move(room));
    worker->loop.post([self = shared_from_this()] { self->step(); });
  }
};

}  // namespace

void make_room(const std::shared_ptr<Worker>& worker, const Key& key, std::uint64_t cost_bytes,
               std::weak_ptr<const void> owner, std::function<void(l1::Room)> done) {
  l1::Room room;
  if (worker->cache.could_hold(cost_bytes)) room = worker->cache.claim(cost_bytes);
  if (!room) return done({});
  std::make_shared<Making>(worker, key, std::move(room), std::move(owner), std::move(done))->step();
}

}  // namespace cistern::service
