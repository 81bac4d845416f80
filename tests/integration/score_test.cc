// What a client of Score sees, against the published numbers and against
// PyTorch on the shipped model.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

#include "nlohmann/json.hpp"
#include "tests/integration/test_server.h"
#include "tests/support/model_fixture.h"

namespace ttt {
namespace {

constexpr double kLogprobTolerance = 1e-4;
constexpr double kLossTolerance = 5e-4;  // nats

TestServerOptions ModelOptions(const std::string& folder) {
  return {.adjust = [folder](ServerOptions* options) {
    options->model_dir = folder;
    options->dummy_weights = false;
    options->precision = "fp32";
    options->max_top_logprobs = 512;
  }};
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// The greatest difference of the candidates from the log-softmax of `logits`.
double Difference(const v1::Position& position,
                  absl::Span<const float> logits) {
  double greatest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - greatest);
  const double normalizer = greatest + std::log(sum);
  EXPECT_EQ(position.top_logprobs_size(), static_cast<int>(logits.size()));
  double difference = 0;
  for (const v1::Candidate& candidate : position.top_logprobs()) {
    const double expected = logits[candidate.token_id()] - normalizer;
    difference = std::max(difference, std::abs(candidate.logprob() - expected));
  }
  return difference;
}

class ScoreGoldenTest : public testing::TestWithParam<std::string> {
 protected:
  v1::ScoreResponse Score(absl::Span<const int32_t> ids,
                          const std::string& session) {
    v1::ScoreRequest request;
    request.set_session_id(session);
    request.mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
    request.set_top_logprobs(vocab_size_);
    v1::ScoreResponse response;
    const grpc::Status status = server_.Score(request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  std::string folder_ = std::string(TTT_GOLDEN_DIR) + "/models/" + GetParam();
  std::string golden_ = folder_ + "/golden.safetensors";
  int32_t vocab_size_ = LoadModelConfig(folder_)->vocab_size;
  TestServer server_{ModelOptions(folder_)};
};

TEST_P(ScoreGoldenTest, LogprobsAreThePublishedModels) {
  for (const int n : {1, 15, 16, 17, 50, 130}) {
    const auto ids =
        ReadGolden<int32_t>(golden_, "tokens.N" + std::to_string(n));
    const auto logits =
        ReadGolden<float>(golden_, "logits.N" + std::to_string(n));
    const v1::ScoreResponse response = Score(ids, "");
    ASSERT_EQ(response.positions_size(), n);
    for (int p = 0; p < n; ++p) {
      const auto row =
          absl::MakeConstSpan(logits).subspan(p * vocab_size_, vocab_size_);
      EXPECT_LT(Difference(response.positions(p), row), kLogprobTolerance)
          << p << " of " << n;
    }
  }
}

TEST_P(ScoreGoldenTest, LogprobsFromASessionAreThePublishedModels) {
  const auto ids = ReadGolden<int32_t>(golden_, "tokens.N50");
  const auto logits = ReadGolden<float>(golden_, "cached.N50.P17.logits");
  v1::CompleteRequest read;
  read.set_session_id("s");
  read.set_create_session(true);
  read.mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.begin() + 17);
  read.mutable_sampling()->set_max_tokens(0);
  v1::CompleteResponse answer;
  ASSERT_TRUE(server_.Complete(read, &answer).ok());
  const v1::ScoreResponse response =
      Score(absl::MakeConstSpan(ids).subspan(17), "s");
  const auto row = [&](int p) {
    return absl::MakeConstSpan(logits).subspan(p * vocab_size_, vocab_size_);
  };
  EXPECT_LT(Difference(response.first(), row(16)), kLogprobTolerance);
  for (int p = 17; p < 50; ++p) {
    EXPECT_LT(Difference(response.positions(p - 17), row(p)), kLogprobTolerance)
        << p;
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, ScoreGoldenTest,
                         testing::Values("linear-hd96", "linear-mamba",
                                         "linear-transformer", "mlp-mamba",
                                         "mlp-transformer"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(ShippedModelTest, LossOfALongWindowIsThatOfPyTorch) {
  const std::string books = std::string(TTT_GOLDEN_DIR) + "/books/";
  const auto expected =
      nlohmann::json::parse(ReadFile(books + "expected.json"));
  TestServer server(ModelOptions(std::string(TTT_SOURCE_DIR) +
                                 "/models/ttt-linear-14m-books"));
  v1::TokenizeRequest text;
  text.set_text(ReadFile(books + "winesburg_ohio.txt"));
  text.set_at_start(true);
  v1::TokenizeResponse ids;
  grpc::ClientContext context;
  ASSERT_TRUE(server.tokenizer().Tokenize(&context, text, &ids).ok());
  const int count = expected["token_ids"];
  ASSERT_GE(ids.ids_size(), count);
  for (size_t i = 0; i < expected["first_ids"].size(); ++i) {
    EXPECT_EQ(ids.ids(static_cast<int>(i)), expected["first_ids"][i]);
  }

  v1::ScoreRequest request;
  request.mutable_token_ids()->mutable_ids()->Add(ids.ids().begin(),
                                                  ids.ids().begin() + count);
  v1::ScoreResponse response;
  ASSERT_TRUE(server.Score(request, &response).ok());
  ASSERT_EQ(response.positions_size(), count);
  double total = 0;
  const auto& means = expected["mean_nats_per_1024"];
  for (size_t part = 0; part < means.size(); ++part) {
    double sum = 0;
    for (int i = 0; i < 1024; ++i) {
      sum -= response.positions(static_cast<int>(part) * 1024 + i).logprob();
    }
    EXPECT_NEAR(sum / 1024, means[part].get<double>(), kLossTolerance) << part;
    total += sum;
  }
  EXPECT_NEAR(total / (count - 1), expected["mean_nats"].get<double>(),
              kLossTolerance);
}

}  // namespace
}  // namespace ttt
