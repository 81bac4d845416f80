#include "server/request/token_stream.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/check.h"

namespace ttt {

TokenStream::TokenStream(const Options& options, std::function<void()> on_ready)
    : options_(options), on_ready_(std::move(on_ready)) {
  TTT_CHECK(options.capacity_bytes >= 1);
}

void TokenStream::Push(std::optional<TokenPosition> token,
                       absl::string_view text, absl::Time now) {
  bool notify = false;
  {
    MutexLock lock(mutex_);
    TTT_CHECK(!gathered_.end.has_value());
    gathered_.bytes += static_cast<int64_t>(text.size());
    if (token.has_value()) {
      gathered_.bytes += Bytes(*token, "");
      gathered_.tokens.push_back(*std::move(token));
    }
    gathered_bytes_ = gathered_.bytes;
    absl::StrAppend(&gathered_.text, text);
    if (now >= last_ready_ && now - last_ready_ < options_.interval &&
        gathered_.bytes < options_.capacity_bytes) {
      return;
    }
    last_ready_ = now;
    is_ready_ = true;
    notify = std::exchange(reader_waits_, false);
  }
  if (notify) on_ready_();
}

void TokenStream::End(TurnEnd end) {
  bool notify = false;
  {
    MutexLock lock(mutex_);
    TTT_CHECK(!gathered_.end.has_value());
    gathered_.end = std::move(end);
    is_ready_ = true;
    notify = std::exchange(reader_waits_, false);
  }
  if (notify) on_ready_();
}

std::optional<TokenStream::Chunk> TokenStream::Take() {
  MutexLock lock(mutex_);
  if (!std::exchange(is_ready_, false)) {
    reader_waits_ = true;
    return std::nullopt;
  }
  Chunk chunk = std::move(gathered_);
  gathered_ = Chunk();
  gathered_bytes_ = 0;
  gathered_.index = chunk.index + static_cast<int64_t>(chunk.tokens.size());
  return chunk;
}

}  // namespace ttt
