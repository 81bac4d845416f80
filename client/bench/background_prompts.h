// A client beside the measured users, which has long prompts read.
#pragma once

#include <cstdint>
#include <memory>

#include "client/bench/call.h"
#include "client/bench/options.h"
#include "client/bench/results.h"
#include "client/bench/timers.h"
#include "client/bench/workload.h"

namespace ttt::bench {

// Stateless calls of one output token, one after another. On the thread of the
// queue. All that it is given must outlive it, and it must not be running when
// it goes.
class BackgroundPrompts : public TurnCall::Owner {
 public:
  BackgroundPrompts(const Options& options, const Workload& workload,
                    grpc::GenericStub* stub, grpc::CompletionQueue* queue,
                    Timers* timers, BackgroundResults* results)
      : options_(options),
        workload_(workload),
        stub_(stub),
        queue_(queue),
        timers_(timers),
        results_(results) {}

  // Begins, if the options ask for any.
  void Start();
  // Ends the prompt that is being read, and sends no more.
  void Stop();
  bool is_running() const { return call_ != nullptr; }

  void OnTokens(TurnCall*, const int32_t*, int, int64_t) override {}
  void OnEnd(TurnCall* call, const CallEnd& end) override;
  void ReadLater(TurnCall*, absl::Duration) override {}

 private:
  void Send();

  const Options& options_;
  const Workload& workload_;
  grpc::GenericStub* const stub_;
  grpc::CompletionQueue* const queue_;
  Timers* const timers_;
  BackgroundResults* const results_;
  std::unique_ptr<TurnCall> call_;
  int64_t sent_at_ = 0;
  bool is_stopped_ = false;
};

}  // namespace ttt::bench
