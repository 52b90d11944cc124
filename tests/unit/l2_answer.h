// The answer of an operation of a store, for tests that wait for it.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "server/l2/store.h"

namespace cistern::l2 {

// The answer of an operation, once it has come.
template <typename T>
class Answer {
 public:
  Callback<T> take() {
    return [state = state_](Result<T> result) {
      ++state->calls;
      state->result.emplace(std::move(result));
    };
  }
  bool has_come() const { return state_->calls > 0; }
  int calls() const { return state_->calls; }
  Result<T>& operator*() { return *state_->result; }

 private:
  struct State {
    int calls = 0;
    std::optional<Result<T>> result;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace cistern::l2
