// A write of one key through L2: waits for the key's turn, holds it from before the commit until L1
// has what L2 has, and runs on when its client leaves after it has begun.
#pragma once

#include <memory>
#include <string>

#include "server/service/worker.h"

namespace cistern::service {

class Edit : public std::enable_shared_from_this<Edit> {
 public:
  Edit(const Edit&) = delete;
  Edit& operator=(const Edit&) = delete;
  virtual ~Edit() = default;

  // Once: waits for the turn, then run()s; possibly within this call.
  void begin();
  // The client has gone: nothing is answered any more, and nothing is done unless it has begun.
  void leave();

 protected:
  Edit(std::shared_ptr<Worker> worker, Key key)
      : worker_(std::move(worker)), key_(std::move(key)) {}

  // It is this edit's turn. Ends by end(), in this call or later.
  virtual void run() = 0;
  // Whether what it does depends on what L2 has: then a key that is marked (l1_only.h) is settled
  // before run(), and what L1 has of it goes, too: L2 is asked, and it has nothing.
  virtual bool looks_at_l2() const = 0;
  // The key is marked, and could not be settled; instead of run().
  virtual void unsettled(Error error) = 0;
  // Answers nothing from now on.
  virtual void forget() = 0;
  // The turn goes to the next; to be called before the answer.
  void end();

  l2::Store& store() const { return *worker_->store; }
  // Removes what L2 has of a marked key. `done` may be called within this call.
  void settle(std::function<void(Result<void>)> done);
  // L2 has what was written now, or nothing: no older value is there any more.
  void forget_mark();
  // What L2 has replaced or removed: its chunks are released after the grace. Not those of `kept`.
  void release_replaced(const l2::Replaced& replaced, base::Version kept);
  // L2 has refused `condition`. Where it named the version that L1 has, L1 is out of date: another
  // daemon has written the key. It must go, or a client that reads the version again, to try again,
  // gets the same one for ever.
  void drop_outdated(const base::Condition& condition);

  const std::shared_ptr<Worker> worker_;
  const Key key_;

 private:
  void take_turn();

  WriteGate::Turn turn_;
  std::shared_ptr<WriteGate::Waiter> waiter_;
  Worker::Job job_;
  bool begun_ = false;
};

// The answer to a commit of which nobody knows whether it happened. L1 must have been invalidated.
Error outcome_unknown(const std::string& cause);

// What a committed PUT consists of.
struct WritePlan {
  base::Condition condition;
  l2::Manifest manifest;  // with all chunks stored already, unless the value is inline
  // For L1; null when the value is inline, or isn't kept.
  base::ValuePtr large;
  // Goes to L1 alone, since L2 could not be told of it already when it began: for this.
  std::optional<Error> l1_only_because{};
  l1::Room room;
  // Kept until the write is over.
  std::shared_ptr<void> account;
};
using WriteDone = std::function<void(const Result<proto::Stored>&)>;

// PUT: commit, publication in L1, raise of the chunks' expiry. Own chunks are released when it
// fails for certain.
//
// When the raise fails the value is there and whole, but L2 will lose it at the provisional expiry:
// that must not be acknowledged, so the answer is kOutcomeUnknown, and the raise is tried once more
// in the background. When chunks are found missing the value is removed: kValueLost.
//
// With l2.on_failure.put: l1_only, what L2 fails to take without a doubt, and what has no
// condition, is put into L1 alone and its key marked (l1_only.h): answered as degraded, and not as
// in L2.
std::shared_ptr<Edit> make_write(std::shared_ptr<Worker> worker, Key key, WritePlan plan,
                                 WriteDone done);

// Takes the turn of a key that is marked, and settles it; L1 is left as it is. Nothing happens when
// it isn't marked (any more).
std::shared_ptr<Edit> make_settling(std::shared_ptr<Worker> worker, Key key,
                                    std::function<void(const Result<void>&)> done);

// A PUT of a value that can't be stored: the older value goes, since its owner meant to replace it,
// if the condition holds. Then `done` gets `refusal`, or L2's retryable error when the older value
// could not be removed. Without L2 within this call.
void refuse_for_size(const std::shared_ptr<Worker>& worker, Key key,
                     const base::Condition& condition, Error refusal,
                     std::function<void(const Error&)> done);

// DELETE. kNotFound when nothing was there. When L2 doesn't say that it's done L1 has nothing of
// the key afterwards, so that L2 is asked before anything of it is served again.
std::shared_ptr<Edit> make_remove(std::shared_ptr<Worker> worker, Key key,
                                  const base::Condition& condition,
                                  Service::Done<proto::Done> done);

// TOUCH.
std::shared_ptr<Edit> make_touch(std::shared_ptr<Worker> worker, Key key,
                                 const base::Condition& condition, std::uint64_t expires_at_ms,
                                 Service::Done<proto::Done> done);

}  // namespace cistern::service
