#include "client/bench/call.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <time.h>

#include <chrono>
#include <utility>

namespace ttt::bench {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

void SetTimeout(absl::Duration timeout, grpc::ClientContext* context) {
  if (timeout == absl::InfiniteDuration()) return;
  context->set_deadline(std::chrono::system_clock::now() +
                        absl::ToChronoMicroseconds(timeout));
}

// The bytes of a message; `slice` keeps them.
bool OneSlice(grpc::ByteBuffer* buffer, grpc::Slice* slice) {
  return buffer->TrySingleSlice(slice).ok() ||
         buffer->DumpToSingleSlice(slice).ok();
}

// The ids of CompleteEvent.Tokens; all else in it is skipped.
bool ParseTokens(CodedInputStream* input, std::vector<int32_t>* ids) {
  ids->clear();
  while (const uint32_t tag = input->ReadTag()) {
    if (WireFormatLite::GetTagFieldNumber(tag) !=
        v1::CompleteEvent::Tokens::kIdsFieldNumber) {
      if (!WireFormatLite::SkipField(input, tag)) return false;
      continue;
    }
    uint64_t value = 0;
    if (WireFormatLite::GetTagWireType(tag) ==
        WireFormatLite::WIRETYPE_VARINT) {
      if (!input->ReadVarint64(&value)) return false;
      ids->push_back(static_cast<int32_t>(value));
      continue;
    }
    int size = 0;
    if (!input->ReadVarintSizeAsInt(&size)) return false;
    const CodedInputStream::Limit limit = input->PushLimit(size);
    while (input->BytesUntilLimit() > 0) {
      if (!input->ReadVarint64(&value)) return false;
      ids->push_back(static_cast<int32_t>(value));
    }
    input->PopLimit(limit);
  }
  return input->ConsumedEntireMessage();
}

}  // namespace

int64_t NowNanos() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1000000000} + now.tv_nsec;
}

grpc::ByteBuffer Serialize(const google::protobuf::MessageLite& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

bool ParseEvent(const uint8_t* bytes, int size, ParsedEvent* event) {
  event->kind = ParsedEvent::Kind::kOther;
  CodedInputStream input(bytes, size);
  const uint32_t tag = input.ReadTag();
  if (tag == 0) return size == 0;
  int length = 0;
  if (WireFormatLite::GetTagWireType(tag) !=
      WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
    return WireFormatLite::SkipField(&input, tag);
  }
  if (!input.ReadVarintSizeAsInt(&length)) return false;
  const uint8_t* const body = bytes + input.CurrentPosition();
  if (length > size - input.CurrentPosition()) return false;
  switch (WireFormatLite::GetTagFieldNumber(tag)) {
    case v1::CompleteEvent::kTokensFieldNumber: {
      event->kind = ParsedEvent::Kind::kTokens;
      CodedInputStream tokens(body, length);
      return ParseTokens(&tokens, &event->ids);
    }
    case v1::CompleteEvent::kAcceptedFieldNumber: {
      event->kind = ParsedEvent::Kind::kAccepted;
      v1::CompleteEvent::Accepted accepted;
      if (!accepted.ParseFromArray(body, length)) return false;
      event->input_tokens = accepted.input_tokens();
      return true;
    }
    case v1::CompleteEvent::kFinishedFieldNumber:
      event->kind = ParsedEvent::Kind::kFinished;
      return event->finished.ParseFromArray(body, length);
    case v1::CompleteEvent::kCommittedFieldNumber:
      event->kind = ParsedEvent::Kind::kCommitted;
      return true;
    default:
      return true;  // Of a newer server.
  }
}

TurnCall::TurnCall(Args args)
    : args_(std::move(args)),
      written_(this, &TurnCall::OnWritten),
      read_(this, &TurnCall::OnRead),
      finished_(this, &TurnCall::OnFinished) {
  SetTimeout(args_.timeout, &context_);
}

void TurnCall::Start() {
  if (!args_.unary) return StartStream();
  response_ = args_.stub->PrepareUnaryCall(
      &context_, "/ttt.v1.Inference/Complete", args_.request, args_.queue);
  response_->StartCall();
  response_->Finish(&received_, &end_.status,
                    static_cast<Completion*>(&finished_));
}

void TurnCall::StartStream() {
  // Metadata, request and half-close leave in one piece.
  context_.set_initial_metadata_corked(true);
  stream_ = args_.stub->PrepareCall(
      &context_, "/ttt.v1.Inference/StreamComplete", args_.queue);
  stream_->StartCall(nullptr);
  write_pending_ = true;
  stream_->WriteLast(args_.request, grpc::WriteOptions(),
                     static_cast<Completion*>(&written_));
  Read();
}

void TurnCall::OnWritten(bool) {
  write_pending_ = false;
  EndIfDone();
}

void TurnCall::Read() {
  stream_->Read(&received_, static_cast<Completion*>(&read_));
}

void TurnCall::OnRead(bool ok) {
  if (!ok) {
    stream_->Finish(&end_.status, static_cast<Completion*>(&finished_));
    return;
  }
  TakeEvent(NowNanos());
  if (args_.read_delay > absl::ZeroDuration()) {
    waits_to_read_ = true;
    args_.owner->ReadLater(this, args_.read_delay);
    return;
  }
  Read();
}

void TurnCall::ReadNow() {
  if (!waits_to_read_) return;
  waits_to_read_ = false;
  Read();
}

void TurnCall::TakeEvent(int64_t now) {
  // One for all calls of the thread, so that its memory stays in the cache.
  thread_local ParsedEvent event;
  grpc::Slice slice;
  if (!OneSlice(&received_, &slice) ||
      !ParseEvent(slice.begin(), static_cast<int>(slice.size()), &event)) {
    return context_.TryCancel();
  }
  switch (event.kind) {
    case ParsedEvent::Kind::kTokens:
      args_.owner->OnTokens(this, event.ids.data(),
                            static_cast<int>(event.ids.size()), now);
      break;
    case ParsedEvent::Kind::kAccepted:
      accepted_ = true;
      accepted_input_tokens_ = event.input_tokens;
      break;
    case ParsedEvent::Kind::kFinished:
      has_result_ = true;
      end_.usage = event.finished.usage();
      end_.timing = event.finished.timing();
      break;
    default:
      break;
  }
}

void TurnCall::OnFinished(bool) {
  is_finished_ = true;
  if (args_.unary && end_.status.ok()) TakeResponse();
  if (!has_result_ && end_.status.ok()) {
    end_.status = grpc::Status(grpc::StatusCode::INTERNAL,
                               "the stream ended before the turn did");
  }
  EndIfDone();
}

void TurnCall::TakeResponse() {
  v1::CompleteResponse response;
  grpc::Slice slice;
  if (!OneSlice(&received_, &slice) ||
      !response.ParseFromArray(slice.begin(), static_cast<int>(slice.size()))) {
    end_.status = grpc::Status(grpc::StatusCode::INTERNAL,
                               "the answer is not a CompleteResponse");
    return;
  }
  accepted_ = true;
  has_result_ = true;
  end_.usage = response.usage();
  end_.timing = response.timing();
  args_.owner->OnTokens(this, response.token_ids().data(),
                        response.token_ids_size(), NowNanos());
}

void TurnCall::EndIfDone() {
  // The tag of the write must have come back before the call may go.
  if (!is_finished_ || write_pending_) return;
  const CallEnd end = std::move(end_);  // The owner may destroy the call.
  args_.owner->OnEnd(this, end);
}

void TurnCall::Cancel() {
  context_.TryCancel();
  ReadNow();
}

PlainCall::PlainCall(grpc::GenericStub* stub, grpc::CompletionQueue* queue,
                     const std::string& method, const grpc::ByteBuffer& request,
                     absl::Duration timeout, Owner* owner)
    : owner_(owner) {
  SetTimeout(timeout, &context_);
  response_ = stub->PrepareUnaryCall(&context_, method, request, queue);
  response_->StartCall();
  response_->Finish(&answer_, &status_, static_cast<Completion*>(this));
}

void PlainCall::OnCompletion(bool) { owner_->OnEnd(this, status_); }

}  // namespace ttt::bench
