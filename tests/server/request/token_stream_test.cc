#include "server/request/token_stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace ttt {
namespace {

TokenPosition Token(int32_t id) { return {.token_id = id}; }

constexpr absl::Time kNow = absl::UnixEpoch();

int64_t Bytes(int64_t tokens) {
  return tokens * TokenStream::Bytes(TokenPosition(), "");
}

// Room for so many tokens without text.
TokenStream::Options Room(int64_t tokens) {
  return {.capacity_bytes = Bytes(tokens)};
}

TEST(TokenStreamTest, TakeGivesAllThatGathered) {
  TokenStream stream(Room(10), [] {});
  stream.Push(Token(1), "a", kNow);
  stream.Push(Token(2), "b", kNow);
  stream.Push(Token(3), "", kNow);
  const auto chunk = stream.Take();
  ASSERT_TRUE(chunk.has_value());
  EXPECT_EQ(chunk->index, 0);
  EXPECT_EQ(chunk->tokens.size(), 3u);
  EXPECT_EQ(chunk->text, "ab");
  EXPECT_FALSE(chunk->end.has_value());
}

TEST(TokenStreamTest, IndexCountsTheTokensTakenBefore) {
  TokenStream stream(Room(10), [] {});
  stream.Push(Token(1), "", kNow);
  stream.Push(Token(2), "", kNow);
  stream.Take();
  stream.Push(Token(3), "", kNow);
  EXPECT_EQ(stream.Take()->index, 2);
}

TEST(TokenStreamTest, TellsTheReaderOnlyWhenItWaits) {
  int told = 0;
  TokenStream stream(Room(10), [&told] { ++told; });
  stream.Push(Token(1), "", kNow);
  stream.Push(Token(2), "", kNow);
  EXPECT_EQ(told, 1);
  stream.Take();
  stream.Push(Token(3), "", kNow);
  EXPECT_EQ(told, 1);  // The reader has not found it empty.
  stream.Take();
  EXPECT_FALSE(stream.Take().has_value());
  stream.End({});
  EXPECT_EQ(told, 2);
}

TEST(TokenStreamTest, IsFullUntilTheReaderTakes) {
  TokenStream stream(Room(2), [] {});
  stream.Push(Token(1), "", kNow);
  EXPECT_FALSE(stream.IsFull());
  stream.Push(Token(2), "", kNow);
  EXPECT_TRUE(stream.IsFull());
  stream.Take();
  EXPECT_FALSE(stream.IsFull());
}

TEST(TokenStreamTest, WhatIsToComeFillsItBefore) {
  TokenStream stream(Room(3), [] {});
  stream.Push(Token(1), "", kNow);
  EXPECT_FALSE(stream.IsFull(Bytes(1)));
  EXPECT_TRUE(stream.IsFull(Bytes(2)));
}

TEST(TokenStreamTest, TextAndCandidatesFillItToo) {
  TokenStream with_text(Room(2), [] {});
  with_text.Push(Token(1), std::string(Bytes(1), 'x'), kNow);
  EXPECT_TRUE(with_text.IsFull());
  TokenStream with_candidates(Room(2), [] {});
  TokenPosition token = Token(1);
  token.top.resize(Bytes(1) / sizeof(TokenLogprob) + 1);
  with_candidates.Push(std::move(token), "", kNow);
  EXPECT_TRUE(with_candidates.IsFull());
}

TEST(TokenStreamTest, WhatComesWithinTheIntervalWaitsForWhatComesAfterIt) {
  int told = 0;
  TokenStream stream({.interval = absl::Milliseconds(10)}, [&] { ++told; });
  stream.Push(Token(1), "a", kNow);
  EXPECT_EQ(told, 1);  // The first waits for nothing.
  EXPECT_EQ(stream.Take()->tokens.size(), 1u);
  EXPECT_FALSE(stream.Take().has_value());
  stream.Push(Token(2), "b", kNow + absl::Milliseconds(4));
  EXPECT_EQ(told, 1);
  EXPECT_FALSE(stream.Take().has_value());
  stream.Push(Token(3), "c", kNow + absl::Milliseconds(10));
  EXPECT_EQ(told, 2);
  const auto chunk = stream.Take();
  EXPECT_EQ(chunk->tokens.size(), 2u);
  EXPECT_EQ(chunk->text, "bc");
}

TEST(TokenStreamTest, TheEndWaitsForNoInterval) {
  int told = 0;
  TokenStream stream({.interval = absl::InfiniteDuration()}, [&] { ++told; });
  stream.Push(Token(1), "a", kNow);
  EXPECT_EQ(told, 1);
  stream.Take();
  EXPECT_FALSE(stream.Take().has_value());
  stream.Push(Token(2), "b", kNow + absl::Hours(1));
  EXPECT_EQ(told, 1);
  stream.End({});
  EXPECT_EQ(told, 2);
  const auto chunk = stream.Take();
  EXPECT_EQ(chunk->text, "b");
  EXPECT_TRUE(chunk->end.has_value());
}

TEST(TokenStreamTest, AFullStreamWaitsForNoInterval) {
  TokenStream stream(
      {.capacity_bytes = Bytes(2), .interval = absl::InfiniteDuration()},
      [] {});
  stream.Push(Token(1), "", kNow);
  stream.Take();
  stream.Push(Token(2), "", kNow);
  EXPECT_FALSE(stream.Take().has_value());
  stream.Push(Token(3), "", kNow);
  EXPECT_TRUE(stream.Take().has_value());
}

TEST(TokenStreamTest, LastChunkHasTheEnd) {
  TokenStream stream(Room(2), [] {});
  stream.Push(Token(1), "a", kNow);
  TurnEnd end;
  end.revision = 7;
  stream.End(std::move(end));
  const auto chunk = stream.Take();
  EXPECT_EQ(chunk->text, "a");
  ASSERT_TRUE(chunk->end.has_value());
  EXPECT_EQ(chunk->end->revision, 7u);
}

// A thread that pushes tokens, `step` apart, and one that takes them.
class TwoThreads : public testing::TestWithParam<absl::Duration> {};

INSTANTIATE_TEST_SUITE_P(Intervals, TwoThreads,
                         testing::Values(absl::ZeroDuration(),
                                         absl::Milliseconds(3),
                                         absl::InfiniteDuration()),
                         [](const auto& info) {
                           return info.param == absl::ZeroDuration() ? "None"
                                  : info.param == absl::InfiniteDuration()
                                      ? "Infinite"
                                      : "Short";
                         });

TEST_P(TwoThreads, LoseNoTokenAndNoWordOfOne) {
  constexpr int kCount = 20000;
  static constexpr absl::Duration kStep = absl::Milliseconds(1);
  std::atomic<int> told = 0;
  TokenStream stream({.capacity_bytes = Bytes(8), .interval = GetParam()},
                     [&told] {
                       ++told;
                       told.notify_one();
                     });
  std::thread engine([&stream] {
    for (int i = 0; i < kCount;) {
      if (stream.IsFull()) {
        std::this_thread::yield();
        continue;
      }
      stream.Push(Token(i), "x", kNow + i * kStep);
      ++i;
    }
    stream.End({});
  });
  int next = 0;
  bool ended = false;
  while (!ended) {
    const int seen = told.load();
    while (auto chunk = stream.Take()) {
      EXPECT_EQ(chunk->index, next);
      for (const TokenPosition& token : chunk->tokens)
        EXPECT_EQ(token.token_id, next++);
      ended = chunk->end.has_value();
      if (ended) break;
    }
    if (!ended) told.wait(seen);
  }
  engine.join();
  EXPECT_EQ(next, kCount);
}

}  // namespace
}  // namespace ttt
