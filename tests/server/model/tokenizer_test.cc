#include "server/model/tokenizer.h"

#include <time.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <thread>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/model/sentencepiece_model.h"
#include "server/model/utf8.h"
#include "tests/server/model/model_files.h"
#include "tests/support/status_matchers.h"
#include "ttt/v1/tokenizer.pb.h"

namespace ttt {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using PieceType = SentencePieceModel::PieceType;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr char kGolden[] = TTT_GOLDEN_DIR "/tokenizer/";

std::string ModelPath(const std::string& name) {
  return kGolden + name + ".model";
}

// Over the committed models: BPE with byte pieces, no normalisation and
// user-defined pieces; unigram with a charsmap that removes extra spaces.
class TokenizerTest : public ::testing::TestWithParam<std::string> {
 protected:
  static json Golden() {
    return json::parse(ReadWhole(std::string(kGolden) + "golden.json"));
  }

  const std::unique_ptr<Tokenizer> tokenizer_ =
      LoadTokenizer(ModelPath(GetParam())).value();
  const json golden_ = Golden()[GetParam()];
};

INSTANTIATE_TEST_SUITE_P(Models, TokenizerTest,
                         ::testing::Values("bpe", "unigram"),
                         [](const auto& info) { return info.param; });

std::vector<int32_t> WithBos(const Tokenizer& tokenizer, const json& ids) {
  std::vector<int32_t> all = {tokenizer.bos_id()};
  for (const json& id : ids) all.push_back(id);
  return all;
}

std::string HashOfIds(const std::vector<std::vector<int32_t>>& lines) {
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&](int32_t id) {
    for (int i = 0; i < 4; ++i) {
      hash = (hash ^ (static_cast<uint32_t>(id) >> (8 * i) & 0xff)) *
             0x100000001b3;
    }
  };
  for (const auto& ids : lines) {
    for (const int32_t id : ids) add(id);
    add(-1);
  }
  return absl::StrFormat("%016x", hash);
}

TEST_P(TokenizerTest, LinesOfTheCorpusEncodeAsInTheReference) {
  const std::string text = ReadWhole(std::string(kGolden) + "lines.txt");
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  constexpr size_t kLinesPerHash = 100;
  for (const bool at_start : {true, false}) {
    const json& hashes = golden_["hashes"][at_start ? "start" : "on"];
    ASSERT_EQ(hashes.size(),
              (lines.size() + kLinesPerHash - 1) / kLinesPerHash);
    for (size_t group = 0; group < hashes.size(); ++group) {
      std::vector<std::vector<int32_t>> encoded;
      for (size_t i = group * kLinesPerHash;
           i < std::min(lines.size(), (group + 1) * kLinesPerHash); ++i) {
        encoded.push_back(tokenizer_->Encode(lines[i], at_start).value());
        if (at_start) {
          EXPECT_EQ(encoded.back()[0], tokenizer_->bos_id());
          encoded.back().erase(encoded.back().begin());
        }
      }
      EXPECT_EQ(HashOfIds(encoded), hashes[group])
          << "lines from " << group * kLinesPerHash;
    }
  }
}

// Of BPE it is encoded in parts.
TEST_P(TokenizerTest, LongTextEncodesAsInTheReference) {
  const std::string text = ReadWhole(std::string(kGolden) + "lines.txt");
  auto ids = tokenizer_->Encode(text, true).value();
  ids.erase(ids.begin());
  EXPECT_EQ(HashOfIds({ids}), golden_["whole"]["start"]);
  EXPECT_EQ(HashOfIds({tokenizer_->Encode(text, false).value()}),
            golden_["whole"]["on"]);
}

TEST_P(TokenizerTest, HostileTextsEncodeAndDecodeAsInTheReference) {
  ASSERT_GT(golden_["texts"].size(), 300);
  for (const json& entry : golden_["texts"]) {
    const std::string hex = entry[0];
    const std::string text = absl::HexStringToBytes(hex);
    const auto at_start = tokenizer_->Encode(text, true);
    ASSERT_THAT(at_start, IsOk()) << hex;
    EXPECT_EQ(*at_start, WithBos(*tokenizer_, entry[1])) << hex;
    EXPECT_EQ(json(tokenizer_->Encode(text, false).value()), entry[2]) << hex;
    EXPECT_EQ(absl::BytesToHexString(tokenizer_->Decode(*at_start).value()),
              entry[3])
        << hex;
  }
}

std::string Stream(const Tokenizer& tokenizer, bool at_start,
                   const std::vector<int32_t>& ids) {
  StreamingDecoder decoder(&tokenizer, at_start);
  std::string text;
  for (const int32_t id : ids) {
    const std::string added = decoder.Append(id);
    EXPECT_EQ(FindInvalidUtf8(added), added.size()) << absl::CHexEscape(added);
    text += added;
  }
  return text + decoder.Finish();
}

TEST_P(TokenizerTest, IdsDecodeAsInTheReferenceWholeAndStreamed) {
  for (const json& entry : golden_["decodes"]) {
    const std::vector<int32_t> ids = entry[0];
    EXPECT_EQ(absl::BytesToHexString(tokenizer_->Decode(ids).value()), entry[1])
        << entry[0];
    EXPECT_EQ(absl::BytesToHexString(Stream(*tokenizer_, true, ids)), entry[1])
        << entry[0];
  }
}

// Ids that stress what streaming has to remember: bytes that do or do not make
// characters, leading spaces, and pieces without text.
class HardIds {
 public:
  HardIds(const Tokenizer& tokenizer, uint32_t seed)
      : vocab_size_(tokenizer.vocab_size()), random_(seed) {
    const std::set<std::string> pieces = {
        "<unk>",  "<s>",    "</s>",   "\xe2\x96\x81", "\xe2\x96\x81the",
        "<0xE2>", "<0x96>", "<0x81>", "<0xF0>",       "<0x9F>",
        "<0xED>", "<0xA0>", "<0x20>", "<0xC3>"};
    for (int32_t id = 0; id < vocab_size_; ++id) {
      if (pieces.count(tokenizer.Piece(id)) > 0) hard_.push_back(id);
    }
  }

  std::vector<int32_t> Next() {
    std::vector<int32_t> ids(1 + random_() % 24);
    const uint32_t share = random_() % 5;
    for (int32_t& id : ids) {
      id = random_() % 4 < share
               ? hard_[random_() % hard_.size()]
               : static_cast<int32_t>(random_() % vocab_size_);
    }
    return ids;
  }

 private:
  const int32_t vocab_size_;
  std::mt19937 random_;
  std::vector<int32_t> hard_;
};

TEST_P(TokenizerTest, StreamedTextEqualsTheWholeText) {
  HardIds hard(*tokenizer_, 11);
  for (int i = 0; i < 20000; ++i) {
    const std::vector<int32_t> ids = hard.Next();
    ASSERT_EQ(Stream(*tokenizer_, true, ids), tokenizer_->Decode(ids).value())
        << json(ids).dump();
  }
}

TEST_P(TokenizerTest, TextThatGoesOnIsWhatTheIdsAddToTheWhole) {
  const int32_t before = tokenizer_->Encode("x", false).value()[0];
  HardIds hard(*tokenizer_, 12);
  for (int i = 0; i < 20000; ++i) {
    std::vector<int32_t> ids = hard.Next();
    const std::string added = Stream(*tokenizer_, false, ids);
    ids.insert(ids.begin(), before);
    ASSERT_EQ("x" + added, tokenizer_->Decode(ids).value()) << json(ids).dump();
  }
}

TEST_P(TokenizerTest, StreamHoldsNothingBackWithoutNeed) {
  const std::string text = "One two, three. It was the best of times.";
  const auto ids = tokenizer_->Encode(text, true).value();
  StreamingDecoder decoder(tokenizer_.get(), true);
  std::string streamed;
  for (size_t i = 0; i < ids.size(); ++i) {
    streamed += decoder.Append(ids[i]);
    const std::vector<int32_t> so_far(ids.begin(), ids.begin() + i + 1);
    EXPECT_EQ(streamed, tokenizer_->Decode(so_far).value());
  }
  EXPECT_EQ(decoder.Finish(), "");
  EXPECT_EQ(streamed, text);
}

TEST_P(TokenizerTest, IdsOfAPaddedVocabularyHaveNoText) {
  const int32_t padded = tokenizer_->vocab_size();
  StreamingDecoder decoder(tokenizer_.get(), false);
  EXPECT_EQ(decoder.Append(padded), "");
  EXPECT_EQ(tokenizer_->Piece(padded + 1000), "");
}

TEST_P(TokenizerTest, TextIsReadFromManyThreads) {
  const std::string text =
      ReadWhole(std::string(kGolden) + "lines.txt").substr(0, 20000);
  const size_t size = text.rfind(' ');
  const auto expected = tokenizer_->Encode(text.substr(0, size), true).value();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 3; ++round) {
        EXPECT_EQ(tokenizer_->Encode(text.substr(0, size), true).value(),
                  expected);
        EXPECT_THAT(tokenizer_->Decode(expected), IsOk());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_P(TokenizerTest, WhatIsNotUtf8IsRefusedWithItsByte) {
  for (const std::string& bad :
       {std::string("\x80"), std::string("\xc0\x80"), std::string("\xe2\x96"),
        std::string("\xed\xa0\x80"), std::string("\xf4\x90\x80\x80"),
        std::string("\xf0\x80\x80\x80"), std::string("\xff"),
        std::string("\xe0\x9f\xbf")}) {
    for (const std::string& before :
         {std::string(), std::string("12345678abc\xc3\xa9", 13)}) {
      EXPECT_THAT(tokenizer_->Encode(before + bad + "x", true),
                  StatusIs(kInvalid, absl::StrCat("at byte ", before.size())));
      EXPECT_THAT(tokenizer_->Encode(before + bad, false), StatusIs(kInvalid));
    }
  }
}

TEST_P(TokenizerTest, IdsOutsideTheVocabularyAreRefused) {
  EXPECT_EQ(tokenizer_->vocab_size(), 4096);
  EXPECT_THAT(tokenizer_->Decode({4095, 4096}), StatusIs(kInvalid, "4096"));
  EXPECT_THAT(tokenizer_->Decode({-1}), StatusIs(kInvalid, "-1"));
  EXPECT_EQ(tokenizer_->Decode({}).value(), "");
}

// Of this thread alone, so that a busy machine does not enter.
double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) +
         1e-9 * static_cast<double>(now.tv_nsec);
}

TEST_P(TokenizerTest, LongTextTakesTimeInProportion) {
  const auto seconds = [&](size_t bytes) {
    std::string text;
    while (text.size() < bytes) text += "It was the best of times, it was ";
    const double begin = CpuSeconds();
    EXPECT_THAT(tokenizer_->Encode(text, true), IsOk());
    return CpuSeconds() - begin;
  };
  seconds(50000);
  const double small = seconds(50000);
  EXPECT_LT(seconds(800000), 16 * 4 * small);
}

TEST(TokenizerContractTest, SpecialPiecesAndSpaces) {
  const auto tokenizer = LoadTokenizer(ModelPath("bpe")).value();
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_EQ(tokenizer->Piece(0), "<unk>");
  EXPECT_EQ(tokenizer->Piece(1), "<s>");
  EXPECT_THAT(tokenizer->Encode("", true).value(), ElementsAre(1));
  EXPECT_THAT(tokenizer->Encode("", false).value(), IsEmpty());
  const auto start = tokenizer->Encode("the", true).value();
  ASSERT_EQ(start.size(), 2);
  EXPECT_EQ(tokenizer->Piece(start[1]), "\xe2\x96\x81the");
  const auto going_on = tokenizer->Encode("the", false).value();
  ASSERT_EQ(going_on.size(), 1);
  EXPECT_EQ(tokenizer->Piece(going_on[0]), "the");
  EXPECT_EQ(tokenizer->Encode(" the", false).value()[0], start[1]);
  EXPECT_EQ(Stream(*tokenizer, true, {start[1], start[1]}), "the the");
  EXPECT_EQ(Stream(*tokenizer, false, {start[1], start[1]}), " the the");
  EXPECT_EQ(Stream(*tokenizer, true, {1, start[1], 2}), "the");
  EXPECT_EQ(Stream(*tokenizer, false, {0}), " \xe2\x81\x87 ");
}

TEST(TokenizerContractTest, TextCutAnywhereComesBackInBpe) {
  const auto tokenizer = LoadTokenizer(ModelPath("bpe")).value();
  const std::string text =
      "Caf\xc3\xa9 \xe2\x82\xac 5,  two \xf0\x9f\x98\x80 ways\n";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    if (FindInvalidUtf8(text.substr(0, cut)) < cut) continue;
    auto ids = tokenizer->Encode(text.substr(0, cut), true).value();
    const auto rest = tokenizer->Encode(text.substr(cut), false).value();
    ids.insert(ids.end(), rest.begin(), rest.end());
    EXPECT_EQ(tokenizer->Decode(ids).value(), text) << cut;
  }
}

TEST(TokenizerContractTest, BytesOfACharacterAreHeldUntilItIsWhole) {
  const auto tokenizer = LoadTokenizer(ModelPath("bpe")).value();
  const auto ids = tokenizer->Encode("\xf0\x9f\x98\x80", false).value();
  ASSERT_EQ(ids.size(), 4);
  StreamingDecoder decoder(tokenizer.get(), false);
  EXPECT_EQ(decoder.Append(ids[0]), "");
  EXPECT_EQ(decoder.Append(ids[1]), "");
  EXPECT_EQ(decoder.Append(ids[2]), "");
  EXPECT_EQ(decoder.Append(ids[3]), "\xf0\x9f\x98\x80");
  EXPECT_EQ(decoder.Append(ids[0]), "");
  EXPECT_EQ(decoder.Append(ids[0]), kReplacement);
  EXPECT_EQ(decoder.Append(ids[1]), "");
  EXPECT_EQ(decoder.Finish(), absl::StrCat(kReplacement, kReplacement));
  EXPECT_EQ(decoder.Finish(), "");
}

// The generated messages link another protobuf than SentencePiece carries.
TEST(TokenizerContractTest, ProtobufAndSentencePieceLiveInOneProgram) {
  v1::TokenizeRequest request;
  request.set_text("both");
  const std::string bytes = request.SerializeAsString();
  const auto tokenizer = LoadTokenizer(ModelPath("unigram")).value();
  v1::TokenizeRequest parsed;
  ASSERT_TRUE(parsed.ParseFromString(bytes));
  EXPECT_THAT(tokenizer->Encode(parsed.text(), true), IsOk());
  EXPECT_FALSE(parsed.ParseFromString("\xff\xff"));
}

SentencePieceModel SmallModel() {
  SentencePieceModel model;
  model.model_type = SentencePieceModel::kBpe;
  model.pieces = {{"<unk>", 0, PieceType::kUnknown},
                  {"<s>", 0, PieceType::kControl},
                  {"</s>", 0, PieceType::kControl},
                  {"\xe2\x96\x81", -1, PieceType::kNormal},
                  {"a", -2, PieceType::kNormal},
                  {"aa", -3, PieceType::kNormal},
                  {"b", -4, PieceType::kUserDefined}};
  return model;
}

absl::Status ParseChanged(void (*change)(SentencePieceModel&)) {
  SentencePieceModel model = SmallModel();
  change(model);
  return ParseTokenizer(SerializeSentencePieceModel(model)).status();
}

TEST(TokenizerModelTest, RunOfUnknownCharactersIsOneTokenAndTakesLinearTime) {
  for (const int64_t type :
       {SentencePieceModel::kBpe, SentencePieceModel::kUnigram}) {
    for (const bool names_taken : {false, true}) {
      SentencePieceModel model = SmallModel();
      model.model_type = type;
      model.remove_extra_whitespaces = false;
      if (names_taken) {
        model.pieces.push_back({"<0x41>", -9, PieceType::kNormal});
      }
      const auto tokenizer =
          ParseTokenizer(SerializeSentencePieceModel(model)).value();
      std::string run;
      for (int i = 0; i < 3000; ++i) run += "\xe4\xb8\x80z";
      EXPECT_THAT(tokenizer->Encode("a" + run + "aa" + run, false).value(),
                  ElementsAre(4, 0, 5, 0));
      if (names_taken) continue;
      for (int i = 0; i < 3; ++i) run += run;
      const double begin = CpuSeconds();
      EXPECT_THAT(tokenizer->Encode(run, true).value(), ElementsAre(1, 3, 0));
      const double small = CpuSeconds() - begin;
      for (int i = 0; i < 3; ++i) run += run;
      EXPECT_THAT(tokenizer->Encode(run, true).value(), ElementsAre(1, 3, 0));
      EXPECT_LT(CpuSeconds() - begin - small, 8 * 3 * small);
    }
  }
}

// The cuts of one model must not move the tokens of any text: against a model
// that is never cut, for an unused piece.
TEST(TokenizerModelTest, LongTextIsCutOnlyWhereNothingMeets) {
  SentencePieceModel model = SmallModel();
  model.remove_extra_whitespaces = false;
  model.byte_fallback = true;
  for (const auto& [piece, score] :
       std::map<std::string, float>{{"c", -5},
                                    {"d", -5},
                                    {"e", -5},
                                    {"f", -5},
                                    {"ca", -4},
                                    {"dd", -3},
                                    {"ef", -1},
                                    {"\xe2\x96\x81"
                                     "e",
                                     -1.5f},
                                    {"ef\xe2\x96\x81"
                                     "e",
                                     -2}}) {
    model.pieces.push_back({piece, score, PieceType::kNormal});
  }
  for (int byte = 0; byte < 256; ++byte) {
    model.pieces.push_back(
        {absl::StrFormat("<0x%02X>", byte), 0.0f, PieceType::kByte});
  }
  const auto cut = ParseTokenizer(SerializeSentencePieceModel(model)).value();
  model.pieces.push_back({"never in a text", 0.0f, PieceType::kUnused});
  const auto whole = ParseTokenizer(SerializeSentencePieceModel(model)).value();
  const auto expect_same = [&](const std::string& text) {
    for (const bool at_start : {true, false}) {
      EXPECT_EQ(cut->Encode(text, at_start).value(),
                whole->Encode(text, at_start).value());
    }
  };
  // Wherever the search for a cut begins in a piece that holds a space.
  for (size_t shift = 0; shift < 4; ++shift) {
    std::string text(shift, 'd');
    for (int i = 0; i < 10000; ++i) text += "ef e";
    expect_same(text);
  }
  std::mt19937 random(16);
  for (int i = 0; i < 10; ++i) {
    std::string text;
    const std::vector<std::string> parts = {"e", "f", " ",        "a",
                                            "c", "d", "\xc3\xa9", "\n"};
    while (text.size() < 60000) text += parts[random() % (2 + i % 7)];
    expect_same(text);
  }
}

TEST(TokenizerModelTest, BadModelsAreRefusedAndSaidWhy) {
  EXPECT_THAT(ParseChanged([](SentencePieceModel&) {}), IsOk());
  using M = SentencePieceModel;
  const struct {
    void (*change)(M&);
    const char* reason;
  } cases[] = {
      {[](M& m) { m.model_type = 3; }, "model_type 3"},
      {[](M& m) { m.model_type = 0; }, "model_type 0"},
      {[](M& m) { m.pieces.clear(); }, "0 pieces for the unknown"},
      {[](M& m) { m.pieces[0].type = PieceType::kNormal; },
       "0 pieces for the unknown"},
      {[](M& m) { m.pieces[1].type = PieceType::kUnknown; },
       "2 pieces for the unknown"},
      {[](M& m) { m.pieces[4].text = "aa"; }, "\"aa\" is there twice"},
      {[](M& m) { m.pieces[4].text = ""; }, "piece 4 \"\" is empty"},
      {[](M& m) { m.pieces[4].text = std::string("a\0", 2); }, "NUL"},
      {[](M& m) { m.pieces[4].text = "\xff"; }, "not UTF-8"},
      {[](M& m) { m.pieces[4].text = std::string(5000, 'a'); }, "too long"},
      {[](M& m) { m.pieces[4].score = NAN; }, "finite"},
      {[](M& m) { m.pieces[4].score = -INFINITY; }, "finite"},
      {[](M& m) { m.pieces[4].score = 1e30f; }, "finite"},
      {[](M& m) { m.pieces[4].type = PieceType::kByte; }, "no byte piece"},
      {[](M& m) {
         m.pieces[4] = {"<0x41>", 0, PieceType::kByte};
       },
       "1 byte pieces"},
      {[](M& m) { m.byte_fallback = true; }, "0 byte pieces; must be 256"},
      {[](M& m) { m.treat_whitespace_as_suffix = true; },
       "treat_whitespace_as_suffix"},
      {[](M& m) { m.unk_surface = "\xff"; }, "unk_surface"},
      {[](M& m) { m.bos_piece = "\xff"; }, "special piece"},
      {[](M& m) { m.charsmap = "abc"; }, "charsmap"},
      {[](M& m) { m.charsmap = std::string("\0\0\0\0x\0", 6); }, "charsmap"},
      {[](M& m) { m.charsmap = std::string("\xff\xff\xff\xff\0\0", 6); },
       "charsmap"}};
  for (const auto& bad : cases) {
    EXPECT_THAT(ParseChanged(bad.change), StatusIs(kInvalid, bad.reason))
        << bad.reason;
  }
}

TEST(TokenizerModelTest, TypesOutsideTheFormatAreRefused) {
  std::string bytes = SerializeSentencePieceModel(SmallModel());
  const size_t type = bytes.find(std::string("\x18\x03", 2));
  ASSERT_NE(type, std::string::npos);
  bytes[type + 1] = 7;
  EXPECT_THAT(ParseTokenizer(bytes), StatusIs(kInvalid));
}

TEST(TokenizerModelTest, UserDefinedPiecesMayNotNestWithoutEnd) {
  SentencePieceModel model = SmallModel();
  for (int length = 2; length <= 32; ++length) {
    model.pieces.push_back(
        {std::string(length, 'b'), 0, PieceType::kUserDefined});
  }
  const auto tokenizer = ParseTokenizer(SerializeSentencePieceModel(model));
  ASSERT_THAT(tokenizer, IsOk());
  EXPECT_EQ((*tokenizer)->Encode(std::string(100, 'b'), false).value().size(),
            4);
  model.pieces.push_back({std::string(33, 'b'), 0, PieceType::kUserDefined});
  EXPECT_THAT(ParseTokenizer(SerializeSentencePieceModel(model)),
              StatusIs(kInvalid, "user-defined"));
}

TEST(TokenizerModelTest, ModelWithoutSpecialPiecesHasNoneInItsTexts) {
  SentencePieceModel model = SmallModel();
  model.bos_piece = "<begin>";
  model.eos_piece = "a";  // not a control piece
  const auto tokenizer =
      ParseTokenizer(SerializeSentencePieceModel(model)).value();
  EXPECT_EQ(tokenizer->bos_id(), -1);
  EXPECT_EQ(tokenizer->eos_id(), -1);
  EXPECT_THAT(tokenizer->Encode("a", true).value(), ElementsAre(3, 4));
}

TEST(TokenizerModelTest, UnknownSurfaceIsTheModels) {
  SentencePieceModel model = SmallModel();
  model.unk_surface = "?";
  const auto tokenizer =
      ParseTokenizer(SerializeSentencePieceModel(model)).value();
  EXPECT_EQ(tokenizer->Decode({4, 0, 4}).value(), "a?a");
  EXPECT_EQ(Stream(*tokenizer, true, {4, 0, 4}), "a?a");
}

TEST(TokenizerModelTest, StreamingFollowsTheRulesForSpacesOfTheModel) {
  std::mt19937 random(13);
  for (int bits = 0; bits < 8; ++bits) {
    SentencePieceModel model = SmallModel();
    model.add_dummy_prefix = bits & 1;
    model.remove_extra_whitespaces = bits & 2;
    model.escape_whitespaces = bits & 4;
    if (!model.escape_whitespaces) model.pieces[5].text = " ";
    const auto tokenizer =
        ParseTokenizer(SerializeSentencePieceModel(model)).value();
    for (int i = 0; i < 2000; ++i) {
      std::vector<int32_t> ids(1 + random() % 6);
      for (int32_t& id : ids) id = random() % model.pieces.size();
      ASSERT_EQ(Stream(*tokenizer, true, ids), tokenizer->Decode(ids).value())
          << bits << " " << json(ids).dump();
    }
  }
}

TEST(TokenizerModelTest, WritingAndReadingGiveTheSameModel) {
  for (const std::string name : {"bpe", "unigram"}) {
    const auto model = ParseSentencePieceModel(ReadWhole(ModelPath(name)));
    ASSERT_THAT(model, IsOk());
    const std::string bytes = SerializeSentencePieceModel(*model);
    EXPECT_EQ(
        SerializeSentencePieceModel(ParseSentencePieceModel(bytes).value()),
        bytes);
    EXPECT_EQ(model->charsmap.empty(), name == "bpe");
  }
}

TEST(TokenizerModelTest, DamagedCharsmapIsRefusedOrHarmless) {
  SentencePieceModel model =
      ParseSentencePieceModel(ReadWhole(ModelPath("unigram"))).value();
  const std::string good = model.charsmap;
  std::mt19937 random(14);
  std::string probe;
  for (int i = 0; i < 2000; ++i) probe += static_cast<char>(random() % 128);
  for (int c = 0xa0; c < 0x180; ++c) {
    probe +=
        {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
  }
  int accepted = 0;
  for (int i = 0; i < 400; ++i) {
    model.charsmap = good;
    for (int flips = 1 + random() % 4; flips > 0; --flips) {
      model.charsmap[random() % good.size()] = static_cast<char>(random());
    }
    const auto tokenizer = ParseTokenizer(SerializeSentencePieceModel(model));
    if (!tokenizer.ok()) continue;
    ++accepted;
    EXPECT_THAT((*tokenizer)->Encode(probe, true), IsOk());
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, 400);
}

TEST(TokenizerModelTest, DamagedFilesNeverCrash) {
  std::mt19937 random(15);
  for (const std::string name : {"bpe", "unigram"}) {
    const std::string good = ReadWhole(ModelPath(name));
    for (size_t size = 0; size < good.size(); size += 1 + size / 64) {
      (void)ParseTokenizer(good.substr(0, size));
    }
    for (int i = 0; i < 300; ++i) {
      std::string damaged = good;
      for (int flips = 1 + random() % 4; flips > 0; --flips) {
        damaged[random() % damaged.size()] = static_cast<char>(random());
      }
      const auto tokenizer = ParseTokenizer(damaged);
      if (!tokenizer.ok()) {
        EXPECT_THAT(tokenizer, StatusIs(kInvalid));
        continue;
      }
      EXPECT_THAT(
          (*tokenizer)
              ->Encode("It was the best. \xe2\x82\xac \xef\xbc\xa1", true),
          IsOk());
    }
  }
  EXPECT_THAT(ParseTokenizer(""), StatusIs(kInvalid));
  EXPECT_THAT(ParseTokenizer(std::string(1000, '\x0a')), StatusIs(kInvalid));
  EXPECT_THAT(ParseTokenizer("{\"not\": \"a model\"}"), StatusIs(kInvalid));
}

TEST(TokenizerModelTest, FileErrorsNameTheFile) {
  const TempDir dir;
  const std::string path = dir.File("tokenizer.model");
  EXPECT_THAT(LoadTokenizer(path), StatusIs(absl::StatusCode::kNotFound, path));
  WriteFile(path, "no model");
  EXPECT_THAT(LoadTokenizer(path), StatusIs(kInvalid, path));
}

}  // namespace
}  // namespace ttt
