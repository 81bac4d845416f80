// EndSequences, EmbedTokens, SaveHidden and GatherHidden.
#include <cstring>

#include "tests/kernels/op_test.h"

namespace ttt {
namespace {

using testing::ElementsAre;

class CopyOpsTest : public testing::TestWithParam<BackendKind> {
 protected:
  const std::unique_ptr<Backend> backend_ = MakeBackend(GetParam());
};

TEST_P(CopyOpsTest, EmbedTokensReadsTheTableAndFillsTheRing) {
  constexpr int32_t kVocabSize = 11;
  constexpr int32_t kHiddenSize = 24;
  const Floats table =
      ToFloats(ToBFloat16(Random(kVocabSize * kHiddenSize, 1)));
  Array<float> floats(*backend_, table);
  Array<uint16_t> halves(*backend_, ToBFloat16(table));
  const std::vector<int32_t> tokens = {10, 0, 3, 3, 7};
  Array<int32_t> ids(*backend_, tokens);
  // Slot 1 goes over the end of its ring.
  StepArrays rows(
      *backend_,
      {{0, 3, 1, 3 * kTokenRingSize - 1}, {3, 0, 2, 0}, {3, 2, 0, 5}});
  for (const Operand& operand : {Operand{floats.data(), DType::kFloat32},
                                 Operand{halves.data(), DType::kBFloat16}}) {
    Array<int32_t> ring(*backend_,
                        std::vector<int32_t>(3 * kTokenRingSize, -1));
    Array<float> hidden(*backend_, Floats(tokens.size() * kHiddenSize));
    ASSERT_THAT(backend_->EmbedTokens({.rows = rows.rows(),
                                       .token_ids = ids.data(),
                                       .chosen_ids = nullptr,
                                       .table = operand,
                                       .hidden = hidden.data(),
                                       .ring = ring.Plane(3),
                                       .vocab_size = kVocabSize,
                                       .hidden_size = kHiddenSize}),
                IsOk());
    for (size_t row = 0; row < tokens.size(); ++row) {
      EXPECT_EQ(Part(hidden.Read(), row * kHiddenSize, kHiddenSize),
                Part(table, tokens[row] * kHiddenSize, kHiddenSize));
    }
    std::vector<int32_t> wanted(3 * kTokenRingSize, -1);
    wanted[kTokenRingSize + kTokenRingSize - 1] = 10;
    wanted[kTokenRingSize] = 0;
    wanted[kTokenRingSize + 1] = 3;
    wanted[5] = 3;
    wanted[6] = 7;
    EXPECT_EQ(ring.Read(), wanted);
  }
}

TEST_P(CopyOpsTest, AReadbackHasWhatWasThereWhenItWasQueued) {
  Array<int32_t> device(*backend_, {1, 2, 3, 4});
  const auto readback = backend_->CreateReadback(24).value();
  ASSERT_EQ(readback->size_bytes(), 24);
  ASSERT_THAT(readback->Wait(), IsOk());
  for (int32_t round = 0; round < 3; ++round) {
    const std::vector<int32_t> ids = {round, 6, 7, 8};
    ASSERT_THAT(backend_->CopyToDevice(device.data(), ids.data(), 16), IsOk());
    ASSERT_THAT(readback->Copy(0, device.data() + 2, 8), IsOk());
    ASSERT_THAT(readback->Copy(8, device.data(), 16), IsOk());
    const std::vector<int32_t> later(4, -1);
    ASSERT_THAT(backend_->CopyToDevice(device.data(), later.data(), 16),
                IsOk());
    ASSERT_THAT(readback->Wait(), IsOk());
    std::vector<int32_t> read(6);
    std::memcpy(read.data(), readback->data(), 24);
    EXPECT_THAT(read, ElementsAre(7, 8, round, 6, 7, 8));
  }
}

TEST_P(CopyOpsTest, CopiesOfAllSizesAreWhole) {
  constexpr int32_t kMost = 40000;
  Array<int32_t> device(*backend_, std::vector<int32_t>(kMost));
  const auto readback =
      backend_->CreateReadback(kMost * int64_t{sizeof(int32_t)}).value();
  int32_t next = 0;
  for (const int32_t count :
       {0, 1, 3, 4, 5, 1020, 1024, 1028, 2047, 16380, 16384, 16388, kMost}) {
    std::vector<int32_t> ids(count);
    for (int32_t& id : ids) id = ++next;
    const int64_t bytes = count * int64_t{sizeof(int32_t)};
    ASSERT_THAT(backend_->CopyToDevice(device.data(), ids.data(), bytes),
                IsOk());
    ASSERT_THAT(readback->Copy(0, device.data(), bytes), IsOk());
    ASSERT_THAT(readback->Wait(), IsOk());
    const auto* const from = reinterpret_cast<const int32_t*>(readback->data());
    EXPECT_EQ(std::vector<int32_t>(from, from + count), ids);
  }
}

TEST_P(CopyOpsTest, EmbedTokensReadsWhatWasChosenBefore) {
  constexpr int32_t kVocabSize = 11;
  constexpr int32_t kHiddenSize = 8;
  const Floats table = Random(kVocabSize * kHiddenSize, 1);
  Array<float> floats(*backend_, table);
  // The third choice is of a row that was not finite.
  Array<int32_t> chosen(*backend_, {4, 9, kNoToken, kVocabSize});
  Array<int32_t> ids(*backend_, {-2, 5, -1, -3, -4});
  StepArrays rows(
      *backend_,
      {{0, 1, 0, 7}, {1, 1, 1, 0}, {2, 1, 2, 3}, {3, 1, 3, 0}, {4, 1, 4, 0}});
  Array<int32_t> ring(*backend_, std::vector<int32_t>(5 * kTokenRingSize, -1));
  Array<float> hidden(*backend_, Floats(5 * kHiddenSize));
  ASSERT_THAT(backend_->EmbedTokens({.rows = rows.rows(),
                                     .token_ids = ids.data(),
                                     .chosen_ids = chosen.data(),
                                     .table = {floats.data(), DType::kFloat32},
                                     .hidden = hidden.data(),
                                     .ring = ring.Plane(5),
                                     .vocab_size = kVocabSize,
                                     .hidden_size = kHiddenSize}),
              IsOk());
  const std::vector<int32_t> wanted = {9, 5, 4, 0, 0};
  const std::vector<int32_t> places = {7, 0, 3, 0, 0};
  for (size_t row = 0; row < wanted.size(); ++row) {
    EXPECT_EQ(Part(hidden.Read(), row * kHiddenSize, kHiddenSize),
              Part(table, wanted[row] * kHiddenSize, kHiddenSize));
    EXPECT_EQ(ring.Read()[row * kTokenRingSize + places[row]], wanted[row]);
  }
}

TEST_P(CopyOpsTest, TheRingOfASequenceThatHasEndedStaysAsItIs) {
  Array<int32_t> ids(*backend_, {3, 4, 5});
  Array<float> table(*backend_, Random(7 * 8, 1));
  Array<float> hidden(*backend_, Floats(3 * 8));
  StepArrays rows(*backend_, {{0, 1, 0, 2}, {1, 1, 1, 2}, {2, 1, 2, 2}},
                  /*ended_slot=*/1);
  Array<int32_t> ring(*backend_, std::vector<int32_t>(3 * kTokenRingSize, -1));
  ASSERT_THAT(backend_->EmbedTokens({.rows = rows.rows(),
                                     .token_ids = ids.data(),
                                     .chosen_ids = nullptr,
                                     .table = {table.data(), DType::kFloat32},
                                     .hidden = hidden.data(),
                                     .ring = ring.Plane(3),
                                     .vocab_size = 7,
                                     .hidden_size = 8}),
              IsOk());
  std::vector<int32_t> wanted(3 * kTokenRingSize, -1);
  wanted[2] = 3;
  wanted[2 * kTokenRingSize + 2] = 5;
  EXPECT_EQ(ring.Read(), wanted);
}

std::vector<int32_t> NumRows(const Array<SequenceRows>& sequences) {
  std::vector<int32_t> counts;
  for (const SequenceRows& rows : sequences.Read()) {
    // Nothing else has changed.
    const auto i = int32_t(counts.size());
    EXPECT_EQ(rows.first_row, i);
    EXPECT_EQ(rows.slot, i);
    EXPECT_EQ(rows.position, 40 + i);
    counts.push_back(rows.num_rows);
  }
  return counts;
}

TEST_P(CopyOpsTest, EndSequencesTakesTheRowsOfThoseThatHaveEnded) {
  constexpr int kSequences = 300;  // of more than a block
  std::vector<SequenceRows> sequences;
  std::vector<int32_t> before, wanted;
  std::vector<uint8_t> have_ended;
  for (int32_t i = 0; i < kSequences; ++i) {
    sequences.push_back({i, 1, i, 40 + i});
    before.push_back(i % 5 == 0 ? -1 : (i * 7) % kSequences);
    have_ended.push_back(i % 2);
    wanted.push_back(before[i] >= 0 && before[i] % 2 == 1 ? 0 : 1);
  }
  Array<SequenceRows> rows(*backend_, sequences);
  Array<int32_t> places(*backend_, before);
  Array<uint8_t> ended(*backend_, have_ended);
  ASSERT_THAT(backend_->EndSequences({.sequences = rows.data(),
                                      .before = places.data(),
                                      .ended = ended.data(),
                                      .batch = kSequences}),
              IsOk());
  EXPECT_EQ(NumRows(rows), wanted);
  EXPECT_EQ(ended.Read(), have_ended);
}

TEST_P(CopyOpsTest, EmbedTokensTellsWhichSequencesHaveEnded) {
  constexpr int kSequences = 40;
  constexpr int32_t kVocabSize = 1000;
  std::vector<SequenceRows> sequences, next;
  std::vector<int32_t> token_ids, row_sequence, stop_begin = {0}, stop_ids;
  std::vector<int32_t> wanted_rows;
  std::vector<uint8_t> wanted;
  for (int32_t i = 0; i < kSequences; ++i) {
    const bool had_ended = i % 5 == 1;
    const bool stops = i % 4 == 0;
    sequences.push_back({i, had_ended ? 0 : 1, i, 39 + i});
    next.push_back({i, i % 7 == 3 ? 0 : 1, i, 40 + i});
    row_sequence.push_back(i);
    // Chosen ids count up from 0; every third is the host's own.
    const int32_t id = i % 3 == 0 ? i : kSequences - 1 - i;
    token_ids.push_back(i % 3 == 0 ? id : -1 - id);
    for (int n = 0; n < 40 * (i % 9); ++n) stop_ids.push_back(id + 1 + n);
    if (stops) stop_ids.push_back(id);
    stop_begin.push_back(int32_t(stop_ids.size()));
    wanted.push_back(had_ended || stops ? 1 : 0);
    wanted_rows.push_back(had_ended || stops ? 0 : next[i].num_rows);
  }
  std::vector<int32_t> chosen(kSequences);
  for (int32_t i = 0; i < kSequences; ++i) chosen[i] = i;
  Array<SequenceRows> rows(*backend_, sequences), next_rows(*backend_, next);
  Array<int32_t> indices(*backend_, row_sequence), ids(*backend_, token_ids);
  Array<int32_t> chosen_ids(*backend_, chosen);
  Array<int32_t> begins(*backend_, stop_begin), stops(*backend_, stop_ids);
  Array<float> table(*backend_, Random(kVocabSize * 8, 1));
  Array<float> hidden(*backend_, Floats(kSequences * 8));
  Array<int32_t> ring(*backend_,
                      std::vector<int32_t>(kSequences * kTokenRingSize));
  for (const bool is_last : {true, false}) {
    Array<uint8_t> ended(*backend_, std::vector<uint8_t>(kSequences, 9));
    ASSERT_THAT(
        backend_->EmbedTokens(
            {.rows = {rows.data(), indices.data(), kSequences, kSequences},
             .token_ids = ids.data(),
             .chosen_ids = chosen_ids.data(),
             .table = {table.data(), DType::kFloat32},
             .hidden = hidden.data(),
             .ring = ring.Plane(kSequences),
             .vocab_size = kVocabSize,
             .hidden_size = 8,
             .ended = ended.data(),
             .stop_begin = begins.data(),
             .stop_ids = stops.data(),
             .next_sequences = is_last ? nullptr : next_rows.data()}),
        IsOk());
    EXPECT_EQ(ended.Read(), wanted);
  }
  EXPECT_EQ(NumRows(next_rows), wanted_rows);
}

TEST_P(CopyOpsTest, TheRingKeepsTheLastOfMoreTokensThanItHolds) {
  constexpr int kTokens = kTokenRingSize + 10;
  std::vector<int32_t> tokens(kTokens);
  for (int i = 0; i < kTokens; ++i) tokens[i] = i % 50;
  Array<int32_t> ids(*backend_, tokens);
  Array<float> table(*backend_, Random(50 * 8, 1));
  Array<float> hidden(*backend_, Floats(kTokens * 8));
  Array<int32_t> ring(*backend_, std::vector<int32_t>(kTokenRingSize));
  StepArrays rows(*backend_, {{0, kTokens, 0, 0}});
  ASSERT_THAT(backend_->EmbedTokens({.rows = rows.rows(),
                                     .token_ids = ids.data(),
                                     .chosen_ids = nullptr,
                                     .table = {table.data(), DType::kFloat32},
                                     .hidden = hidden.data(),
                                     .ring = ring.Plane(1),
                                     .vocab_size = 50,
                                     .hidden_size = 8}),
              IsOk());
  for (int i = 10; i < kTokens; ++i) {
    ASSERT_EQ(ring.Read()[i % kTokenRingSize], tokens[i]);
  }
}

TEST_P(CopyOpsTest, SaveHiddenKeepsLastRowsAndSeesWhatIsNotFinite) {
  constexpr int32_t kHiddenSize = 40;
  Floats hidden = Random(6 * kHiddenSize, 1);
  hidden[1 * kHiddenSize] = NAN;  // Not a last row.
  hidden[5 * kHiddenSize + 39] = INFINITY;
  Array<float> input(*backend_, hidden);
  StepArrays rows(*backend_,
                  {{0, 3, 2, 0}, {3, 0, 1, 0}, {3, 2, 0, 0}, {5, 1, 3, 0}});
  Array<float> last(*backend_, Floats(4 * kHiddenSize, 5.0f));
  Array<uint8_t> finite(*backend_, std::vector<uint8_t>(4, 9));
  ASSERT_THAT(backend_->SaveHidden({.rows = rows.rows(),
                                    .hidden = input.data(),
                                    .last_hidden = last.Plane(4),
                                    .finite = finite.data(),
                                    .hidden_size = kHiddenSize}),
              IsOk());
  EXPECT_THAT(finite.Read(), ElementsAre(1, 1, 1, 0));
  const Floats saved = last.Read();
  const auto slot = [&](int i) {
    return Part(saved, i * kHiddenSize, kHiddenSize);
  };
  EXPECT_EQ(slot(2), Part(hidden, 2 * kHiddenSize, kHiddenSize));
  EXPECT_EQ(slot(1), Floats(kHiddenSize, 5.0f));
  EXPECT_EQ(slot(0), Part(hidden, 4 * kHiddenSize, kHiddenSize));
  EXPECT_EQ(slot(3), Part(hidden, 5 * kHiddenSize, kHiddenSize));
}

TEST_P(CopyOpsTest, GatherHiddenTakesRowsOfTheStepOrKeptOnes) {
  constexpr int32_t kHiddenSize = 16;
  const Floats hidden = Random(3 * kHiddenSize, 1);
  const Floats kept = Random(2 * kHiddenSize, 2);
  Array<float> input(*backend_, hidden);
  Array<float> last(*backend_, kept);
  Array<int32_t> rows(*backend_, {2, -1, 0});
  Array<int32_t> slots(*backend_, {-1, 1, -1});
  Array<float> output(*backend_, Floats(3 * kHiddenSize));
  ASSERT_THAT(backend_->GatherHidden({.hidden = input.data(),
                                      .last_hidden = last.Plane(2),
                                      .rows = rows.data(),
                                      .slots = slots.data(),
                                      .output = output.data(),
                                      .num_rows = 3,
                                      .hidden_size = kHiddenSize}),
              IsOk());
  const Floats gathered = output.Read();
  EXPECT_EQ(Part(gathered, 0, kHiddenSize),
            Part(hidden, 2 * kHiddenSize, kHiddenSize));
  EXPECT_EQ(Part(gathered, kHiddenSize, kHiddenSize),
            Part(kept, kHiddenSize, kHiddenSize));
  EXPECT_EQ(Part(gathered, 2 * kHiddenSize, kHiddenSize),
            Part(hidden, 0, kHiddenSize));
}

INSTANTIATE_TEST_SUITE_P(Backends, CopyOpsTest,
                         testing::ValuesIn(AllBackendKinds()), BackendKindName);

TEST(BFloat16Test, RoundsToNearestEven) {
  const auto round = [](float x) {
    return BFloat16ToFloat(FloatToBFloat16(x));
  };
  EXPECT_EQ(round(1.0f), 1.0f);
  EXPECT_EQ(round(-0.0f), 0.0f);
  EXPECT_TRUE(std::signbit(round(-0.0f)));
  EXPECT_EQ(round(1.0f + 0x1p-8f), 1.0f);                // A tie, to even.
  EXPECT_EQ(round(1.0f + 3 * 0x1p-8f), 1.0f + 0x1p-6f);  // A tie, to even.
  EXPECT_EQ(round(1.0f + 0x1.02p-8f), 1.0f + 0x1p-7f);
  EXPECT_EQ(round(3.4e38f), INFINITY);
  EXPECT_EQ(round(INFINITY), INFINITY);
  EXPECT_TRUE(std::isnan(round(NAN)));
  EXPECT_TRUE(std::isnan(round(std::bit_cast<float>(0x7f800001u))));
}

}  // namespace
}  // namespace ttt
