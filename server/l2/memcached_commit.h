// How manifests change in memcached, where nothing is atomic but cas and add.
//
// A write is two steps, each answered before the next:
//
//   1  gets, the condition is judged, then cas (or add, where nothing is) of the new manifest with
//      a short expiry, `not_after`, by the server's own clock; its flags say the same
//   2  gets, and cas of the same bytes with the value's own expiry and without flags
//
// Only then it is committed. Why: a request whose answer never came may be executed at any later
// time, by a server that was stopped or from a network that held it back. With this,
//
// - a late cas fails when anything was written since, by its cas id; a late add, when anything is
//   there: so it never replaces a later write;
// - executed after not_after, it stores an item that is over already: so it never shows up. A
//   server that has just been woken may not have looked at its clock yet; a reader therefore takes
//   a manifest whose flags name a time that has passed for none;
// - executed before not_after, it has happened in time, and is over by then if step 2 wasn't;
// - a late step 2 finds its item gone (its id, or all of it), unless it has happened in time.
//
// "Unknown" is said when not_after has surely passed by the server's clock. All that the request
// can do from then on is to remove the very value that it was to replace, as an eviction might.
//
// DELETE is gets and one cas that stores an item which is over (an absolute expiry long ago), since
// `delete` takes no cas id. Executed late, it can remove nothing but what it was meant to remove.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "server/l2/memcached_pool.h"
#include "server/l2/store.h"

namespace cistern::l2 {

// What is told of an item that should be a manifest, without its digest.
struct ManifestGlance {
  bool is_there = false;  // a manifest that is not over; then:
  base::Version version = 0;
  std::uint64_t chunk_count = 0;
};
// `server_s`: the server's clock. `unix_ms`: this machine's.
ManifestGlance glance(const MemcachedLink::Item& item, std::uint64_t server_s,
                      std::uint64_t unix_ms);
// A manifest whose writer has not got past step 1 by not_after.
bool is_ghost(const MemcachedLink::Item& item, std::uint64_t server_s);

class MemcachedCommit final : public MemcachedJob {
 public:
  struct Request {
    std::string manifest_name;
    base::Condition condition;
    std::uint64_t only_if_cas = 0;  // instead of `condition`, unless it is 0
    std::string manifest;           // empty: remove
    base::TimePoint keep_until{};   // by then the item may go
    std::uint64_t unix_ms = 0;      // now
  };
  struct Answer {
    CommitKind kind = CommitKind::kUnknown;
    ManifestGlance old;
    std::string cause;  // of kUnknown
  };
  // Called once, on a thread of the pool, or by who has refused the job.
  using Done = std::function<void(base::Result<Answer>)>;

  MemcachedCommit(Request request, base::Duration window, Done done)
      : request_(std::move(request)), window_(window), done_(std::move(done)) {}

  void on_read(const MemcachedLink::Item*, bool) override {}
  void run(MemcachedLink& link) override;
  void refuse(const base::Error& why) override { done_(tl::unexpected(why)); }

  // Nothing more is sent. Empty: nothing that could change anything was; else when all that was has
  // surely happened or can't any more. Any thread.
  std::optional<base::TimePoint> abandon();

 private:
  using Item = MemcachedLink::Item;
  struct Found;
  // False: it has been abandoned.
  bool may_send(base::TimePoint over);
  bool may_go_on();
  void nothing_sent();
  base::Result<Answer> first_step(MemcachedLink& link);
  base::Result<Answer> second_step(MemcachedLink& link, Answer answer);
  base::Result<Found> look(MemcachedLink& link) const;
  bool holds(const Found& found) const;

  const Request request_;
  const base::Duration window_;
  const Done done_;
  std::mutex mutex_;
  bool is_abandoned_ = false;
  std::optional<base::TimePoint> over_;  // of what was sent and not answered
};

}  // namespace cistern::l2
