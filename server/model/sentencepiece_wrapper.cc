#include "server/model/sentencepiece_wrapper.h"

#include <sentencepiece_processor.h>

#include <exception>
#include <utility>

namespace ttt {

struct SentencePieceWrapper::Impl {
  sentencepiece::SentencePieceProcessor processor;
};

namespace {

// Runs a call of the library; exceptions, which its trie throws, end here.
template <typename Call>
bool Run(const Call& call, std::string* error) {
  try {
    const sentencepiece::util::Status status = call();
    if (status.ok()) return true;
    *error = status.ToString();
  } catch (const std::exception& exception) {
    *error = exception.what();
  }
  return false;
}

}  // namespace

std::unique_ptr<SentencePieceWrapper> SentencePieceWrapper::Load(
    const std::string& model, std::string* error) {
  auto impl = std::make_unique<Impl>();
  if (!Run([&] { return impl->processor.LoadFromSerializedProto(model); },
           error)) {
    return nullptr;
  }
  return std::unique_ptr<SentencePieceWrapper>(
      new SentencePieceWrapper(std::move(impl)));
}

SentencePieceWrapper::SentencePieceWrapper(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)) {}

SentencePieceWrapper::~SentencePieceWrapper() = default;

bool SentencePieceWrapper::Encode(std::string_view text, std::vector<int>* ids,
                                  std::string* error) const {
  return Run([&] { return impl_->processor.Encode(text, ids); }, error);
}

bool SentencePieceWrapper::Decode(const std::vector<int>& ids,
                                  std::string* text, std::string* error) const {
  return Run([&] { return impl_->processor.Decode(ids, text); }, error);
}

int SentencePieceWrapper::num_pieces() const {
  return impl_->processor.GetPieceSize();
}
int SentencePieceWrapper::bos_id() const { return impl_->processor.bos_id(); }
int SentencePieceWrapper::eos_id() const { return impl_->processor.eos_id(); }

}  // namespace ttt
