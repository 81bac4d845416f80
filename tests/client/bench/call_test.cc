#include "client/bench/call.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "client/bench/timers.h"

namespace ttt::bench {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

bool Parse(const std::string& bytes, ParsedEvent* event) {
  return ParseEvent(reinterpret_cast<const uint8_t*>(bytes.data()),
                    static_cast<int>(bytes.size()), event);
}

TEST(ParseEventTest, IdsAreTakenOutOfAllElse) {
  v1::CompleteEvent event;
  event.mutable_tokens()->set_index(300);
  event.mutable_tokens()->set_text("some text");
  for (const int id : {5, 0, 70000}) event.mutable_tokens()->add_ids(id);
  event.mutable_tokens()->add_logprobs()->set_logprob(-1);
  ParsedEvent parsed;
  ASSERT_TRUE(Parse(event.SerializeAsString(), &parsed));
  EXPECT_EQ(parsed.kind, ParsedEvent::Kind::kTokens);
  EXPECT_THAT(parsed.ids, ElementsAre(5, 0, 70000));
}

TEST(ParseEventTest, IdsOfTheEventBeforeAreGone) {
  v1::CompleteEvent event;
  event.mutable_tokens()->add_ids(5);
  ParsedEvent parsed;
  ASSERT_TRUE(Parse(event.SerializeAsString(), &parsed));
  event.mutable_tokens()->clear_ids();
  ASSERT_TRUE(Parse(event.SerializeAsString(), &parsed));
  EXPECT_THAT(parsed.ids, IsEmpty());
}

TEST(ParseEventTest, IdsThatAreNotPackedAreRead) {
  // tokens { ids: 5 ids: 6 }, each with a tag of its own.
  ParsedEvent parsed;
  ASSERT_TRUE(Parse(std::string("\x12\x04\x10\x05\x10\x06", 6), &parsed));
  EXPECT_THAT(parsed.ids, ElementsAre(5, 6));
}

TEST(ParseEventTest, OtherEventsAreTold) {
  v1::CompleteEvent event;
  ParsedEvent parsed;
  event.mutable_accepted()->set_input_tokens(17);
  ASSERT_TRUE(Parse(event.SerializeAsString(), &parsed));
  EXPECT_EQ(parsed.kind, ParsedEvent::Kind::kAccepted);
  EXPECT_EQ(parsed.input_tokens, 17);
  event.mutable_finished()->mutable_usage()->set_output_tokens(9);
  ASSERT_TRUE(Parse(event.SerializeAsString(), &parsed));
  EXPECT_EQ(parsed.kind, ParsedEvent::Kind::kFinished);
  EXPECT_EQ(parsed.finished.usage().output_tokens(), 9);
  event.mutable_committed()->set_revision(1);
  ASSERT_TRUE(Parse(event.SerializeAsString(), &parsed));
  EXPECT_EQ(parsed.kind, ParsedEvent::Kind::kCommitted);
}

TEST(ParseEventTest, EventCutOffAnywhereIsNone) {
  v1::CompleteEvent event;
  for (int i = 0; i < 20; ++i) event.mutable_tokens()->add_ids(70000);
  const std::string bytes = event.SerializeAsString();
  ParsedEvent parsed;
  for (size_t size = 1; size < bytes.size(); ++size) {
    EXPECT_FALSE(Parse(bytes.substr(0, size), &parsed)) << size;
  }
}

TEST(TimersTest, RunInTheOrderOfTimeAndThenOfAdding) {
  Timers timers;
  std::vector<int> ran;
  timers.At(20, [&] { ran.push_back(3); });
  timers.At(10, [&] {
    ran.push_back(1);
    timers.At(10, [&] { ran.push_back(2); });
  });
  timers.At(30, [&] { ran.push_back(4); });
  timers.Run(20);
  EXPECT_THAT(ran, ElementsAre(1, 2, 3));
  EXPECT_EQ(timers.next(), 30);
  timers.Run(30);
  EXPECT_EQ(timers.next(), Timers::kNever);
}

}  // namespace
}  // namespace ttt::bench
