// A reader's side of a fill.
#include <utility>

#include "server/service/fill.h"

namespace cistern::service {
namespace {

class FillSource : public ChunkSource {
 public:
  FillSource(std::shared_ptr<Fill> fill, const Reading& reading, bool is_stand_in)
      : fill_(std::move(fill)), reading_(reading) {
    follower_.loop = &reading_.worker->loop;
    follower_.waker = reading_.waker;
    follower_.position = reading_.first;
    follower_.end = reading_.end;
    follower_.reading = &reading_;
    follower_.is_stand_in = is_stand_in;
    attached_ = fill_->attach(follower_);
  }
  FillSource(const FillSource&) = delete;
  FillSource& operator=(const FillSource&) = delete;
  ~FillSource() override {
    if (attached_) fill_->leave(follower_);
  }
  bool attached() const { return attached_; }

  Taken take(std::uint64_t index) override { return fill_->take(follower_, index); }
  void passed(std::uint64_t index) override { fill_->passed(follower_, index); }
  bool opened() override { return fill_->opened(follower_); }
  const Error* error() const override { return fill_->error(); }

  std::unique_ptr<ChunkSource> successor(std::uint64_t index) override {
    // What befell it meanwhile, without this reader, isn't this reader's.
    if (auto stand_in = fill_->stand_in_of(follower_); stand_in && stand_in->error() == nullptr) {
      return stand_in;
    }
    Reading rest = reading_;
    rest.first = index;
    base::ValuePtr value = fill_->value();
    return value != nullptr ? source_in_memory(std::move(rest), std::move(value))
                            : source_in_l2(std::move(rest));
  }

 private:
  const std::shared_ptr<Fill> fill_;
  const Reading reading_;
  Fill::Follower follower_;
  bool attached_ = false;
};

class FailedSource : public ChunkSource {
 public:
  explicit FailedSource(Error error) : error_(std::move(error)) {}
  Taken take(std::uint64_t) override { return {.kind = Taken::Kind::kFailed}; }
  const Error* error() const override { return &error_; }
  std::unique_ptr<ChunkSource> successor(std::uint64_t) override { return nullptr; }

 private:
  const Error error_;
};

}  // namespace

std::unique_ptr<ChunkSource> follow(const std::shared_ptr<Fill>& fill, const Reading& reading,
                                    bool is_stand_in) {
  auto source = std::make_unique<FillSource>(fill, reading, is_stand_in);
  if (!source->attached()) return nullptr;
  return source;
}

std::unique_ptr<ChunkSource> source_in_l2(Reading reading) {
  // Values up to kInlineBytes are in their manifest.
  if (reading.worker->store == nullptr || reading.meta->size <= l2::kInlineBytes) {
    return std::make_unique<FailedSource>(
        Error{Status::kEvicted, "the value left memory while it was being read slowly"});
  }
  Passing::Found found = reading.worker->shared.passing->find_or_make(reading, *reading.worker);
  if (found.made != nullptr) found.made->begin();
  return std::move(found.source);
}

std::unique_ptr<ChunkSource> compressed_source_in_l2(const Reading& reading) {
  const auto fill = std::make_shared<Fill>(*reading.worker, reading.key, reading.meta, nullptr,
                                           std::nullopt, reading.first, l2::Form::kStored);
  auto source = follow(fill, reading);
  reading.worker->metrics.compressed_gets.add();
  fill->begin();
  return source;
}

}  // namespace cistern::service
