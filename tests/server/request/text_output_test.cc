#include "server/request/text_output.h"

#include <gtest/gtest.h>

#include <utility>

namespace ttt {
namespace {

// Token i has the text of piece i; those of ByteTokens are single bytes.
class PieceTokenizer : public Tokenizer {
 public:
  explicit PieceTokenizer(std::vector<std::string> pieces)
      : pieces_(std::move(pieces)) {}

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view,
                                              bool) const override {
    return absl::UnimplementedError("not needed");
  }
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t>) const override {
    return absl::UnimplementedError("not needed");
  }
  std::string Piece(int32_t id) const override { return pieces_[id]; }
  TokenText Text(int32_t id) const override {
    if (pieces_[id].size() == 1 && (pieces_[id][0] & 0x80)) {
      return {.text = pieces_[id], .is_byte = true};
    }
    return Tokenizer::Text(id);
  }
  int32_t vocab_size() const override {
    return static_cast<int32_t>(pieces_.size());
  }
  int32_t bos_id() const override { return -1; }
  int32_t eos_id() const override { return -1; }

 private:
  const std::vector<std::string> pieces_;
};

// What each of the tokens 0, 1, .. releases; the last entry is Finish's.
std::vector<std::string> Released(std::vector<std::string> pieces,
                                  std::vector<std::string> stops,
                                  std::string* matched = nullptr) {
  const PieceTokenizer tokenizer(pieces);
  TextOutput output(&tokenizer, false, {}, std::move(stops));
  std::vector<std::string> released;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    released.push_back(output.Append(id));
    if (!output.matched_stop().empty()) break;
  }
  released.push_back(output.Finish(/*goes_on=*/false));
  if (matched != nullptr) *matched = output.matched_stop();
  return released;
}

using Texts = std::vector<std::string>;

TEST(TextOutputTest, WithoutStopsTextIsReleasedAtOnce) {
  EXPECT_EQ(Released({"a", "b c", "d"}, {}), (Texts{"a", "b c", "d", ""}));
}

TEST(TextOutputTest, TextThatMayBecomeAStopIsHeldBack) {
  EXPECT_EQ(Released({"xE", "N", "Q"}, {"END"}), (Texts{"x", "", "ENQ", ""}));
}

TEST(TextOutputTest, HeldTextIsReleasedAtTheEnd) {
  EXPECT_EQ(Released({"xE", "N"}, {"END"}), (Texts{"x", "", "EN"}));
}

TEST(TextOutputTest, TextEndsBeforeAStopAcrossTokens) {
  std::string matched;
  EXPECT_EQ(Released({"ab E", "N", "Dcd", "more"}, {"END"}, &matched),
            (Texts{"ab ", "", "", ""}));
  EXPECT_EQ(matched, "END");
}

TEST(TextOutputTest, StopThatBeginsFirstWins) {
  std::string matched;
  EXPECT_EQ(Released({"a-bc"}, {"c", "b"}, &matched), (Texts{"a-", ""}));
  EXPECT_EQ(matched, "b");
}

TEST(TextOutputTest, OfStopsAtOnePlaceTheLongestIsNamed) {
  std::string matched;
  EXPECT_EQ(Released({"abc"}, {"b", "bc"}, &matched), (Texts{"a", ""}));
  EXPECT_EQ(matched, "bc");
}

TEST(TextOutputTest, AStopThatRepeatsItsBeginningIsFound) {
  std::string matched;
  EXPECT_EQ(Released({"a", "a", "b", "a", "a", "c"}, {"aac"}, &matched).size(),
            7u);
  EXPECT_EQ(matched, "aac");
}

TEST(TextOutputTest, CharactersAreNeverSplit) {
  EXPECT_EQ(Released({"\xe2", "\x82", "\xac", "!"}, {}),
            (Texts{"", "", "\xe2\x82\xac", "!", ""}));
}

TEST(TextOutputTest, StopOfSeveralByteTokensIsFound) {
  std::string matched;
  EXPECT_EQ(
      Released({"x", "\xe2", "\x82", "\xac", "!"}, {"\xe2\x82\xac"}, &matched),
      (Texts{"x", "", "", "", ""}));
  EXPECT_EQ(matched, "\xe2\x82\xac");
}

TEST(TextOutputTest, InputThatEndsInsideACharacterIsGoneOnFrom) {
  const PieceTokenizer tokenizer({"x", "\xe2", "\x82", "\xac"});
  const std::vector<int32_t> input = {0, 1, 2};
  TextOutput output(&tokenizer, true, input, {});
  EXPECT_EQ(output.Append(3), "\xe2\x82\xac");
}

TEST(TextOutputTest, LeadingSpaceIsTextWhenSomethingStandsBefore) {
  const PieceTokenizer tokenizer({"\xe2\x96\x81one", "\xe2\x96\x81two"});
  const std::vector<int32_t> input = {0};
  TextOutput output(&tokenizer, true, input, {});
  EXPECT_EQ(output.Append(1), " two");
}

TEST(TextOutputTest, CharacterThatIsNotCompleteIsLeftToTheNextTurn) {
  const PieceTokenizer tokenizer({"x", "\xe2"});
  TextOutput goes_on(&tokenizer, false, {}, {});
  goes_on.Append(1);
  EXPECT_EQ(goes_on.Finish(/*goes_on=*/true), "");
  TextOutput ends(&tokenizer, false, {}, {});
  ends.Append(1);
  EXPECT_EQ(ends.Finish(/*goes_on=*/false), "\xef\xbf\xbd");
}

}  // namespace
}  // namespace ttt
