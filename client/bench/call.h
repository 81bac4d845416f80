// Calls on a completion queue, made for many tokens a second: one thread, no
// hand-over between threads, and messages that are taken apart without building
// them.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "ttt/v1/inference.pb.h"

namespace ttt::bench {

// Nanoseconds of the steady clock, which is gRPC's monotonic one.
int64_t NowNanos();

// What waits on a completion queue. Its tag must stay until it came back.
class Completion {
 public:
  virtual void OnCompletion(bool ok) = 0;

 protected:
  ~Completion() = default;
};

// What became of a call.
struct CallEnd {
  grpc::Status status;
  v1::Usage usage;    // if ok
  v1::Timing timing;  // if ok
};

// One call of StreamComplete or Complete. Start once; OnEnd comes once, and
// after it nothing. All on the thread of the queue.
class TurnCall {
 public:
  class Owner {
   public:
    // Tokens have come; `now` is when.
    virtual void OnTokens(TurnCall* call, const int32_t* ids, int count,
                          int64_t now) = 0;
    // The call has ended. May destroy it.
    virtual void OnEnd(TurnCall* call, const CallEnd& end) = 0;
    // The next event should be read `delay` from now, by ReadNow.
    virtual void ReadLater(TurnCall* call, absl::Duration delay) = 0;

   protected:
    ~Owner() = default;
  };

  struct Args {
    grpc::GenericStub* stub;
    grpc::CompletionQueue* queue;
    grpc::ByteBuffer request;
    bool unary;
    absl::Duration timeout;     // infinite: none
    absl::Duration read_delay;  // before each event; zero: none
    Owner* owner;
  };

  explicit TurnCall(Args args);
  TurnCall(const TurnCall&) = delete;
  TurnCall& operator=(const TurnCall&) = delete;

  void Start();
  // The call ends soon, with CANCELLED unless it had ended before.
  void Cancel();
  // Reads on if it was told to wait.
  void ReadNow();

  bool accepted() const { return accepted_; }
  int64_t accepted_input_tokens() const { return accepted_input_tokens_; }

 private:
  // One operation of the call; a tag.
  class Operation : public Completion {
   public:
    using Handler = void (TurnCall::*)(bool ok);
    Operation(TurnCall* call, Handler handler)
        : call_(call), handler_(handler) {}
    void OnCompletion(bool ok) override { (call_->*handler_)(ok); }

   private:
    TurnCall* const call_;
    const Handler handler_;
  };

  void StartStream();
  void OnWritten(bool ok);
  void OnRead(bool ok);
  void OnFinished(bool ok);
  void Read();
  void TakeEvent(int64_t now);
  void TakeResponse();
  void EndIfDone();

  const Args args_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> response_;
  Operation written_, read_, finished_;
  grpc::ByteBuffer received_;
  CallEnd end_;
  bool write_pending_ = false;
  bool is_finished_ = false;
  bool waits_to_read_ = false;
  bool accepted_ = false;
  bool has_result_ = false;
  int64_t accepted_input_tokens_ = 0;
};

// One event as the bench needs it.
struct ParsedEvent {
  enum class Kind { kAccepted, kTokens, kFinished, kCommitted, kOther };
  Kind kind = Kind::kOther;
  int64_t input_tokens = 0;              // kAccepted
  std::vector<int32_t> ids;              // kTokens; its memory is reused
  v1::CompleteEvent::Finished finished;  // kFinished
};

// Takes apart a serialized CompleteEvent. False: it is none.
bool ParseEvent(const uint8_t* bytes, int size, ParsedEvent* event);

// A unary call whose answer does not matter beyond its status.
class PlainCall : public Completion {
 public:
  class Owner {
   public:
    // May destroy the call.
    virtual void OnEnd(PlainCall* call, const grpc::Status& status) = 0;

   protected:
    ~Owner() = default;
  };

  PlainCall(grpc::GenericStub* stub, grpc::CompletionQueue* queue,
            const std::string& method, const grpc::ByteBuffer& request,
            absl::Duration timeout, Owner* owner);
  virtual ~PlainCall() = default;
  void OnCompletion(bool ok) override;

 private:
  Owner* const owner_;
  grpc::ClientContext context_;
  grpc::ByteBuffer answer_;
  grpc::Status status_;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> response_;
};

grpc::ByteBuffer Serialize(const google::protobuf::MessageLite& message);

}  // namespace ttt::bench
